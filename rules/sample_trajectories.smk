rule sample_trajectories:
    input:
        base=base_files,
        prompts=prompts("trajectories"),
    output:
        "results/{model}/seed{seed}/trajectories/{source}/{chunk}.zarr.zip",
    log:
        "results/logs/sample_trajectories/{model}/seed{seed}/{source}/{chunk}.log",
    benchmark:
        "results/benchmarks/sample_trajectories/{model}/seed{seed}/{source}/{chunk}.tsv"
    conda:
        "../envs/agd.yaml"
    resources:
        gpu=gpu("sample_trajectories"),
    params:
        version=VERSIONS["sample_trajectories"],
        door=door("sample_trajectories"),
        base=base,
        prompts=prompt_option,
        chunk=chunk("sample_trajectories"),
        what=what("sample_trajectories"),
        how=how("sample_trajectories"),
    shell:
        "python -m {params.door} --output-dir $(dirname {output}) --base-model {params.base:q} --seed {wildcards.seed}"
        " {params.prompts} {params.chunk} {params.what} {params.how} 2>&1 | tee {log}"
