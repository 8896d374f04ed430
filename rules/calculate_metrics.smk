rule calculate_metrics:
    input:
        samples=sample_records,
        reference="results/{model}/reference.json",
        weights=features_weights,
        clip=clip_files,
    output:
        "results/{model}/seed{seed}/metrics/{method}/w{scale}/n{steps}.json",
    log:
        "results/logs/calculate_metrics/{model}/seed{seed}/{method}/w{scale}/n{steps}.log",
    benchmark:
        "results/benchmarks/calculate_metrics/{model}/seed{seed}/{method}/w{scale}/n{steps}.tsv"
    conda:
        "../envs/agd.yaml"
    threads: threads("calculate_metrics", on_cpu=1)
    resources:
        gpu=gpu("calculate_metrics"),
    params:
        own_gpus=own_gpus("calculate_metrics"),
        version=VERSIONS["calculate_metrics"],
        module=stage_module("calculate_metrics"),
        samples=samples,
        result=result_settings("calculate_metrics"),
        execution=execution_settings("calculate_metrics"),
    shell:
        "{params.own_gpus}python -m {params.module} --samples {params.samples} --ref results/{wildcards.model}/reference.npz --output {output}"
        " {params.result} {params.execution} 2>&1 | tee {log}"
