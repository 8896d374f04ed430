rule train_base:
    input:
        continues=continued_base,
    output:
        expand("results/{{model}}/base/{file}", file=BASE_FILES["dit"]),
    log:
        "results/logs/train_base/{model}.log",
    benchmark:
        "results/benchmarks/train_base/{model}.tsv"
    wildcard_constraints:
        model=trained("dit"),
    # First: where others take one thread each, two are never free at once, and all that needs this base would come last.
    priority: 1
    conda:
        "../envs/agd.yaml"
    threads: 2
    resources:
        gpu=gpu("train_base"),
    params:
        own_gpus=own_gpus("train_base"),
        version=VERSIONS["train_base"],
        result=result_settings("train_base"),
        execution=execution_settings("train_base"),
    shell:
        "{params.own_gpus}python -m agd.digits.train_base --output-dir results/{wildcards.model}/base {params.result} {params.execution} 2>&1 | tee {log}"


use rule train_base as train_base_sd with:
    output:
        expand("results/{{model}}/base/{file}", file=BASE_FILES["sd"]),
    wildcard_constraints:
        model=trained("sd"),


use rule train_base as train_base_sdxl with:
    output:
        expand("results/{{model}}/base/{file}", file=BASE_FILES["sdxl"]),
    wildcard_constraints:
        model=trained("sdxl"),
