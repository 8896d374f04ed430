rule draw_curve:
    input:
        metrics=compared_metrics(configuration.curve),
        adapter=compared_adapter,
    output:
        record="results/{model}/curve.json",
        picture=report("results/{model}/curve.png", caption="../report/curve.rst", category="{model}"),
    log:
        "results/logs/draw_curve/{model}.log",
    benchmark:
        "results/benchmarks/draw_curve/{model}.tsv"
    conda:
        "../envs/agd.yaml"
    params:
        version=VERSIONS["draw_curve"],
    shell:
        "python -m agd.draw_curve --name {wildcards.model} --metrics {input.metrics} --adapter $(dirname {input.adapter})"
        " --output-dir $(dirname {output.record}) 2>&1 | tee {log}"
