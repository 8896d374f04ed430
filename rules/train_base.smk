rule train_base:
    output:
        expand("results/{{model}}/base/{file}", file=BASE_FILES),
    log:
        "results/logs/train_base/{model}.log",
    benchmark:
        "results/benchmarks/train_base/{model}.tsv"
    wildcard_constraints:
        model="|".join(TRAINED_MODELS),
    conda:
        "../envs/agd.yaml"
    threads: 2
    resources:
        gpu=gpu("train_base"),
    params:
        version=VERSIONS["train_base"],
        what=what("train_base"),
        how=how("train_base"),
    shell:
        "python -m agd.digits.train_base --output-dir results/{wildcards.model}/base {params.what} {params.how} 2>&1 | tee {log}"
