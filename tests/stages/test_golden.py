"""Golden values of a tiny run: whoever says that results are the same (versions.lock) is held to it here.

Values are compared up to rounding, for bits differ between processors. After a stage version rose, renew them:
`PYTHONPATH=.:tests python tests/stages/test_golden.py`.
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from conftest import command, save_pipeline
from safetensors.numpy import load_file

from agd.artifacts import trajectories
from agd.artifacts.images import read_images
from agd.settings.versions import VERSIONS

GOLDEN = Path(__file__).parent / "golden.json"
STAGES = ("sample_trajectories", "train", "sample", "calculate_metrics")


def tiny_run(folder: Path) -> dict[str, list[float]]:
    """A few numbers of each stage's result."""
    base = save_pipeline(folder / "base")
    command(
        "sample_trajectories",
        "--base-model",
        base,
        "--num-trajectories",
        10,
        "--num-inference-steps",
        5,
        "--output-dir",
        folder / "T",
    )
    learning = ["--steps", 10, "--hidden-size", 8, "--learning-rate", 0.002, "--batch-size", 16]
    command("train", "--dir", folder / "R", "--data-path", folder / "T", *learning)
    command("sample", "--dir", folder / "R", "--num-samples", 12, "--num-inference-steps", 4, "--guidance-scale", 2)
    zips = ("--output", folder / "digits.zip", "--annotations", folder / "annotations.zip")
    command("prepare_digits", *zips, family=None)
    command("train_classifier", "--output", folder / "c.safetensors", "--steps", 200, family=None)
    command(
        "calculate_metrics",
        "--dir",
        folder / "R",
        "--ref",
        folder / "digits.zip",
        "--features-weights",
        folder / "c.safetensors",
    )
    pairs = trajectories.read(folder / "T" / "000000.zarr.zip").pairs
    weights = np.concatenate(
        [value.ravel() for _, value in sorted(load_file(folder / "R" / "adapter.safetensors").items())]
    )
    images = np.stack([np.asarray(image) for image in read_images(folder / "R" / "samples" / "000000.zip")[0].values()])
    metrics = json.loads((folder / "R" / "metrics.json").read_text())
    return {
        "sample_trajectories": _summary(pairs),
        "train": _summary(weights),
        "sample": _summary(images / 255),
        "calculate_metrics": [metrics[key] for key in ("fid", "kid", "precision", "recall", "nfe")],
    }


def _summary(values: np.ndarray) -> list[float]:
    flat = values.astype(np.float64).ravel()
    return [flat.size, flat.mean(), flat.std(), *flat[:: max(1, flat.size // 20)][:20]]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return tiny_run(tmp_path_factory.mktemp("golden"))


@pytest.mark.parametrize("stage", STAGES)
def test_results_are_those_of_this_version(found, stage):
    golden = json.loads(GOLDEN.read_text())[stage]
    assert golden["version"] == VERSIONS[stage], (
        f"{stage} has a new version: run `PYTHONPATH=.:tests python tests/stages/test_golden.py`"
    )
    # A pixel may round to its neighbour, and Adam's first steps make much of a gradient's last digits.
    tolerance = {"sample_trajectories": 2e-4, "train": 2e-3, "sample": 0.02, "calculate_metrics": 0}[stage]
    assert found[stage] == pytest.approx(golden["values"], rel=tolerance or 0.15, abs=tolerance)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        record = {
            stage: {"version": VERSIONS[stage], "values": values} for stage, values in tiny_run(Path(folder)).items()
        }
    GOLDEN.write_text(json.dumps(record, indent=1) + "\n")
    print(f"wrote {GOLDEN}", file=sys.stderr)
