rule train:
    input:
        base=base_files,
        shards=shard_records,
    output:
        weights="results/{model}/seed{seed}/adapters/{adapter}/adapter.safetensors",
        config="results/{model}/seed{seed}/adapters/{adapter}/config.json",
        table="results/{model}/seed{seed}/adapters/{adapter}/training.csv",
        cost="results/{model}/seed{seed}/adapters/{adapter}/cost.json",
    log:
        "results/logs/train/{model}/seed{seed}/{adapter}.log",
    benchmark:
        "results/benchmarks/train/{model}/seed{seed}/{adapter}.tsv"
    conda:
        "../envs/agd.yaml"
    # Two trainings with two threads each, on two cores, wait for each other: 2.5 times as long as with one each.
    threads: threads("train", on_cpu=1)
    resources:
        gpu=gpu("train"),
    params:
        offline=offline,
        record=base_record,
        own_gpus=own_gpus("train"),
        version=VERSIONS["train"],
        launcher=launcher("train"),
        module=stage_module("train"),
        base=base,
        shards=shards,
        result=result_settings("train"),
        execution=execution_settings("train"),
    shell:
        "{params.offline}{params.own_gpus}python -m {params.launcher} {params.module} --dir $(dirname {output.weights}) --data-path {params.shards} --base-model {params.base:q} {params.record}"
        " --seed {wildcards.seed} {params.result} {params.execution} 2>&1 | tee {log}"
