# Adapter guidance distillation: from a base model to a comparison of one pass with two. docs/running.md explains.
from snakemake.utils import min_version

min_version("9.0")


include: "rules/common.smk"
include: "rules/shell.smk"
include: "rules/machines.smk"
include: "rules/bases.smk"
include: "rules/inputs.smk"
include: "rules/methods.smk"
include: "rules/comparison.smk"
include: "rules/tables.smk"
include: "rules/download.smk"
include: "rules/prepare_base.smk"
include: "rules/prepare_digits.smk"
include: "rules/train_classifier.smk"
include: "rules/train_base.smk"
include: "rules/prepare_prompts.smk"
include: "rules/prepare_reference.smk"
include: "rules/sample_trajectories.smk"
include: "rules/train.smk"
include: "rules/sample.smk"
include: "rules/measure_fidelity.smk"
include: "rules/measure_speed.smk"
include: "rules/calculate_metrics.smk"
include: "rules/tabulate.smk"
include: "rules/draw_curve.smk"
include: "rules/tabulate_runs.smk"
include: "rules/draw_runs.smk"
include: "rules/draw_grid.smk"
include: "rules/index_tables.smk"


rule all:
    default_target: True
    input:
        "results/digits-dit/fid.json",
