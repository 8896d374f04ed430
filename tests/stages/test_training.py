"""Training: what it learns, that it can be stopped, shared and repeated, and that the base is not touched."""

import csv
import hashlib
import itertools
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import command, files, settings_of, training_words
from safetensors.torch import load_file

from agd import train
from agd.artifacts import checkpoints
from agd.diffusion.batches import batch_indices
from agd.dit.family import DiT


@pytest.fixture(scope="module")
def shards(base, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trajectories")
    words = ["--base-model", base, "--num-trajectories", 10, "--num-inference-steps", 10, "--output-dir", folder]
    command("sample_trajectories", *words)
    return folder


def test_learns_and_leaves_the_base_as_it_was(base, shards, tmp_path):
    before = {f: hashlib.sha256(f.read_bytes()).hexdigest() for f in Path(base).rglob("*") if f.is_file()}
    command("train", *training_words(shards, tmp_path, "--learning-rate", 0.01, steps=300))
    assert before == {f: hashlib.sha256(f.read_bytes()).hexdigest() for f in Path(base).rglob("*") if f.is_file()}
    rows = list(csv.DictReader((tmp_path / "training.csv").read_text().splitlines()))
    assert [int(row["step"]) for row in rows] == list(range(5, 301, 5))
    base_loss, last = float(rows[0]["base_loss"]), float(rows[-1]["loss"])
    assert last < 0.85 * base_loss
    described = json.loads((tmp_path / "config.json").read_text())
    assert described["size"]["parameters"] == sum(
        v.numel()
        for k, v in load_file(tmp_path / "adapter.safetensors").items()
        if "frequencies" not in k and "phases" not in k
    )
    assert described["guidance_scale_range"] == [1, 3]


def test_a_loss_that_is_not_finite_stops_at_once(shards, tmp_path, capsys):
    with pytest.raises(SystemExit):
        command("train", *training_words(shards, tmp_path, "--learning-rate", 9e15, steps=100_000))
    assert "error: loss: not finite at step 5; lower --learning-rate" in capsys.readouterr().err
    assert not (tmp_path / "adapter.safetensors").exists()


def test_the_base_in_memory_does_not_move(base, shards, tmp_path, monkeypatch):
    kept = {}

    class Watched(DiT):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            kept["model"] = self.denoiser
            kept["before"] = {k: v.clone() for k, v in self.denoiser.state_dict().items()}

    import argparse

    given = argparse.Namespace(dir=str(tmp_path), data_path=[str(shards)], base_model=None, base_record=None, seed=0)
    train.run(given, settings_of("train", train), Watched)
    after = kept["model"].state_dict()
    assert all(torch.equal(value, after[name]) for name, value in kept["before"].items())
    assert any(p.requires_grad for p in kept["model"].parameters())
    assert not [n for n, p in kept["model"].named_parameters() if p.requires_grad and not n.startswith("agd.")]


def test_the_first_loss_is_the_bases_own(base, shards, tmp_path):
    command(
        "train",
        *training_words(shards, tmp_path, "--log-interval", 1, "--learning-rate", 1e-9, "--batch-size", 4096, steps=3),
    )
    row = next(csv.DictReader((tmp_path / "training.csv").read_text().splitlines()))
    assert float(row["loss"]) == pytest.approx(float(row["base_loss"]), rel=0.1)


class Stopped(Exception):
    pass


@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("stop_at", [3, 7, 16])
def test_interrupted_and_resumed_equals_undisturbed(shards, tmp_path, monkeypatch, stop_at, dropout):
    more = ["--dropout", dropout]
    command("train", *training_words(shards, tmp_path / "whole", *more))
    seen, loop = [], train.train

    def stopping(*arguments):
        (at,) = (argument for argument in arguments if isinstance(argument, checkpoints.Progress))
        for asked in loop(*arguments):
            seen.append(at.step)
            yield asked
            if at.step == stop_at and len(seen) == stop_at:
                raise Stopped

    monkeypatch.setattr(train, "train", stopping)
    with pytest.raises(Stopped):
        command("train", *training_words(shards, tmp_path / "cut", *more))
    left = list(files(tmp_path / "cut")) if (tmp_path / "cut").exists() else []
    assert left == ([] if stop_at < 7 else [train.CHECKPOINT])
    command("train", *training_words(shards, tmp_path / "cut", *more))
    assert seen[stop_at] == 1 + stop_at // 7 * 7  # went on after the last checkpoint
    assert files(tmp_path / "cut") == files(tmp_path / "whole")


def test_a_finished_training_is_had_again_without_a_step(shards, tmp_path, monkeypatch, capsys):
    """As when Snakemake was killed before it knew: it deletes the outputs and asks for them again."""
    command("train", *training_words(shards, tmp_path / "R"))
    whole = files(tmp_path / "R")
    for name in ("adapter.safetensors", "config.json", "training.csv"):
        (tmp_path / "R" / name).unlink()
    monkeypatch.setattr(train, "learning_rate", lambda *_: pytest.fail("a step was made"))
    command("train", *training_words(shards, tmp_path / "R"))
    assert "going on from step 20 of" in capsys.readouterr().out
    assert files(tmp_path / "R") == whole


def test_a_checkpoint_of_another_training_is_not_taken_up(shards, tmp_path, capsys):
    saved = checkpoints.save
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1)).sum().backward()
    optimizer.step()
    (tmp_path / "R").mkdir()
    saved(tmp_path / "R" / train.CHECKPOINT, model, optimizer, checkpoints.Progress(step=9), "another")
    command("train", *training_words(shards, tmp_path / "R"))
    assert "belongs to another training" in capsys.readouterr().out
    command("train", *training_words(shards, tmp_path / "fresh"))
    assert files(tmp_path / "R") == files(tmp_path / "fresh")


