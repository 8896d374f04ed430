"""The commit that made an artifact is this checkout's, or unknown."""

import re
import shutil
import subprocess
import sys

from studies import ROOT

from agd.artifacts.provenance import commit, model_fingerprint
from agd.diffusion import base_models


def test_the_commit_is_the_checkouts():
    assert re.fullmatch("[0-9a-f]{40}(-dirty)?|unknown", commit())


def test_somebody_elses_repository_is_not_ours(tmp_path):
    """Installed into a virtual environment inside another project."""
    for words in (
        ["init", "-q"],
        ["-c", "user.name=x", "-c", "user.email=x@y", "commit", "-q", "--allow-empty", "-m", "x"],
    ):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    shutil.copytree(ROOT / "agd", tmp_path / "lib" / "agd", ignore=shutil.ignore_patterns("__pycache__"))
    code = "from agd.artifacts.provenance import commit; print(commit())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path / "lib")
    assert done.stdout == "unknown\n", done.stderr


def test_a_fingerprint_covers_what_is_read(tmp_path):
    """Another program's half-precision copy in the same folder changes no identity, and reruns nothing."""
    folder = tmp_path / "unet"
    folder.mkdir()
    for name in ("config.json", "diffusion_pytorch_model.safetensors"):
        (folder / name).write_text(name)
    whole, read = model_fingerprint(folder), base_models.files(tmp_path)
    for name in (
        "diffusion_pytorch_model.fp16.safetensors",
        "diffusion_pytorch_model.fp16-00001-of-00002.safetensors",
        "diffusion_pytorch_model.safetensors.index.fp16.json",
        "diffusion_pytorch_model.bin",
    ):
        (folder / name).write_text("other")
    assert (model_fingerprint(folder), base_models.files(tmp_path)) == (whole, read)
    (folder / "diffusion_pytorch_model.safetensors").write_text("changed")
    assert model_fingerprint(folder) != whole


def test_parts_and_a_variant_without_another_are_read(tmp_path):
    for name in ("a.fp16.safetensors", "b-00001-of-00002.safetensors", "b.safetensors.index.json"):
        (tmp_path / name).write_text(name)
    assert len(base_models.files(tmp_path)) == 3
