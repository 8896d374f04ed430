rule measure_fidelity:
    input:
        base=base_files,
        prompts=prompts("samples"),
        adapter=adapter_record,
    output:
        "results/{model}/seed{seed}/fidelity/{method}.json",
    log:
        "results/logs/measure_fidelity/{model}/seed{seed}/{method}.log",
    benchmark:
        "results/benchmarks/measure_fidelity/{model}/seed{seed}/{method}.tsv"
    conda:
        "../envs/agd.yaml"
    resources:
        gpu=gpu("measure_fidelity"),
    params:
        offline=offline,
        record=base_record,
        own_gpus=own_gpus("measure_fidelity"),
        version=VERSIONS["measure_fidelity"],
        module=stage_module("measure_fidelity"),
        base=base,
        guidance=guidance("measure_fidelity"),
        prompts=prompt_option,
        scales=scales_to_measure,
        result=result_settings(
            "measure_fidelity", without=["guidance_scales", *schema.cfg_settings("measure_fidelity")]
        ),
        execution=execution_settings("measure_fidelity"),
    shell:
        "{params.offline}{params.own_gpus}python -m {params.module} {params.guidance} --output {output} --base-model {params.base:q} {params.record}"
        " --seed {wildcards.seed} {params.prompts} {params.scales} {params.result} {params.execution} 2>&1 | tee {log}"
