"""Tiny studies for the tests, and Snakemake run on them as a user would."""

import atexit
import contextlib
import copy
import functools
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import yaml
from snakemake.cli import main as snakemake_main

ROOT = Path(__file__).resolve().parent.parent
BY_CLASS = ("sample_trajectories", "sample", "measure_fidelity")  # stages with class_labels
TWO_TARGETS = ("results/tiny/fid.json", "results/text/fid.json")


@functools.cache
def forked() -> dict[str, str]:
    """What lets stages start as copies of a process that has imported torch and diffusers (tests/forked/server.py)."""
    here, folder = ROOT / "tests" / "forked", tempfile.mkdtemp()
    address = str(Path(folder) / "socket")
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    command, pipes = (
        [sys.executable, here / "server.py", address],
        {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE},
    )
    server = subprocess.Popen(command, **pipes, env=environment, start_new_session=True)
    atexit.register(server.kill)
    atexit.register(shutil.rmtree, folder)
    assert server.stdout.readline() == b"ready\n"
    return {"AGD_FORKED": address, "PYTHONPATH": str(here / "start")}


def snakemake_command(folder: Path, *words, targets: tuple = ("results/tiny/fid.json",)) -> tuple[list[str], dict]:
    """Snakemake's command line for a study in `folder`, and the environment that a user would have."""
    program = [sys.executable, "-m", "snakemake", *targets]  # targets before options that take many words
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    where = ["--snakefile", ROOT / "Snakefile", "--directory", folder]
    return [str(word) for word in (*program, *where, *words)], environment


def snakemake(
    folder: Path, *words: str, check: bool = True, targets: tuple = ("results/tiny/fid.json",)
) -> subprocess.CompletedProcess:
    """Run Snakemake from somewhere else, as a user with a folder of their own would. Its stages start fast."""
    command, environment = snakemake_command(folder, *words, targets=targets)
    environment |= forked()
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder.parent, env=environment)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def planned_jobs(folder: Path, configuration: dict, targets: tuple = TWO_TARGETS) -> list[tuple[str, dict]]:
    """The jobs that Snakemake would run: rule and wildcards. In this process, for a fresh one takes seconds to start."""
    file = folder / "plan.yaml"
    file.write_text(yaml.safe_dump(configuration))
    words = [*targets, "--dry-run", "--snakefile", ROOT / "Snakefile", "--directory", folder, "--configfile", file]
    said, path = io.StringIO(), sys.path[:]
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), pytest.raises(SystemExit) as ended:
            snakemake_main([str(word) for word in words])
    finally:
        sys.path[:] = path
    assert ended.value.code == 0, said.getvalue()
    found = re.findall(r"^(?:local)?rule (\w+):\n((?:    .*\n)+)", said.getvalue(), re.M)
    shown = [(rule, (re.findall(r"wildcards: (.*)", block) or [""])[0]) for rule, block in found]
    return [(rule, dict(re.findall(r"(\w+)=([\w.+-]+)", wildcards))) for rule, wildcards in shown]


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
        "train": {"rank": 2, "hidden_size": 8, "steps": 4, "batch_size": 8, "num_workers": 0}
        | {"dtype": "float32", "device": "cpu"},
        "sample": {"num_samples": 12, "chunk_size": 8, "guidance_scale": 1.5, "class_labels": "0-9"}
        | {"num_inference_steps": 3, "dtype": "float32", "device": "cpu"},
        "measure_fidelity": {"num_trajectories": 2, "num_inference_steps": 2, "class_labels": "0-9"}
        | {"dtype": "float32", "device": "cpu"},
        "measure_speed": {"rounds": 1, "device": "cpu"},
        "calculate_metrics": {"device": "cpu"},
    }
    change(model, changes)
    return {"models": {"tiny": model}}


def change(section: dict, changes: dict) -> None:
    """Set what `changes` says of a configuration; `a__b=value` is the `b` of its `a`."""
    for key, value in changes.items():
        *sections, name = key.split("__")
        functools.reduce(dict.__getitem__, sections, section)[name] = value


def write(folder: Path, configuration: dict) -> Path:
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump(configuration))
    return file


def two_models(**changes) -> dict:
    """The configuration of two tiny models, whose paths begin at the study's folder: `tiny` makes all it needs by its own
    rules, `text` is given its base, weights, images and CLIP model."""
    tiny = study("results/tiny/base", Path("results/digits/classifier.safetensors"))["models"]["tiny"]
    tiny["train_base"] = {"architecture": "dit", "vae_steps": 2, "steps": 2, "batch_size": 8}
    tiny["prepare_reference"] |= {"max_features": 40}
    text = copy.deepcopy(tiny) | {"family": "sd", "base_model": "base"}
    del text["train_base"]
    for stage in BY_CLASS:
        del text[stage]["class_labels"]
    text |= {"captions": "results/digits/annotations.zip", "reference": "images.zip"}
    text["prepare_prompts"] = {"num_prompts": 20}
    text["prepare_reference"]["features_weights"] = "weights.safetensors"
    text["calculate_metrics"]["clip_model"] = "clip"
    for model in (tiny, text):
        model["train"]["learning_rate"] = 0.001
    models = {"tiny": tiny, "text": text}
    change(models, changes)
    return {"seeds": [0], "defaults": {"train_classifier": {"steps": 50}}, "models": models}
