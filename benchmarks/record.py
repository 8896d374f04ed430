"""Writes what a benchmark found, with the machine and the versions, to benchmarks/results/{name}.json."""

import importlib.metadata
import json
import os
import platform
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

RESULTS = Path(__file__).resolve().parent / "results"


def positive(text: str) -> int:
    """Read an option that must be 1 or more."""
    if int(text) < 1:
        raise ValueError(text)
    return int(text)


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return the median and the extremes of several rounds."""
    return {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}


def machine(device: str = "cpu") -> dict:
    """Return processor, cores, Python and the versions of the libraries that decide how fast a stage is."""
    models = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    found = {"processor": models[0] if models else platform.machine(), "cores": len(os.sched_getaffinity(0))}
    if device != "cpu":
        import torch

        found["gpu"] = torch.cuda.get_device_name()
    versions = {name: importlib.metadata.version(name) for name in ("torch", "diffusers", "snakemake", "zarr")}
    return {**found, "python": platform.python_version(), **versions}


def write(name: str, figures: dict | list, device: str = "cpu", folder: Path = RESULTS, say: bool = True) -> None:
    """Write a record, with what was typed. say: whether to print the figures too."""
    folder.mkdir(parents=True, exist_ok=True)
    module = Path(sys.argv[0]).stem
    words = [word for word in sys.argv[1:] if word != "--output-dir" and word != str(folder)]
    command = " ".join([f"python -m benchmarks.{module}", *words])
    record = {"command": command, "machine": machine(device), "figures": figures}
    (folder / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    if say:
        print(json.dumps(figures))
