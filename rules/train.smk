rule train:
    input:
        base=base_files,
        shards=shards,
    output:
        weights="results/{model}/seed{seed}/adapters/{adapter}/adapter.safetensors",
        config="results/{model}/seed{seed}/adapters/{adapter}/config.json",
        table="results/{model}/seed{seed}/adapters/{adapter}/training.csv",
    log:
        "results/logs/train/{model}/seed{seed}/{adapter}.log",
    benchmark:
        "results/benchmarks/train/{model}/seed{seed}/{adapter}.tsv"
    conda:
        "../envs/agd.yaml"
    threads: 2
    resources:
        gpu=gpu("train"),
    params:
        version=VERSIONS["train"],
        launcher=launcher("train"),
        door=door("train"),
        base=base,
        what=what("train"),
        how=how("train"),
    shell:
        "python -m {params.launcher} {params.door} --dir $(dirname {output.weights}) --data-path {input.shards} --base-model {params.base:q}"
        " --seed {wildcards.seed} {params.what} {params.how} 2>&1 | tee {log}"