def test_seeds_differ_and_repeat(shards, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        command("train", *training_words(shards, tmp_path / name, "--seed", seed))
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert files(tmp_path / "a")["adapter.safetensors"] != files(tmp_path / "c")["adapter.safetensors"]


def test_reading_workers_change_nothing(shards, tmp_path):
    command("train", *training_words(shards, tmp_path / "alone"))
    command("train", *training_words(shards, tmp_path / "workers", "--num-workers", 2))
    assert files(tmp_path / "alone") == files(tmp_path / "workers")


def two_processes(*options) -> subprocess.Popen:
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "agd.dit.train"]
    command = [sys.executable, *map(str, (*launch, *options, "--model", "digits-dit"))]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(run: subprocess.Popen) -> str:
    """Wait for it; what it said, if all went well."""
    said, _ = run.communicate()
    assert run.returncode == 0, said
    return said


def test_two_processes_give_the_same_up_to_summation_order(shards, tmp_path):
    command("train", *training_words(shards, tmp_path / "one"))
    finish(two_processes(*training_words(shards, tmp_path / "two", "--gpu", 2)))
    one, two = (load_file(tmp_path / name / "adapter.safetensors") for name in ("one", "two"))
    for name in one:
        assert torch.allclose(one[name], two[name], atol=1e-4), name


def test_two_processes_stop_together_and_go_on(shards, tmp_path):
    def run(name: str) -> subprocess.Popen:
        return two_processes(
            *training_words(shards, tmp_path / name, "--gpu", 2, "--checkpoint-interval", 20, steps=200)
        )

    finish(run("whole"))
    cut = run("cut")
    while not (tmp_path / "cut" / train.CHECKPOINT).exists():
        assert cut.poll() is None, cut.communicate()
        time.sleep(0.01)
    cut.terminate()
    said, _ = cut.communicate()
    assert cut.returncode != 0
    assert "stopped by SIGTERM; the same command goes on" in said
    assert list(files(tmp_path / "cut")) == [train.CHECKPOINT]
    assert checkpoints.read(tmp_path / "cut" / train.CHECKPOINT)[1]["progress"]["step"] < 200
    assert "going on from step" in finish(run("cut"))
    assert files(tmp_path / "cut") == files(tmp_path / "whole")


def test_more_gpus_than_processes_is_one_line(shards, tmp_path, capsys):
    with pytest.raises(SystemExit):
        command("train", *training_words(shards, tmp_path, "--gpu", 2))
    assert (
        "gpu: 2 GPUs want as many processes; start with `torchrun --standalone --nproc-per-node 2 -m`"
        in capsys.readouterr().err
    )


def test_learning_rate_rises_then_falls():
    chosen = settings_of(
        "train", train, steps=100, warmup_fraction=0.1, learning_rate=1.0, final_learning_rate_fraction=0.01
    )
    rates = [train.rate(step, chosen) for step in range(100)]
    assert rates[:10] == pytest.approx([i / 10 for i in range(1, 11)])
    assert rates[10] == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(0.01)
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))


def test_another_base_is_refused(shards, other_base, tmp_path, capsys):
    with pytest.raises(SystemExit):
        command("train", *training_words(shards, tmp_path, "--base-model", other_base))
    assert "which is another model than" in capsys.readouterr().err


def test_wrong_batch_indices_would_show():
    first = batch_indices(0, 0, 1000, 64)
    assert torch.equal(first, batch_indices(0, 0, 1000, 64))
    assert not torch.equal(first, batch_indices(1, 0, 1000, 64))
    assert first.min() >= 0
    assert first.max() < 1000
