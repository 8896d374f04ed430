rule prepare_prompts:
    input:
        captions=captions_file,
    output:
        trajectories="results/{model}/prompts/trajectories.txt",
        samples="results/{model}/prompts/samples.txt",
        record="results/{model}/prompts/provenance.json",
    log:
        "results/logs/prepare_prompts/{model}.log",
    benchmark:
        "results/benchmarks/prepare_prompts/{model}.tsv"
    conda:
        "../envs/agd.yaml"
    params:
        version=VERSIONS["prepare_prompts"],
        captions=captions,
        result=result_settings("prepare_prompts"),
    shell:
        "python -m agd.prepare_prompts --captions {params.captions:q} --output-dir $(dirname {output.samples})"
        " {params.result} 2>&1 | tee {log}"
