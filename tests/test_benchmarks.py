"""The scripts of benchmarks/ run, and count what they say they count."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import random_text_to_image
from diffusers import DiffusionPipeline
from studies import forked

import agd
from agd.adapters.pipelines import denoiser_of
from agd.settings import families

ROOT = Path(__file__).resolve().parent.parent


def printed(name: str, *words) -> list[str]:
    command = [sys.executable, "-m", f"benchmarks.{name}", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, env=os.environ | forked())
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def run(name: str, *words) -> dict:
    return json.loads(printed(name, *words)[-1])


def test_memory_of_training():
    found = run("sdxl_memory", "--small", "--device", "cpu", "--batch-size", 3, "--micro-batch-size", 2, "--steps", 1)
    assert found["adapted_layers"] == 11
    assert found["gradient_checkpointing"] is True
    assert found["seconds_per_step"] > 0


def test_stock_pipelines_pay_one_pass(tmp_path):
    pipe = random_text_to_image(double=True)
    pipe.save_pretrained(tmp_path / "base")
    adapters = agd.attach(pipe, agd.AdapterConfig(hidden_size=8, zero_init=False))
    agd.save(adapters, tmp_path / "adapter")
    words = ("--base", tmp_path / "base", "--adapter", tmp_path / "adapter", "--device", "cpu", "--rounds", 1)
    found = run("stock_pipeline", *words, "--steps", 20)
    counted = {name: (row["calls"], row["samples"]) for name, row in found["methods"].items()}
    assert counted == {"none": (20, 20), "cfg": (20, 40), "agd": (20, 20), "cfg, after unload": (20, 40)}
    assert found["equal_after_unload"] is True


def test_cost_of_each_kind(tmp_path):
    words = ("--small", "--models", "SDXL", "DiT-XL/2", "--output-dir", tmp_path)
    rows = [line.strip("| ").split(" | ") for line in printed("adapter_cost", *words)[2:]]
    by_kind = {kind: cells for model, kind, *cells in rows if model == "SDXL"}
    assert len(rows) == 2 * len(by_kind)
    share = {kind: float(cells[2].rstrip("%")) for kind, cells in by_kind.items()}
    operators = {kind: int(cells[3]) for kind, cells in by_kind.items()}
    assert share["embedding"] < share["lora 16"] < share["lora 64 and embedding"]
    assert operators["embedding"] < operators["cross_attention"] < operators["published, cross_attention"]
    assert by_kind["cross_attention"][4:6] == ["-", "-"]
    assert by_kind["lora 16"][4:6] == ["0.00%", "4"]  # w as a tensor and its gain
    assert all(float(cells[6].rstrip("%")) > share[kind] for kind, cells in by_kind.items())  # going back costs more
    assert int(by_kind["lora 16 and embedding"][5]) == operators["embedding"]


def test_time_of_one_pass(tmp_path):
    words = ("--models", "DiT-XL/2", "--batch-sizes", 1, "--rounds", 2, "--passes", 1, "--output-dir", tmp_path)
    words += ("--shapes", "small", "--device", "cpu")
    found = run("one_pass", *words, "--kinds", "lora 16 and embedding", "lora 16 and embedding, merged")
    assert list(found["ratios"]) == ["guidance", "lora 16 and embedding", "lora 16 and embedding, merged"]
    assert all(0 < r["lowest"] <= r["median"] <= r["highest"] for r in found["ratios"].values())
    assert json.loads((tmp_path / "one_pass-small-cpu.json").read_text())["figures"] == [found]


def test_what_agd_adds_to_the_models_own_work(tmp_path):
    few = ("--rounds", 1, "--number", 6, "--steps", 2, "--output-dir", tmp_path)
    printed("overhead", *few, "--models", "digits-sdxl", "--shapes")
    record = json.loads((tmp_path / "overhead.json").read_text())
    found = record["figures"]["digits-sdxl"]
    assert found["trajectories_over_denoiser"]["median"] > 1
    assert found["step_over_plain_passes"]["median"] > 1
    assert 0 < found["share_waiting_for_data"]["median"] < 1
    assert record["machine"]["cores"] >= 1


def test_a_study_of_many_chunks_is_planned_and_found_finished(tmp_path):
    printed("dag", "--chunks", 3, "--rounds", 1, "--output-dir", tmp_path)
    (found,) = json.loads((tmp_path / "dag.json").read_text())["figures"]
    assert found["chunks"] == 3
    assert found["dry_run"]["median"] > 0 < found["finished"]["median"]


@pytest.mark.parametrize("model", ["sdxl", "sd21", "dit"])
def test_bases_of_full_size_are_pipelines(model, tmp_path):
    printed("full_size", model, tmp_path, "--small", "--device", "cpu")
    pipe = DiffusionPipeline.from_pretrained(tmp_path)
    assert type(denoiser_of(pipe)).__name__ in families.denoisers()
