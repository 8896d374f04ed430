"""The scripts of benchmarks/ run, and count what they say they count."""

import json
import subprocess
import sys
from pathlib import Path

from conftest import random_text_to_image

import agd

ROOT = Path(__file__).resolve().parent.parent


def run(name: str, *words) -> dict:
    command = [sys.executable, "-m", f"benchmarks.{name}", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


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
