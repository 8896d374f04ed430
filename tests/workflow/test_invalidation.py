"""What invalidates a result, as a table: each setting, each stage version, each file, against the jobs that must rerun.

Two tiny models, one of each family, are studied to the end once. Each test changes one thing, asks Snakemake for its plan of
both, and compares sets of jobs: nothing more, nothing less. The settings are those of the schema and the files those that
lie there, so that none can be forgotten.
"""

import contextlib
import copy
import os
import re
import shutil
from pathlib import Path

import pytest
from studies import BY_CLASS, TWO_TARGETS, planned_jobs, snakemake, two_models

from agd import verify
from agd.settings import schema
from agd.settings.versions import VERSIONS

MODELS = ("tiny", "text")
METHODS = ("agd", "cfg", "none")


# Jobs, and what follows from each. A job is named by its rule and what tells it from its siblings.


def metrics(model, methods=METHODS):
    return {f"calculate_metrics {model} seed0 {method}" for method in methods} | {f"tabulate {model}"}


def sampled(model, methods=METHODS, chunks=("000000", "000008")):
    jobs = {f"sample {model} seed0 {method} {chunk}" for method in methods for chunk in chunks}
    return jobs | metrics(model, methods)


def measured(model, adapter="agd"):
    return {f"measure_fidelity {model} seed0 {adapter}", f"tabulate {model}"}


def timed(model, adapter="agd"):
    return {f"measure_speed {model} seed0 {adapter}", f"tabulate {model}"}


def adapted(model, adapter="agd"):
    return sampled(model, [adapter]) | measured(model, adapter) | timed(model, adapter)


def trained(model):
    return {f"train {model} seed0 agd"} | adapted(model)


def guided(model, chunks=("000000", "000006")):
    return {f"sample_trajectories {model} seed0 {chunk}" for chunk in chunks} | trained(model)


def based(model):
    return guided(model) | sampled(model)


def given_another_base(model):
    return {f"prepare_base {model}"} | based(model)


def sampled_otherwise(model):
    return sampled(model) | timed(model)


def sampled_by_prompts(model):
    return sampled_otherwise(model) | measured(model)


def prompted(model):
    return {f"prepare_prompts {model}"} | based(model)


def referenced(model):
    return {f"prepare_reference {model}"} | metrics(model)


def base_trained(model):
    return {f"train_base {model}"} | based(model)


def guided_by_two(model):
    return sampled(model, ["cfg"]) | timed(model)


def of_the_other_family(model):
    return based(model) | (prompted(model) if model == "tiny" else set())  # which then needs prompts


def at_another_scale(model):
    return sampled(model, ["agd", "cfg"]) | timed(model)


def compared(model):
    return {f"train {model} seed0 offset"} | adapted(model, "offset")


def also_compared(model):
    return {f"train {model} seed0 offset"} | sampled(model, ["offset"]) | timed(model)


def classified(model):
    return {"train_classifier"} | referenced("tiny")


def tabulated(model):
    return {f"tabulate {model}"}


def nothing(model):
    return set()


