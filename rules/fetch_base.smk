rule fetch_base:
    # Weights from the hub, by a job that needs the internet and no GPU. Later jobs read the hub's cache, and never connect.
    output:
        FETCHED_BASE,
    log:
        "results/logs/fetch_base/{model}.log",
    benchmark:
        "results/benchmarks/fetch_base/{model}.tsv"
    wildcard_constraints:
        model="|".join(filter(on_the_hub, config["models"])) or "(?!)",
    localrule: True
    conda:
        "../envs/agd.yaml"
    params:
        version=VERSIONS["fetch_base"],
        base=base,
    shell:
        "python -m agd.fetch_base --base-model {params.base:q} --output {output} 2>&1 | tee {log}"
