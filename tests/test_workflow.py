"""The workflow itself: it runs anywhere, reruns nothing by itself, and a change reruns exactly what follows from it."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import command
from PIL import Image

from agd import explain, verify

ROOT = Path(__file__).resolve().parent.parent


def snakemake(
    folder: Path, *words: str, check: bool = True, targets: tuple = ("results/tiny/fid.json",)
) -> subprocess.CompletedProcess:
    """Run Snakemake from somewhere else, as a user with a folder of their own would."""
    command = [
        sys.executable,
        "-m",
        "snakemake",
        *([] if str(words[-1]).startswith("results/") else targets),  # before options that take many words
        "--snakefile",
        ROOT / "Snakefile",
        "--directory",
        folder,
        *words,
    ]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=folder.parent, env=environment)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def study(base: str, classifier: Path, **changes) -> dict:
    """The configuration of a tiny study: a random model, 12 images, two chunks of each kind."""
    model = {
        "family": "dit",
        "base_model": base,
        "reference": "results/digits/images.zip",
        "adapters": {"agd": {}, "offset": {"kind": "offset"}},
        "prepare_reference": {"features": "digits-classifier", "features_weights": str(classifier), "device": "cpu"},
        "sample_trajectories": {
            "num_trajectories": 10,
            "chunk_size": 6,
            "class_labels": "0-9",
            "num_inference_steps": 4,
        }
        | {"guidance_min": 1, "guidance_max": 3, "dtype": "float32", "device": "cpu"},
        "train": {"kind": "cross_attention", "hidden_size": 8, "steps": 4, "batch_size": 8, "num_workers": 0}
        | {"dtype": "float32", "device": "cpu"},
        "sample": {"num_samples": 12, "chunk_size": 8, "guidance_scale": 1.5, "class_labels": "0-9"}
        | {"num_inference_steps": 3, "dtype": "float32", "device": "cpu"},
        "calculate_metrics": {"device": "cpu"},
    }
    for key, value in changes.items():
        section, _, name = key.partition("__")
        if name:
            model[section][name] = value
        else:
            model[section] = value
    return {"models": {"tiny": model}}


def write(folder: Path, configuration: dict) -> Path:
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump(configuration))
    return file


def plan(folder: Path, configuration: dict, *words) -> dict[str, list[str]]:
    """What Snakemake would run: rule -> its jobs, as chunk, method or adapter."""
    done = snakemake(folder, "-n", "--configfile", write(folder, configuration), *words)
    jobs: dict[str, list[str]] = {}
    for rule, block in re.findall(r"^(?:local)?rule (\w+):\n((?:    .*\n)+)", done.stdout + done.stderr, re.M):
        wildcards = dict(pair.split("=") for pair in re.findall(r"(?:chunk|method|adapter)=\w+", block))
        jobs.setdefault(rule, []).append(
            "/".join(wildcards[k] for k in ("method", "adapter", "chunk") if k in wildcards)
        )
    return {rule: sorted(names) for rule, names in jobs.items()}


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("classifier") / "classifier.safetensors"
    command("train_classifier", "--output", file, "--steps", 50, family=None)
    return file


@pytest.fixture(scope="module")
def finished(tmp_path_factory, base, classifier) -> Path:
    """A tiny study, run to its end. Tests may plan in it, and must leave it as it is."""
    folder = tmp_path_factory.mktemp("elsewhere") / "study"
    folder.mkdir()
    snakemake(folder, "--cores", "2", "--configfile", write(folder, study(base, classifier)))
    return folder


ALL_SAMPLES = [f"{method}/{chunk}" for method in ("agd", "cfg", "none") for chunk in ("000000", "000008")]
METHODS = ["agd", "cfg", "none"]
AFTER_TRAINING = {
    "train": ["agd"],
    "sample": ["agd/000000", "agd/000008"],
    "calculate_metrics": ["agd"],
    "tabulate": [""],
}
METRICS = {"calculate_metrics": METHODS, "tabulate": [""]}


def test_gives_the_comparison_and_its_pictures(finished):
    record = json.loads((finished / "results/tiny/fid.json").read_text())
    assert {name: row["nfe"] for name, row in record["methods"].items()} == {"none": 3, "cfg": 6, "agd": 3}
    assert record["seeds"] == [0]
    assert record["num_samples"] == 12
    assert record["features"] == "digits-classifier"
    assert set(record["methods"]["agd"]["per_seed"]) == {"0"}
    assert 0 < record["adapter"]["fraction_of_base"] < 1
    for name in ("samples.png", "training.png"):
        with Image.open(finished / "results/tiny" / name) as picture:
            assert min(picture.size) > 100
    assert "x as fast as cfg" in (finished / "results/tiny/fid.txt").read_text()
    assert not [file for file in finished.rglob("*.part")]


def test_nothing_is_rerun_by_itself(finished, base, classifier):
    assert plan(finished, study(base, classifier)) == {}


def test_a_touched_file_reruns_nothing(finished, base, classifier):
    for file in [*(finished / "results").rglob("*.zip"), *Path(base).rglob("*.safetensors")]:
        file.touch()
    assert plan(finished, study(base, classifier)) == {}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"calculate_metrics__neighbours": 2}, METRICS),
        ({"prepare_reference__max_features": 9}, {"prepare_reference": [""], **METRICS}),
        ({"train__learning_rate": 0.5}, AFTER_TRAINING),
        ({"adapters": {"agd": {"dropout": 0.5}, "offset": {}}}, AFTER_TRAINING),
        ({"adapters": {"agd": {}, "offset": {"dropout": 0.5}}}, {}),
        (
            {"sample_trajectories__guidance_max": 4},
            {"sample_trajectories": ["000000", "000006"], **AFTER_TRAINING},
        ),
        ({"sample_trajectories__num_trajectories": 20}, {"sample_trajectories": ["000006", "000012", "000018"], **AFTER_TRAINING}),
        ({"sample__num_samples": 16}, {"sample": ["agd/000008", "cfg/000008", "none/000008"], **METRICS}),
        ({"sample__num_samples": 24}, {"sample": sorted([*(f"{m}/000008" for m in METHODS), *(f"{m}/000016" for m in METHODS)]), **METRICS}),
        ({"sample__guided_channels": 1}, {"sample": ["cfg/000000", "cfg/000008"], "calculate_metrics": ["cfg"], "tabulate": [""]}),
        ({"sample__dtype": "bfloat16"}, {"sample": ALL_SAMPLES, **METRICS}),
        ({"train__log_interval": 3, "train__num_workers": 1, "train__checkpoint_interval": 2}, {}),
        ({"sample__batch_size": 3, "sample_trajectories__batch_size": 2, "calculate_metrics__batch_size": 5}, {}),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) and value and "__" in next(iter(value)) else None,
)  # fmt: skip
def test_a_change_reruns_exactly_what_follows(finished, base, classifier, change, expected):
    assert plan(finished, study(base, classifier, **change)) == expected


def test_a_stage_version_reruns_that_stage_and_what_follows(finished, base, classifier, tmp_path):
    copy = tmp_path / "checkout"
    copy.mkdir()
    for name in ("Snakefile", "rules", "agd", "config", "profiles", "envs", "report"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, copy / name)
    versions = copy / "agd" / "versions.py"
    versions.write_text(re.sub(r'("train": )(\d+)', lambda m: f"{m[1]}{int(m[2]) + 1}", versions.read_text()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(globals(), "ROOT", copy)
        assert plan(finished, study(base, classifier)) == AFTER_TRAINING


def test_more_seeds_are_made_and_gathered(finished, base, classifier):
    planned = plan(finished, study(base, classifier), "--config", "seeds=[0,1]")
    assert planned["train"] == ["agd"]
    assert planned["sample_trajectories"] == ["000000", "000006"]
    assert planned["sample"] == ALL_SAMPLES
    assert planned["tabulate"] == [""]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"base_model": "nowhere/model"},
            "agd: error: models.tiny.base_model: 'nowhere/model' is neither a folder here",
        ),
        ({"reference": None}, "agd: error: models.tiny.reference: not set; give a folder"),
        ({"reference": "no/such/folder"}, "agd: error: models.tiny.reference: no/such/folder is not there"),
        ({"train__stepz": 1}, "agd: error: models.tiny.train.stepz: unknown key"),
    ],
)
def test_a_mistake_ends_before_any_job(base, classifier, tmp_path, change, message):
    folder = tmp_path / "study"
    folder.mkdir()
    words = ["--cores", "1", "--configfile", write(folder, study(base, classifier, **change))]
    done = snakemake(folder, *words, check=False)
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if "rror" in line]
    assert len(lines) == 1
    assert message in lines[0]
    assert "Traceback" not in done.stdout + done.stderr
    assert not (folder / "results").exists()


def test_the_real_model_names_what_it_lacks(tmp_path):
    folder = tmp_path / "study"
    folder.mkdir()
    done = snakemake(folder, "--cores", "1", "results/dit/fid.json", check=False)
    assert done.returncode != 0
    assert "agd: error: models.dit.base_model: 'facebook/DiT-XL-2-256' is neither" in done.stderr


def test_explain_says_why_and_what_with(finished, base, classifier, monkeypatch, capsys):
    monkeypatch.chdir(finished)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    given = ["results/tiny/seed0/adapters/agd", "--configfile", write(finished, study(base, classifier))]
    explain.main(list(map(str, given)))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "results/tiny/seed0/adapters/agd: is up to date"
    assert "  made by train, version 1" in lines
    assert any(line.startswith(f"  base: {base}, revision none, ") for line in lines)
    write(finished, study(base, classifier, train__steps=5))
    explain.main(list(map(str, given)))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "results/tiny/seed0/adapters/agd: would be made again, because"
    assert lines[1].endswith("setting steps was 4 and is now 5")


def test_what_verify_names_is_mended_by_what_it_says(finished, base, classifier, monkeypatch):
    monkeypatch.chdir(finished)
    shard = finished / "results/tiny/seed0/trajectories/guided/000006.zarr.zip"
    whole = shard.read_bytes()
    assert verify.bad(finished / "results")[1] == {}
    shard.write_bytes(whole[:-1])
    (line,) = verify.bad(finished / "results")[1].values()
    name = re.search("; delete it, then run: snakemake (.*)", line)[1]
    shard.unlink()
    configuration = write(finished, study(base, classifier))
    snakemake(finished, "--cores", "1", "--configfile", configuration, targets=(name,))
    assert shard.read_bytes() == whole
    assert verify.bad(finished / "results")[1] == {}
    assert plan(finished, study(base, classifier)) == {}


def test_a_printed_command_can_be_pasted(finished, base, classifier):
    """The log of a job's command, run alone, gives the same file."""
    done = snakemake(finished, "-n", "-p", "-F", "--configfile", write(finished, study(base, classifier)))
    line = next(line for line in (done.stdout + done.stderr).splitlines() if "agd.dit.sample_trajectories" in line)
    output = finished / re.search(r"dirname ([^ )]+)", line)[1]
    before = output.read_bytes()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    subprocess.run(
        ["bash", "-c", line.removeprefix("Shell command: ").split(" 2>&1")[0]],
        cwd=finished,
        check=True,
        env=environment,
        capture_output=True,
    )
    assert output.read_bytes() == before


