rule prepare_digits:
    output:
        images="results/digits/images.zip",
        annotations="results/digits/annotations.zip",
    log:
        "results/logs/prepare_digits.log",
    benchmark:
        "results/benchmarks/prepare_digits.tsv"
    conda:
        "../envs/agd.yaml"
    params:
        version=VERSIONS["prepare_digits"],
    shell:
        "python -m agd.digits.prepare_digits --output {output.images} --annotations {output.annotations} 2>&1 | tee {log}"