# Setting -> another value, and what must rerun. Where a value depends on the study, it is by model.
SETTINGS = {
    "train_classifier.steps": (51, classified),
    "train_classifier.batch_size": (63, classified),
    "train_classifier.learning_rate": (0.003, classified),
    "train_classifier.seed": (1, classified),
    "train_classifier.device": ("auto", nothing),
    "train_base.architecture": ("sd", base_trained),
    "train_base.continues": ("continued_base", base_trained),
    "train_base.slanted": (True, base_trained),
    "train_base.vae_steps": (3, base_trained),
    "train_base.steps": (3, base_trained),
    "train_base.batch_size": (9, base_trained),
    "train_base.learning_rate": (0.003, base_trained),
    "train_base.label_dropout": (0.2, base_trained),
    "train_base.average_decay": (0.9, base_trained),
    "train_base.seed": (1, base_trained),
    "train_base.device": ("auto", nothing),
    "prepare_prompts.num_prompts": (21, prompted),
    "prepare_prompts.seed": (1, prompted),
    "prepare_reference.features": ("inception-v3", referenced),
    "prepare_reference.features_weights": ("", referenced),
    "prepare_reference.image_size": (6, referenced),
    "prepare_reference.max_features": (9, referenced),
    "prepare_reference.assume_extractor": (True, referenced),
    "prepare_reference.batch_size": (9, nothing),
    "prepare_reference.device": ("auto", nothing),
    "sample_trajectories.source": ("diffusion", guided),
    "sample_trajectories.num_trajectories": (20, lambda model: guided(model, ["000006", "000012", "000018"])),
    "sample_trajectories.chunk_size": (5, lambda model: guided(model, ["000000", "000005"])),
    "sample_trajectories.class_labels": ("0-8", guided),
    "sample_trajectories.unconditional": ("zeros", guided),
    "sample_trajectories.scheduler": ("euler", guided),
    "sample_trajectories.num_inference_steps": (5, guided),
    "sample_trajectories.guidance_min": (1.5, guided),
    "sample_trajectories.guidance_max": (4, guided),
    "sample_trajectories.guided_channels": (1, guided),
    "sample_trajectories.storage_dtype": ("float32", guided),
    "sample_trajectories.dtype": ("bfloat16", guided),
    "sample_trajectories.batch_size": (2, nothing),
    "sample_trajectories.device": ("auto", nothing),
    "sample_trajectories.deterministic": (True, nothing),
    "train.kind": ("offset", trained),
    "train.embedding": (False, trained),
    "train.gain": (False, trained),
    "train.rank": (3, trained),
    "train.loss_weighting": ("none", trained),
    "train.held_out_fraction": (0.2, trained),
    "train.encoder": ("per_layer", trained),
    "train.hidden_size": (10, trained),
    "train.use_timestep": (False, trained),
    "train.use_condition": (False, trained),
    "train.dropout": (0.1, trained),
    "train.zero_init": (False, trained),
    "train.learning_rate": (0.5, trained),
    "train.weight_decay": (0.1, trained),
    "train.warmup_fraction": (0.5, trained),
    "train.final_learning_rate_fraction": (0.5, trained),
    "train.batch_size": (9, trained),
    "train.micro_batch_size": (3, nothing),
    "train.gradient_checkpointing": (True, nothing),
    "train.gpu": (2, nothing),
    "train.steps": (5, trained),
    "train.dtype": ("bfloat16", trained),
    "train.log_interval": (3, nothing),
    "train.checkpoint_interval": (3, nothing),
    "train.num_workers": (1, nothing),
    "train.device": ("auto", nothing),
    "train.deterministic": (True, nothing),
    "sample.num_samples": (24, lambda model: sampled(model, chunks=["000008", "000016"])),
    "sample.chunk_size": (6, lambda model: sampled(model, chunks=["000000", "000006"])),
    "sample.guidance_scale": (2, at_another_scale),
    "sample.class_labels": ("0-8", sampled_otherwise),
    "sample.unconditional": ("zeros", guided_by_two),
    "sample.scheduler": ("euler", sampled_otherwise),
    "sample.num_inference_steps": (4, sampled_otherwise),
    "sample.guided_channels": (1, guided_by_two),
    "sample.guided_sigmas": ("0.5-5", guided_by_two),
    "sample.guided_share": (0.5, guided_by_two),
    "sample.cached_cross_attention": (True, guided_by_two),
    "sample.dtype": ("bfloat16", sampled_otherwise),
    "sample.batch_size": (3, nothing),
    "sample.columns": (3, nothing),
    "sample.device": ("auto", nothing),
    "sample.deterministic": (True, nothing),
    "measure_fidelity.guidance_scales": ("2,3", measured),
    "measure_fidelity.num_trajectories": (3, measured),
    "measure_fidelity.class_labels": ("0-8", measured),
    "measure_fidelity.unconditional": ("zeros", measured),
    "measure_fidelity.scheduler": ("euler", measured),
    "measure_fidelity.num_inference_steps": (3, measured),
    "measure_fidelity.guided_channels": (1, measured),
    "measure_fidelity.guided_sigmas": ("0.5-5", nothing),  # of cfg, whose fidelity fid.json doesn't need
    "measure_fidelity.guided_share": (0.5, nothing),
    "measure_fidelity.cached_cross_attention": (True, nothing),
    "measure_fidelity.dtype": ("bfloat16", measured),
    "measure_fidelity.batch_size": (1, nothing),
    "measure_fidelity.device": ("auto", nothing),
    "measure_speed.rounds": (2, timed),
    "measure_speed.batch_size": (3, timed),
    "measure_speed.device": ("auto", nothing),
    "calculate_metrics.neighbours": (2, metrics),
    "calculate_metrics.clip_model": ("", metrics),
    "calculate_metrics.batch_size": (9, nothing),
    "calculate_metrics.device": ("auto", nothing),
    "family": ({"tiny": "sd", "text": "dit"}, of_the_other_family),
    "base_model": ("other_base", given_another_base),
    "captions": ("other_captions.zip", prompted),
    "compared_methods": (["offset"], also_compared),
    "reference": ("other_images.zip", referenced),
    "adapters": ({"agd": {"dropout": 0.5}}, trained),
    "trajectories": ({"guided": {"guidance_max": 4}, "others": {}}, guided),
    "guides": ({"sketch": {"controlnet": "control", "controlnet_image": "sketch.png"}}, nothing),
    "methods": ({"interval": {"guided_sigmas": "0.5-5"}}, nothing),
    "compared_adapter": ("offset", compared),
    "curve_evaluations": ([4, 8], nothing),  # fid.json doesn't need the curve
}

