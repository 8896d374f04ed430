rule prepare_base:
    # It needs the internet if the base is on the hub, and no GPU. Later jobs never connect.
    input:
        local_base_files,
    output:
        results.BASE_RECORD,
    log:
        "results/logs/prepare_base/{model}.log",
    benchmark:
        "results/benchmarks/prepare_base/{model}.tsv"
    wildcard_constraints:
        model="|".join(filterfalse(trained_here, config["models"])) or "(?!)",
    localrule: True
    conda:
        "../envs/agd.yaml"
    params:
        version=VERSIONS["prepare_base"],
        base=base,
    shell:
        "python -m agd.prepare_base --base-model {params.base:q} --output {output} 2>&1 | tee {log}"
