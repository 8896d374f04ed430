rule sample_trajectories:
    input:
        base=base_files,
        prompts=prompts("trajectories"),
        images=images_to_noise,
    output:
        shard="results/{model}/seed{seed}/trajectories/{source}/{chunk}.zarr.zip",
        record="results/{model}/seed{seed}/trajectories/{source}/{chunk}.zarr.json",
    log:
        "results/logs/sample_trajectories/{model}/seed{seed}/{source}/{chunk}.log",
    benchmark:
        "results/benchmarks/sample_trajectories/{model}/seed{seed}/{source}/{chunk}.tsv"
    conda:
        "../envs/agd.yaml"
    resources:
        gpu=gpu("sample_trajectories"),
    params:
        offline=offline,
        record=base_record,
        own_gpus=own_gpus("sample_trajectories"),
        version=VERSIONS["sample_trajectories"],
        module=stage_module("sample_trajectories"),
        base=base,
        prompts=prompt_option,
        images=images_option,
        chunk=chunk("sample_trajectories"),
        result=result_settings("sample_trajectories"),
        execution=execution_settings("sample_trajectories"),
    shell:
        "{params.offline}{params.own_gpus}python -m {params.module} --output-dir $(dirname {output.shard}) --base-model {params.base:q} {params.record} --seed {wildcards.seed}"
        " {params.prompts} {params.images} {params.chunk} {params.result} {params.execution} 2>&1 | tee {log}"
