rule draw_runs:
    input:
        record="results/tables/{study}/{table}.json",
    output:
        picture=report(
            "results/tables/{study}/{table}.svg",
            caption="../report/runs.rst",
            category="tables",
            subcategory="{study}",
        ),
        pixels="results/tables/{study}/{table}.png",
    log:
        "results/logs/draw_runs/{study}/{table}.log",
    benchmark:
        "results/benchmarks/draw_runs/{study}/{table}.tsv"
    conda:
        "../envs/agd.yaml"
    params:
        version=VERSIONS["draw_runs"],
    shell:
        "python -m agd.draw_runs --table {input.record} --output-dir $(dirname {output.picture}) 2>&1 | tee {log}"