def test_lints():
    done = subprocess.run([sys.executable, "-m", "snakemake", "--lint"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for tool in (
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
        ["snakefmt", "--check", "Snakefile", "rules"],
    ):
        program = Path(sys.executable).parent / tool[0]
        done = subprocess.run([program, *tool[1:]], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.timeout(1800)  # forty processes, on whatever else the machine does
def test_the_rehearsal_walks_the_real_path(tmp_path):
    """sd21, sdxl and dit by their own rules and settings, on models made on the spot."""
    models = ("sd21", "sdxl", "dit")
    targets = tuple(f"results/{model}/fid.json" for model in models)
    more = ("--configfile", ROOT / "config" / "rehearsal.yaml", "--cores", 2, "--resources", "gpu=2")
    done = snakemake(tmp_path, *more, targets=targets)
    for model in models:
        record = json.loads((tmp_path / "results" / model / "fid.json").read_text())
        nfe = {name: row["nfe"] for name, row in record["methods"].items()}
        assert nfe == {"none": 4, "cfg": 8, "agd": 4}
        assert record["provenance"]["adapter"]["settings"]["dtype"] == "bfloat16"
    assert (tmp_path / "results" / "sdxl" / "prompts" / "trajectories.txt").is_file()
    again = snakemake(tmp_path, *more, "--dry-run", targets=targets)
    assert "Nothing to be done" in again.stdout + again.stderr, done.stderr
