"""Captions, references and models that a user gives, as Snakemake sees them: missing ones end it, fetched ones are used."""

import os
import subprocess
import time
from pathlib import Path

import pytest
from coco import prompts, write_captions, zipped
from studies import snakemake, write

from agd.artifacts import user_files
from agd.runtime.errors import UserError
from agd.settings import configuration


def run(folder: Path, model: dict, *words: str, target: str) -> subprocess.CompletedProcess:
    """Plan or run a study whose model `tiny` has the settings of digits-sd and these."""
    section = configuration.shipped()["models"]["digits-sd"] | model
    file = write(folder, {"models": {"tiny": section}})
    return snakemake(folder, *words, "--configfile", file, targets=(target,), check=False)


COCO = "http://images.cocodataset.org/annotations/annotations_trainval2017.zip"


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"captions": None}, "models.tiny.captions: not set; give COCO's annotations_trainval2017.zip, or a folder"),
        ({"captions": "no.zip"}, "models.tiny.captions: no.zip is not there; give COCO's"),
        ({"captions": COCO}, f"models.tiny.captions: {COCO} can't be reached (ProxyError); fetch it and give its path"),
    ],
)
def test_missing_captions_stop_before_any_job(model, message, tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # no way out, on any machine
    done = run(tmp_path, model, "-n", target="results/tiny/prompts/samples.txt")
    assert done.returncode != 0
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("agd: error: ")]
    assert line.startswith(f"agd: error: {message}")


def test_a_missing_clip_model_stops_before_any_job(tmp_path):
    model = {"calculate_metrics": {"clip_model": "no/clip"}}
    done = run(tmp_path, model, "-n", target="results/tiny/seed0/metrics/none/w1/n25.json")
    assert done.returncode != 0
    assert (
        "agd: error: models.tiny.calculate_metrics.clip_model: no/clip is not a folder; check the path" in done.stderr
    )


def test_fetched_files_are_used_without_asking(tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    fetched = tmp_path / "results" / "downloads"
    zipped(write_captions(fetched / "annotations_trainval2017"))
    (fetched / "val2017.zip").write_bytes(b"for the plan only")
    model = {"captions": COCO, "reference": "http://images.cocodataset.org/zips/val2017.zip"}
    model["prepare_prompts"] = {"num_prompts": 12}
    done = run(tmp_path, model, "--cores", "1", target="results/tiny/prompts/samples.txt")
    assert done.returncode == 0, done.stderr
    expected = prompts(fetched / "annotations_trainval2017.zip", tmp_path / "by-hand")
    written = tmp_path / "results" / "tiny" / "prompts"
    assert (written / "trajectories.txt").read_text().splitlines() == expected[0]
    assert (written / "samples.txt").read_text().splitlines() == expected[1]
    planned = run(tmp_path, model, "-n", "-p", target="results/tiny/reference.npz")
    assert "--reference results/downloads/val2017.zip" in planned.stdout + planned.stderr


def test_a_file_from_the_future_is_named_with_its_key(tmp_path):
    """Snakemake would throw away what is made from it."""
    file = tmp_path / "weights"
    file.touch()
    assert user_files.check_dates("models.x.weights", [str(file)]) == [str(file)]
    os.utime(file, (time.time() + 3600,) * 2)
    with pytest.raises(UserError, match=r"models\.x\.weights: .*/weights is dated .*, in the future; mend the clock"):
        user_files.check_dates("models.x.weights", [str(file)])
    with pytest.raises(UserError, match="in the future"):
        user_files.given("models.x.reference", str(file), "a file")
