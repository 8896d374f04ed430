"""Measures time and memory of a training: cost.json beside the adapter."""

import time
from pathlib import Path

import torch

from agd.artifacts.checkpoints import Progress
from agd.artifacts.sealed_json import write_sealed
from agd.runtime.devices import describe

FILE = "cost.json"


class Cost:
    """Time and memory of the training steps done in this process. Not part of config.json, for it differs each time."""

    def __init__(self, at: Progress, device: torch.device):
        self.at, self.device, self.first = at, device, at.step
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        self.started = time.perf_counter()

    def write(self, path: Path) -> None:
        """Write it, unless this process did no step: a record of the process that did may be there."""
        steps, seconds = self.at.step - self.first, time.perf_counter() - self.started
        if not steps and path.exists():
            return
        on_gpu = self.device.type == "cuda"
        record = {
            "seconds_per_step": seconds / steps if steps else None,
            "steps": self.at.step,
            "peak_gpu_bytes": torch.cuda.max_memory_allocated(self.device) if on_gpu else None,
            "device": describe(self.device),
        }
        write_sealed(path, record)
