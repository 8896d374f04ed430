"""A base's weights in a variant: read where there are no plain ones, and never in place of those."""

import shutil
from pathlib import Path

import pytest
import torch
from conftest import random_text_to_image

from agd.diffusion.base_models import variant
from agd.dit.family import DiT
from agd.runtime.errors import UserError
from agd.sd.family import StableDiffusion


def renamed(folder: Path, *parts: str, name: str = "fp16") -> Path:
    """Give the weights of these parts, or of all, the name of a variant."""
    for file in folder.rglob("*.safetensors"):
        if not parts or file.parent.name in parts:
            file.rename(file.with_suffix(f".{name}.safetensors"))
    return folder


def opened(kind, folder):
    return kind(str(folder), torch.float32, torch.device("cpu"), conditions=True, images=True)


@pytest.mark.parametrize("kind", [DiT, StableDiffusion])
def test_a_folder_of_one_variant_is_opened(kind, base, tmp_path):
    source = Path(base)
    if kind is StableDiffusion:
        random_text_to_image().save_pretrained(source := tmp_path / "stable")
    folder = renamed(Path(shutil.copytree(source, tmp_path / "base")))
    plain, other = opened(kind, source), opened(kind, folder)
    for mine, theirs in zip(plain.denoiser.parameters(), other.denoiser.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    subjects = [3] if kind is DiT else ["a cat"]
    for name, values in plain.conditions(subjects).items():
        assert torch.equal(values, other.conditions(subjects)[name])
    assert plain.identity["fingerprint"] != other.identity["fingerprint"]


def test_some_parts_may_have_plain_weights(base, tmp_path):
    folder = renamed(Path(shutil.copytree(base, tmp_path / "base")), "transformer")
    assert variant(folder, ["transformer", "vae"]) == "fp16"
    opened(DiT, folder)


def test_plain_weights_come_first(base, tmp_path):
    folder = Path(shutil.copytree(base, tmp_path / "base"))
    for file in folder.rglob("*.safetensors"):
        shutil.copy(file, file.with_suffix(".fp16.safetensors"))
    assert variant(folder, ["transformer", "vae"]) is None
    assert opened(DiT, folder).identity["fingerprint"] == opened(DiT, base).identity["fingerprint"]


def test_variants_beside_each_other_are_named(base, tmp_path):
    folder = Path(shutil.copytree(base, tmp_path / "base"))
    shutil.copy(
        folder / "vae/diffusion_pytorch_model.safetensors", folder / "vae/diffusion_pytorch_model.fp16.safetensors"
    )
    renamed(folder, "transformer")
    with pytest.raises(UserError, match=r"vae: weights of several variants \(fp16\) beside each other; leave one"):
        opened(DiT, folder)
    (folder / "vae/diffusion_pytorch_model.safetensors").unlink()
    opened(DiT, folder)
    renamed(folder, "vae", name="bf16")
    (folder / "vae/diffusion_pytorch_model.fp16.bf16.safetensors").rename(
        folder / "vae/diffusion_pytorch_model.bf16.safetensors"
    )
    with pytest.raises(UserError, match=r"transformer: weights of several variants \(bf16, fp16\)"):
        opened(DiT, folder)