# Settings that are allowed only together with others.
NEEDS = {"train.encoder": {"kind": "offset", "embedding": False}}

# What is set above the models: how the configuration changes -> what must rerun.
ANOTHER_SEED = {
    job.replace("seed0", "seed1")
    for model in MODELS
    for job in based(model)
    - {f"measure_speed {model} seed0 agd"}  # the base, the prompts, the reference and the speed are of all seeds
}


def another_seed(configuration):
    configuration["seeds"] = [0, 1]


def a_setting_moved_to_the_defaults(configuration):
    moved = {model: configuration["models"][model]["train"].pop("learning_rate") for model in MODELS}
    configuration["defaults"]["train"] = {"learning_rate": moved["tiny"]}


def another_model(configuration):
    configuration["models"]["another"] = copy.deepcopy(configuration["models"]["tiny"])
    configuration["models"]["tiny"]["adapters"]["another"] = {"dropout": 0.5}


def another_compared(configuration):
    configuration["compared_adapter"] = "offset"


def another_curve(configuration):
    configuration["curve_evaluations"] = [4, 8]


def another_table(configuration):
    runs = [{"model": "tiny", "methods": ["offset"]}]
    configuration["tables"] = {"small": {"main": {"title": "Another", "runs": runs, "columns": ["fid"]}}}


ABOVE = {
    "above.seeds": (another_seed, ANOTHER_SEED),
    "above.compared_adapter": (another_compared, compared("tiny") | compared("text")),
    "above.curve_evaluations": (another_curve, set()),
    "above.tables": (another_table, set()),  # fid.json doesn't need tables; test_table_study.py has theirs
    "above.defaults": (a_setting_moved_to_the_defaults, set()),
    "above.models": (another_model, set()),
}

STAGE_VERSIONS = {
    "prepare_base": given_another_base("text"),
    "prepare_digits": {"prepare_digits"} | referenced("tiny") | prompted("text"),
    "train_classifier": classified("tiny"),
    "train_base": base_trained("tiny"),
    "prepare_prompts": prompted("text"),
    "prepare_reference": referenced("tiny") | referenced("text"),
    "sample_trajectories": guided("tiny") | guided("text"),
    "train": trained("tiny") | trained("text"),
    "sample": sampled("tiny") | sampled("text"),
    "measure_fidelity": measured("tiny") | measured("text"),
    "measure_speed": timed("tiny") | timed("text"),
    "draw_curve": set(),
    **{
        stage: set() for stage in ("tabulate_runs", "draw_runs", "draw_grid", "index_tables")
    },  # test_table_study.py has theirs
    "calculate_metrics": metrics("tiny") | metrics("text"),
    "tabulate": tabulated("tiny") | tabulated("text"),
}

