"""Tiny studies for the tests, and Snakemake run on them as a user would."""

import os
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent


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
    """Run Snakemake from somewhere else, as a user with a folder of their own would."""
    command, environment = snakemake_command(folder, *words, targets=targets)
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder.parent, env=environment)
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
