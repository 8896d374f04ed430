rule tabulate:
    input:
        metrics=compared_metrics(configuration.compared),
        fidelity=compared_fidelity,
        speed=compared_speed,
        samples=compared_sample_records,
        training=training_tables,
        adapter=compared_adapter,
    output:
        record="results/{model}/fid.json",
        table="results/{model}/fid.txt",
        samples=report("results/{model}/samples.png", caption="../report/samples.rst", category="{model}"),
        fidelity=report("results/{model}/fidelity.png", caption="../report/fidelity.rst", category="{model}"),
        training=report("results/{model}/training.png", caption="../report/training.rst", category="{model}"),
    log:
        "results/logs/tabulate/{model}.log",
    benchmark:
        "results/benchmarks/tabulate/{model}.tsv"
    conda:
        "../envs/agd.yaml"
    params:
        version=VERSIONS["tabulate"],
        samples=samples,
        columns=columns,
        rows=rows_of_comparison,
    shell:
        "python -m agd.tabulate --name {wildcards.model} --metrics {input.metrics} --samples {params.samples} {params.rows}"
        " --fidelity {input.fidelity} --speed {input.speed} --training {input.training} --adapter $(dirname {input.adapter}) --columns {params.columns}"
        " --output-dir $(dirname {output.record}) 2>&1 | tee {log}"
