"""How precise guidance is in a lower precision, and that it is recorded and said."""

import json

import pytest
import torch
from conftest import command

from agd.artifacts import trajectories
from agd.artifacts.images import read_images
from agd.diffusion import precision
from agd.dit.family import DiT

FEW = ("--num-inference-steps", 2, "--batch-size", 4)


def shard_and_words(base, folder, capsys, *words):
    command("sample_trajectories", "--base-model", base, "--num-trajectories", 4, *FEW, *words, "--output-dir", folder)
    return trajectories.read(folder / "000000.zarr.zip").provenance, capsys.readouterr().out


def test_a_coarse_dtype_is_recorded(base, tmp_path, capsys):
    coarse, _ = shard_and_words(base, tmp_path / "a", capsys, "--dtype", "bfloat16")
    fine, _ = shard_and_words(base, tmp_path / "b", capsys, "--dtype", "float16")
    assert 0 < fine["guidance_error"] < coarse["guidance_error"] / 3


def test_the_error_is_that_of_the_difference(base, monkeypatch, capsys):
    """A model whose outputs are off by a known share of `cond - uncond`."""
    call = DiT.call

    def off(self, x_BCHW, t, conditions):
        output = call(self, x_BCHW, t, conditions)
        if self.dtype == torch.bfloat16:
            return call_exactly(x_BCHW, t, conditions) * 1.25
        return output

    settings = type("Settings", (), dict(scheduler="default", guided_channels=0))()
    call_exactly = DiT(base, torch.float32, torch.device("cpu")).call
    monkeypatch.setattr(DiT, "call", off)
    opened = (base, DiT, settings, torch.bfloat16, torch.device("cpu"), 0, [3])
    _, measured = precision.open_measured(*opened, measure=True, conditions=True)
    assert measured["guidance_error"] == pytest.approx(0.25, abs=1e-3)
    assert "dtype: in bfloat16, guidance is wrong by 25%; float32 is slower and right" in capsys.readouterr().out


def test_only_what_needs_it_is_measured(base, tmp_path, capsys):
    exact, _ = shard_and_words(base, tmp_path / "a", capsys, "--dtype", "float32")
    assert "guidance_error" not in exact
    for guidance, expected in (("cfg", True), ("none", False)):
        words = ("--guidance", guidance, "--num-samples", 2, "--dtype", "bfloat16", *FEW)
        command("sample", "--base-model", base, *words, "--output-dir", tmp_path / guidance)
        record = read_images(tmp_path / guidance / "000000.zip")[1]["provenance"]
        assert ("guidance_error" in record) == expected, json.dumps(record)
