"""Fidelity: the figures themselves, the stage that measures them, and what training holds out."""

import csv
import json

import pytest
import torch
from conftest import command, training_words

from agd import measure_fidelity
from agd.adapters.model_card import model_card
from agd.diffusion import batches
from agd.diffusion.distillation import Unadapted
from agd.diffusion.fidelity import compare, figures, held_out_trajectories
from agd.runtime.errors import UserError


@pytest.fixture(scope="module")
def shards(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trajectories")
    words = ["--base-model", base, "--num-trajectories", 10, "--num-inference-steps", 10, "--output-dir", folder]
    command("sample_trajectories", *words)
    return folder


@pytest.fixture(scope="module")
def adapter(shards, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapter")
    command("train", *training_words(shards, folder, "--learning-rate", 0.01, steps=300))
    return folder


def measured(adapter, output, *more) -> dict:
    few = ("--num-trajectories", 6, "--num-inference-steps", 4, "--output", output)
    command("measure_fidelity", "--dir", adapter, *few, *more)
    return json.loads(output.read_text())


def test_figures_of_known_outputs():
    generator = torch.Generator().manual_seed(0)
    cond, guided, other = (torch.randn(3, 2, 4, 4, generator=generator) for _ in range(3))
    for adapted, unexplained, captured in (
        (guided, 0, 1),
        (cond, 1, 0),
        (cond + 0.5 * (guided - cond), 0.25, 0.5),
        (cond - (guided - cond), 4, -1),
    ):
        found = figures(compare(adapted, cond, guided).sum(0))
        assert found == pytest.approx({"unexplained": unexplained, "captured": captured}, abs=1e-6)
    apart = figures(compare(other, cond, guided).sum(0))
    assert apart["unexplained"] == pytest.approx(
        ((other - guided).square().sum() / (cond - guided).square().sum()).item()
    )
    assert figures(compare(cond, cond, cond).sum(0)) == {"unexplained": None, "captured": None}


def test_an_adapter_that_adds_nothing_explains_nothing(shards, tmp_path):
    command("train", *training_words(shards, tmp_path, "--learning-rate", 1e-12, steps=1))
    found = measured(tmp_path, tmp_path / "f.json")["by_guidance_scale"]
    assert list(found) == ["1.25", "1.5", "2", "3", "4"]  # trained on 1 to 3
    for record in found.values():
        assert record["unexplained"] == pytest.approx(1, abs=1e-4)
        assert record["captured"] == pytest.approx(0, abs=1e-4)
        assert record["divergence"]["latents"] == pytest.approx(1, abs=1e-3)
        assert len(record["timesteps"]) == len(record["unexplained_by_timestep"]) == 4


def test_a_trained_one_explains_some_of_it(adapter, tmp_path):
    found = measured(adapter, tmp_path / "f.json", "--guidance-scales", "2,3")["by_guidance_scale"]
    assert list(found) == ["2", "3"]
    for record in found.values():
        assert 0.05 < record["unexplained"] < 0.95
        assert 0.05 < record["captured"] < 1.2


def test_batches_change_nothing_but_rounding(adapter, tmp_path):
    one, other = (
        measured(adapter, tmp_path / f"{size}.json", "--batch-size", size)["by_guidance_scale"] for size in (6, 2)
    )
    for w, record in one.items():
        assert other[w]["unexplained"] == pytest.approx(record["unexplained"], rel=1e-4)
        assert other[w]["divergence"] == pytest.approx(record["divergence"], rel=1e-3)


def test_its_noise_is_not_that_of_training_or_of_samples():
    from agd.runtime.seeds import seed_of

    assert len({seed_of(0, purpose, i) for purpose in ("trajectory", "sample", "held out") for i in range(50)}) == 150


def test_auto_needs_to_know_the_trained_range():
    assert measure_fidelity.scales("auto", [1, 9]) == [2, 3, 5, 9, 13]
    with pytest.raises(UserError, match="guidance_scales: auto, but no adapter says a range"):
        measure_fidelity.scales("auto", None)


def test_the_last_trajectories_are_held_out(shards, tmp_path, monkeypatch):
    assert [held_out_trajectories(0.05, n) for n in (1, 2, 10, 1000)] == [0, 1, 1, 50]
    assert held_out_trajectories(0, 10) == 0
    assert held_out_trajectories(0.99, 3) == 2
    drawn = []
    monkeypatch.setattr(
        batches, "batch_indices", lambda k, seed, number, size: drawn.append(number) or torch.zeros(size).long()
    )
    command("train", *training_words(shards, tmp_path, "--held-out-fraction", 0.2, steps=5))
    assert set(drawn) == {80}  # of 10 trajectories of 10 steps
    (row,) = csv.DictReader((tmp_path / "training.csv").read_text().splitlines())
    assert 0 < float(row["unexplained"]) < 2
    described = json.loads((tmp_path / "config.json").read_text())
    assert described["fidelity"]["trajectories"] == 2
    assert described["fidelity"]["unexplained"] == float(row["unexplained"])
    said = f"{described['fidelity']['unexplained']:.6g}"
    assert f"| unexplained (trajectories held out) | {said} |" in model_card(described, "R")


def test_without_any_the_columns_are_empty(shards, tmp_path):
    command("train", *training_words(shards, tmp_path, "--held-out-fraction", 0, steps=5))
    (row,) = csv.DictReader((tmp_path / "training.csv").read_text().splitlines())
    assert row["unexplained"] == row["captured"] == ""


def test_weights_undo_what_guidance_differs_by():
    base = Unadapted(loss=1.0, timesteps=torch.tensor([100.0, 900.0]), guidance=torch.tensor([1.0, 0.01]))
    w, t = torch.tensor([2.0, 2.0, 2.0]), torch.tensor([100.0, 500.0, 900.0])
    weights = base.weights(w, t)
    assert weights / weights[0] == pytest.approx(torch.tensor([1.0, 10.0, 100.0]))
    outside = base.weights(w[:2], torch.tensor([0.0, 999.0]))
    assert outside == pytest.approx(weights[[0, 2]])
    one_level = Unadapted(loss=1.0, timesteps=torch.tensor([5.0]), guidance=torch.tensor([2.0]))
    assert one_level.weights(w, t).isfinite().all()
