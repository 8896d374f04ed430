rule measure_fidelity:
    input:
        base=base_files,
        prompts=prompts("samples"),
        adapter=expand(
            "results/{{model}}/seed{{seed}}/adapters/{{adapter}}/{file}", file=["adapter.safetensors", "config.json"]
        ),
    output:
        "results/{model}/seed{seed}/fidelity/{adapter}.json",
    log:
        "results/logs/measure_fidelity/{model}/seed{seed}/{adapter}.log",
    benchmark:
        "results/benchmarks/measure_fidelity/{model}/seed{seed}/{adapter}.tsv"
    conda:
        "../envs/agd.yaml"
    resources:
        gpu=gpu("measure_fidelity"),
    params:
        own_gpus=own_gpus("measure_fidelity"),
        version=VERSIONS["measure_fidelity"],
        module=stage_module("measure_fidelity"),
        base=base,
        prompts=prompt_option,
        result=result_settings("measure_fidelity"),
        execution=execution_settings("measure_fidelity"),
    shell:
        "{params.own_gpus}python -m {params.module} --dir $(dirname {input.adapter[0]}) --output {output} --base-model {params.base:q}"
        " --seed {wildcards.seed} {params.prompts} {params.result} {params.execution} 2>&1 | tee {log}"
