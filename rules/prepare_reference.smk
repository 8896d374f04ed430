rule prepare_reference:
    input:
        images=reference_file,
        weights=features_weights,
    output:
        reference="results/{model}/reference.npz",
        record="results/{model}/reference.json",
    log:
        "results/logs/prepare_reference/{model}.log",
    benchmark:
        "results/benchmarks/prepare_reference/{model}.tsv"
    conda:
        "../envs/agd.yaml"
    threads: threads("prepare_reference", on_cpu=1)
    resources:
        gpu=gpu("prepare_reference"),
    params:
        own_gpus=own_gpus("prepare_reference"),
        version=VERSIONS["prepare_reference"],
        reference=reference,
        result=result_settings("prepare_reference"),
        execution=execution_settings("prepare_reference"),
    shell:
        "{params.own_gpus}python -m agd.prepare_reference --reference {params.reference:q} --output {output.reference}"
        " {params.result} {params.execution} 2>&1 | tee {log}"
