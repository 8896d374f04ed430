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
        slanted="",
    shell:
        "python -m agd.digits.prepare_digits --output {output.images} --annotations {output.annotations} {params.slanted} 2>&1 | tee {log}"


use rule prepare_digits as prepare_slanted_digits with:
    output:
        images="results/digits-slanted/images.zip",
        annotations="results/digits-slanted/annotations.zip",
    log:
        "results/logs/prepare_digits-slanted.log",
    benchmark:
        "results/benchmarks/prepare_digits-slanted.tsv"
    params:
        version=VERSIONS["prepare_digits"],
        slanted="--slanted",