# Every file of the user's and of results/, by pattern -> what must rerun when its contents change.
FILES = {
    r"base/.*": lambda: given_another_base("text"),
    r"results/text/base.json": lambda: based("text"),
    r"clip/.*": lambda: metrics("text"),
    r"weights.safetensors": lambda: referenced("text"),
    r"images.zip": lambda: referenced("text"),
    r"results/digits/images.zip": lambda: referenced("tiny"),
    r"results/digits/annotations.zip": lambda: prompted("text"),
    r"results/digits/classifier.safetensors": lambda: referenced("tiny"),
    r"results/tiny/base/.*": lambda: based("tiny"),
    r"results/(\w+)/prompts/trajectories.txt": guided,
    r"results/(\w+)/prompts/samples.txt": sampled_by_prompts,
    r"results/(\w+)/reference.json": metrics,
    r"results/(\w+)/seed0/trajectories/.*json": trained,
    r"results/(\w+)/seed0/adapters/agd/config.json": adapted,
    r"results/(\w+)/seed0/(?:fidelity|speed)/agd.json": tabulated,
    r"results/(\w+)/seed0/adapters/agd/training.csv": tabulated,
    r"results/(\w+)/seed0/samples/(\w+)/.*json": lambda model, method: metrics(model, [method]),
    r"results/(\w+)/seed0/metrics/.*": tabulated,
    # Large files. Jobs depend on the records beside them, and what reads a file that is not its record's says so and ends.
    r"results/\w+/(?:reference.npz|seed0/(?:trajectories|samples)/.*zip|seed0/adapters/agd/adapter.safetensors)": lambda: (
        set()
    ),
    # What nothing reads: results in themselves.
    r"results/digits/classifier.json|results/\w+/prompts/provenance.json": lambda: set(),
    r"results/\w+/seed0/adapters/agd/(?:checkpoint.safetensors|cost.json)": lambda: set(),
    r"results/\w+/(?:fid.json|fid.txt|samples.png|fidelity.png|training.png)": lambda: set(),
}


def settings_of_the_schema() -> list[str]:
    """Every setting of the configuration: those above the models, a model's own, and each stage's."""
    joined = schema.schema()
    stages = [stage for stage in VERSIONS if stage in joined["$defs"]]
    own = [name for name in joined["$defs"]["model"]["properties"] if name not in stages]
    of_stages = [f"{stage}.{name}" for stage in stages for name in joined["$defs"][stage]["properties"]]
    return [*(f"above.{name}" for name in joined["properties"]), *own, *of_stages]


def plan(folder: Path, configuration: dict) -> set[str]:
    """The jobs that Snakemake would run, named as above."""
    jobs = set()
    for rule, wildcards in planned_jobs(folder, configuration):
        words = [wildcards[name] for name in ("model", "method", "adapter", "chunk") if name in wildcards]
        words[1:1] = [f"seed{wildcards['seed']}"] if "seed" in wildcards else []
        jobs.add(" ".join([re.sub("_sdx?l?$", "", rule) if rule.startswith("train_base") else rule, *words]))
    return jobs


def changed(setting: str, model: str, value) -> dict | None:
    """The configuration with one setting of one model changed; None where the model has no such setting."""
    configuration = two_models()
    section = configuration["models"][model]
    stage, _, name = setting.rpartition(".")
    if stage == "train_classifier":
        configuration["defaults"][stage][name] = value
    elif stage:
        if stage not in section and stage in ("train_base", "prepare_prompts"):
            return None
        if name not in schema.properties(stage, section["family"]):
            return None
        section.setdefault(stage, {})[name] = value
        section[stage] |= NEEDS.get(setting, {})
    elif name in ("captions", "guides") and section["family"] == "dit":
        return None
    else:
        section[name] = value[model] if name == "family" else value
        if name == "family":  # what is one family's alone goes with it
            for stage in BY_CLASS:
                section[stage].pop("class_labels", None)
            section["calculate_metrics"].pop("clip_model", None)
            section.pop("captions", None)
            if value[model] == "dit":
                for stage in BY_CLASS:
                    section[stage]["class_labels"] = "0-9"
            else:
                section["captions"] = "results/digits/annotations.zip"
    return configuration


