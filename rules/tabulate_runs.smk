rule tabulate_runs:
    input:
        scores=table_scores,
        elsewhere=values_from_elsewhere,
    output:
        record="results/tables/{study}/{table}.json",
        texts=multiext("results/tables/{study}/{table}", ".csv", ".md", ".tex"),
        page=report(
            "results/tables/{study}/{table}.html",
            caption="../report/table.rst",
            category="tables",
            subcategory="{study}",
        ),
    log:
        "results/logs/tabulate_runs/{study}/{table}.log",
    benchmark:
        "results/benchmarks/tabulate_runs/{study}/{table}.tsv"
    conda:
        "../envs/agd.yaml"
    params:
        version=VERSIONS["tabulate_runs"],
        definition=definition,
    shell:
        "python -m agd.tabulate_runs --table {wildcards.table} --definition {params.definition:q} --results results"
        " --output-dir $(dirname {output.record}) 2>&1 | tee {log}"
