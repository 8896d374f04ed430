rule download:
    output:
        "results/downloads/{file}",
    log:
        "results/logs/download/{file}.log",
    benchmark:
        "results/benchmarks/download/{file}.tsv"
    wildcard_constraints:
        file="|".join(name.replace(".", r"\.") for name in ADDRESSES),
    localrule: True
    conda:
        "../envs/agd.yaml"
    params:
        url=address,
    shell:
        "python -m agd.download --url {params.url} --output {output} 2>&1 | tee {log}"