def test_nothing_is_rerun_by_itself(finished):
    assert plan(finished, two_models()) == set()


@pytest.mark.parametrize("setting", settings_of_the_schema())
def test_a_setting_reruns_exactly_what_follows(finished, setting):
    if setting in ABOVE:
        change, expected = ABOVE[setting]
        configuration = two_models()
        change(configuration)
        assert plan(finished, configuration) == expected
        return
    assert setting in SETTINGS, f"{setting}: config/schema.yaml has it and this table has no row for it; add one"
    value, follows = SETTINGS[setting]
    plans = 0
    for model in MODELS if not setting.startswith("train_classifier.") else ["tiny"]:
        configuration = changed(setting, model, value)
        if configuration is not None:
            plans += 1
            assert plan(finished, configuration) == follows(model), model
    assert plans


def test_no_row_is_left_over():
    assert {*SETTINGS, *ABOVE} == set(settings_of_the_schema())
    assert set(STAGE_VERSIONS) == set(VERSIONS)


@pytest.mark.parametrize("stage", VERSIONS)
def test_a_stage_version_reruns_that_stage_and_what_follows(finished, monkeypatch, stage):
    monkeypatch.setitem(VERSIONS, stage, VERSIONS[stage] + 1)
    assert plan(finished, two_models()) == STAGE_VERSIONS[stage]


def files_of(folder: Path) -> list[Path]:
    """The files that the user gave, and the artifacts; neither logs nor benchmarks."""
    own = [folder / "images.zip", folder / "weights.safetensors", *folder.glob("base/**/*"), *folder.glob("clip/**/*")]
    made = [
        file for file in folder.glob("results/**/*") if file.parts[len(folder.parts) + 1] not in ("logs", "benchmarks")
    ]
    return sorted(file for file in own + made if file.is_file())


def test_a_file_reruns_exactly_its_readers(finished):
    wrong, used = {}, set()
    for file in files_of(finished):
        name = str(file.relative_to(finished))
        row = next((pattern for pattern in FILES if re.fullmatch(pattern, name)), None)
        assert row, f"{name}: this table has no row for it; add one"
        used.add(row)
        before, times = file.read_bytes(), file.stat()
        file.write_bytes(before + b" ")
        planned = plan(finished, two_models())
        file.write_bytes(before)
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
        expected = FILES[row](*re.fullmatch(row, name).groups())
        if planned != expected:
            wrong[name] = {"surplus": planned - expected, "missing": expected - planned}
    assert wrong == {}
    assert used == set(FILES)


def test_a_touched_file_reruns_nothing(finished):
    for file in files_of(finished):
        file.touch()
    assert plan(finished, two_models()) == set()


@pytest.mark.parametrize(
    "words", [["--cores", "1"], ["--resources", "gpu=4"], ["--set-threads", "train=2"]], ids=" ".join
)
def test_resources_rerun_nothing(finished, words):
    done = snakemake(finished, "-n", *words, "--configfile", finished / "study.yaml", targets=TWO_TARGETS)
    assert "Nothing to be done" in done.stdout + done.stderr


def test_results_copied_without_their_times_are_taken_over(finished, tmp_path):
    """As docs/running.md says: look at all of it, then tell Snakemake that it is right."""
    copied, study = tmp_path / "copied", finished / "study.yaml"
    shutil.copytree(finished, copied, ignore=shutil.ignore_patterns(".snakemake"), copy_function=shutil.copyfile)
    for file in sorted(files_of(copied), reverse=True):
        file.touch()
    assert len(plan(copied, two_models())) > 10
    with contextlib.chdir(copied), pytest.raises(SystemExit) as verified:
        verify.main(["results", "--configfile", str(study)])
    assert verified.value.code == 0
    snakemake(copied, "--cores", "1", "--touch", "--forceall", "--configfile", study, targets=TWO_TARGETS)
    assert plan(copied, two_models()) == set()
    changed = two_models()
    changed["models"]["tiny"]["train"]["steps"] = 5
    assert plan(copied, changed) == trained("tiny")  # it knows what it took over
