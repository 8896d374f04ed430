rule index_tables:
    input:
        tables=records,
        figures=figures,
        grids=grids,
    output:
        page="results/tables/{study}/index.md",
        record="results/tables/{study}/index.json",
        all="results/tables/{study}/all",
    log:
        "results/logs/index_tables/{study}.log",
    benchmark:
        "results/benchmarks/index_tables/{study}.tsv"
    conda:
        "../envs/agd.yaml"
    params:
        version=VERSIONS["index_tables"],
    shell:
        "python -m agd.index_tables --tables {input.tables} --output-dir $(dirname {output.page}) 2>&1 | tee {log}"
