rule sample:
    input:
        base=base_files,
        prompts=prompts("samples"),
        adapter=adapter_record,
        guide=guide_files,
    output:
        images="results/{model}/seed{seed}/samples/{method}/w{scale}/n{steps}/{chunk}.zip",
        cost="results/{model}/seed{seed}/samples/{method}/w{scale}/n{steps}/{chunk}.json",
    log:
        "results/logs/sample/{model}/seed{seed}/{method}/w{scale}/n{steps}/{chunk}.log",
    benchmark:
        "results/benchmarks/sample/{model}/seed{seed}/{method}/w{scale}/n{steps}/{chunk}.tsv"
    conda:
        "../envs/agd.yaml"
    resources:
        gpu=gpu("sample"),
    params:
        offline=offline,
        record=base_record,
        own_gpus=own_gpus("sample"),
        version=VERSIONS["sample"],
        module=stage_module("sample"),
        base=base,
        guidance=guidance("sample"),
        prompts=prompt_option,
        chunk=chunk("sample"),
        result=result_settings(
            "sample", without=schema.cfg_settings("sample"), guidance_scale="scale", num_inference_steps="steps"
        ),
        execution=execution_settings("sample"),
    shell:
        "{params.offline}{params.own_gpus}python -m {params.module} {params.guidance} --output-dir $(dirname {output.images}) --base-model {params.base:q} {params.record}"
        " --seed {wildcards.seed} {params.prompts} {params.chunk} {params.result} {params.execution} 2>&1 | tee {log}"
