rule train_classifier:
    output:
        weights="results/digits/classifier.safetensors",
        accuracy="results/digits/classifier.json",
    log:
        "results/logs/train_classifier.log",
    benchmark:
        "results/benchmarks/train_classifier.tsv"
    conda:
        "../envs/agd.yaml"
    resources:
        gpu=gpu("train_classifier"),
    params:
        own_gpus=own_gpus("train_classifier"),
        version=VERSIONS["train_classifier"],
        result=result_settings("train_classifier"),
        execution=execution_settings("train_classifier"),
    shell:
        "{params.own_gpus}python -m agd.digits.train_classifier --output {output.weights} {params.result} {params.execution} 2>&1 | tee {log}"
