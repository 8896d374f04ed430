rule measure_speed:
    input:
        base=base_files,
        prompts=prompts("samples"),
        adapter=timed_adapter,
        others=other_timed_adapters,
    output:
        "results/{model}/seed{seed}/speed/{method}.json",
    log:
        "results/logs/measure_speed/{model}/seed{seed}/{method}.log",
    benchmark:
        "results/benchmarks/measure_speed/{model}/seed{seed}/{method}.tsv"
    conda:
        "../envs/agd.yaml"
    resources:
        gpu=gpu("measure_speed"),
    params:
        offline=offline,
        record=base_record,
        own_gpus=own_gpus("measure_speed"),
        version=VERSIONS["measure_speed"],
        module=stage_module("measure_speed"),
        base=base,
        folder=adapter_folder,
        prompts=prompt_option,
        methods=other_methods,
        result=result_settings("measure_speed"),
        execution=execution_settings("measure_speed"),
    shell:
        "{params.offline}{params.own_gpus}python -m {params.module} --dir {params.folder} --output {output} --base-model {params.base:q} {params.record}"
        " --seed {wildcards.seed} {params.prompts} {params.methods} {params.result} {params.execution} 2>&1 | tee {log}"
