rule draw_grid:
    input:
        samples=shown_sample_records,
    output:
        report(
            "results/tables/{study}/{table}-grid.png",
            caption="../report/grid.rst",
            category="tables",
            subcategory="{study}",
        ),
    log:
        "results/logs/draw_grid/{study}/{table}.log",
    benchmark:
        "results/benchmarks/draw_grid/{study}/{table}.tsv"
    conda:
        "../envs/agd.yaml"
    params:
        version=VERSIONS["draw_grid"],
        definition=grid_definition,
    shell:
        "python -m agd.draw_grid --table {wildcards.table} --definition {params.definition:q} --results results"
        " --output-dir $(dirname {output}) 2>&1 | tee {log}"
