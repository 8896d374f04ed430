"""A scheduler's SIGTERM, and a GPU that is full: one line each, and nothing lost."""

import re
import signal

import pytest
import torch
from conftest import command, files, training_words

from agd import train
from agd.dit.family import DiT

SHARDS = ("--num-trajectories", 10, "--num-inference-steps", 4, "--batch-size", 5)
IMAGES = ("--guidance", "cfg", "--num-samples", 6, "--num-inference-steps", 3, "--batch-size", 4)


@pytest.fixture(scope="module")
def shards(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trajectories")
    command("sample_trajectories", "--base-model", base, *SHARDS, "--output-dir", folder)
    return folder


def terminated(*arguments) -> None:
    with pytest.raises(SystemExit) as ended:
        command(*arguments)
    assert ended.value.code == 143


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_training_keeps_its_state_at_sigterm_and_goes_on(shards, tmp_path, monkeypatch, capsys, dropout):
    given = ["--dropout", dropout, "--micro-batch-size", 3, "--checkpoint-interval", 100]
    command("train", *training_words(shards, tmp_path / "whole", *given))
    forward, calls = train.Distillation.forward, []

    def interrupted(self, batch):
        calls.append(batch)
        # Some way into a step: after the 342 parts of the unadapted loss, the second of three parts of the fifth step.
        if len(calls) == -(-1024 // 3) + 4 * 3 + 2:
            signal.raise_signal(signal.SIGTERM)
        return forward(self, batch)

    monkeypatch.setattr(train.Distillation, "forward", interrupted)
    capsys.readouterr()
    terminated("train", *training_words(shards, tmp_path / "cut", *given))
    said = capsys.readouterr()
    assert "agd.dit.train: stopped by SIGTERM; the same command goes on" in said.err.splitlines()
    assert "Traceback" not in said.err
    assert list(files(tmp_path / "cut")) == [train.CHECKPOINT]
    command("train", *training_words(shards, tmp_path / "cut", *given))
    assert "going on from step 5 of" in capsys.readouterr().out
    assert files(tmp_path / "cut") == files(tmp_path / "whole")


@pytest.mark.parametrize(("stage", "given"), [("sample_trajectories", SHARDS), ("sample", IMAGES)])
def test_sampling_leaves_nothing_half_written_at_sigterm(base, tmp_path, monkeypatch, capsys, stage, given):
    call, calls = DiT.call, []

    def interrupted(self, *arguments):
        calls.append(arguments)
        if len(calls) == 4:
            signal.raise_signal(signal.SIGTERM)
        return call(self, *arguments)

    monkeypatch.setattr(DiT, "call", interrupted)
    before = signal.getsignal(signal.SIGTERM)
    terminated(stage, "--base-model", base, *given, "--output-dir", tmp_path / "out")
    assert f"agd.dit.{stage}: stopped by SIGTERM" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert signal.getsignal(signal.SIGTERM) == before


OUT_OF_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 YiB")
CUBLAS = RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")


def full_above(limit: int, monkeypatch, error: Exception = OUT_OF_MEMORY, method: str = "call") -> None:
    """A GPU that has room for `limit` samples at once, in one of the model's methods."""
    call = getattr(DiT, method)

    def on_a_small_gpu(self, x_BCHW, *arguments):
        if len(x_BCHW) > limit:
            raise error
        return call(self, x_BCHW, *arguments)

    monkeypatch.setattr(DiT, method, on_a_small_gpu)


def halvings(said: str) -> list[str]:
    return re.findall(r"^(\w+: \d+) at once is more than the GPU has room for; going on with (\d+)$", said, re.M)


@pytest.mark.parametrize(("stage", "given"), [("sample_trajectories", SHARDS), ("sample", IMAGES)])
def test_sampling_halves_a_batch_that_does_not_fit(base, tmp_path, monkeypatch, capsys, stage, given):
    by_hand = [*given[:-1], 2]
    command(stage, "--base-model", base, *by_hand, "--output-dir", tmp_path / "by-hand")
    full_above(4, monkeypatch)  # two samples, each with and without its class
    capsys.readouterr()
    command(stage, "--base-model", base, *given, "--output-dir", tmp_path / "halved")
    said = capsys.readouterr()
    assert halvings(said.out) == [(f"batch_size: {given[-1]}", "2")]
    total = {"sample_trajectories": "40/40", "sample": "18/18"}[stage]
    assert f"{total} (100%)" in said.err
    left, right = ({k: v for k, v in files(tmp_path / n).items() if "json" not in k} for n in ("halved", "by-hand"))
    assert left == right
    if stage == "sample":
        assert b'"evaluations": 36' in files(tmp_path / "halved")["000000.json"]


def test_libraries_beneath_say_full_in_their_own_words(base, tmp_path, monkeypatch, capsys):
    full_above(4, monkeypatch, CUBLAS)
    command("sample", "--base-model", base, *IMAGES, "--output-dir", tmp_path)
    assert len(halvings(capsys.readouterr().out)) == 1
    full_above(4, monkeypatch, RuntimeError("CUDA error: an illegal memory access was encountered"))
    with pytest.raises(RuntimeError, match="illegal memory access"):
        command("sample", "--base-model", base, *IMAGES, "--output-dir", tmp_path)


def test_decoding_that_does_not_fit_repeats_only_the_decoding(base, tmp_path, monkeypatch, capsys):
    command("sample", "--base-model", base, *IMAGES, "--output-dir", tmp_path / "whole")
    full_above(1, monkeypatch, method="images")
    capsys.readouterr()
    command("sample", "--base-model", base, *IMAGES, "--output-dir", tmp_path / "in-parts")
    assert halvings(capsys.readouterr().out)
    whole, in_parts = (files(tmp_path / name) for name in ("whole", "in-parts"))
    assert in_parts["000000.zip"] == whole["000000.zip"]
    assert b'"evaluations": 36' in in_parts["000000.json"]


def test_training_halves_a_micro_batch_that_does_not_fit(shards, tmp_path, monkeypatch, capsys):
    more = ("--dropout", 0.2, "--held-out-fraction", 0.2)
    command("train", *training_words(shards, tmp_path / "by-hand", "--micro-batch-size", 2, *more))
    full_above(2, monkeypatch)
    capsys.readouterr()
    command("train", *training_words(shards, tmp_path / "halved", "--micro-batch-size", 8, *more))
    one_by_one = [("micro_batch_size: 8", "4"), ("micro_batch_size: 4", "2")]
    assert halvings(capsys.readouterr().out) == one_by_one * 3  # unadapted loss, fidelity, training
    assert files(tmp_path / "halved") == files(tmp_path / "by-hand")


@pytest.mark.parametrize("stage", ["sample_trajectories", "sample", "train"])
def test_one_that_does_not_fit_is_one_line(base, shards, tmp_path, monkeypatch, capsys, stage):
    full_above(0, monkeypatch)
    given = {"sample_trajectories": SHARDS, "sample": IMAGES, "train": training_words(shards, tmp_path)}[stage]
    folder = () if stage == "train" else ("--base-model", base, "--output-dir", tmp_path)
    with pytest.raises(SystemExit) as ended:
        command(stage, *given, *folder)
    assert ended.value.code == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    setting = "micro_batch_size" if stage == "train" else "batch_size"
    assert errors == [
        f"agd.dit.{stage}: error: {setting}: 1 at once is more than the GPU has room for; free it, or take a larger one"
    ]
