"""The distillation objective: one pass of the adapted model against stored guided outputs (arXiv 2503.07274)."""

import math
from collections.abc import Iterator

import torch
from torch import nn
from torch.utils.data import default_collate

from agd.artifacts.trajectories import Pairs
from agd.runtime.devices import fitting
from agd.runtime.seeds import seed_of

_BASE_LOSS_PAIRS = 1024


def learning_rate(step: int, steps: int, peak: float, warmup_fraction: float, final_fraction: float) -> float:
    """Return the learning rate of a step counted from 0: a linear warmup, then a cosine down to the final fraction."""
    warmup = round(warmup_fraction * steps)
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - 1 - warmup)
    return peak * (final_fraction + (1 - final_fraction) * (1 + math.cos(math.pi * done)) / 2)


def batch_indices(step: int, seed: int, pairs: int, batch_size: int) -> torch.Tensor:
    """Draw the pairs of one step (batch_size,), uniformly with repeats.

    Depends only on the study's seed and the step.
    """
    generator = torch.Generator().manual_seed(seed_of(seed, "batch", step))
    return torch.randint(pairs, (batch_size,), generator=generator)


class Distillation(nn.Module):
    """Compares one pass of the model with the stored guided outputs.

    A module, so that several devices can share the work.
    """

    def __init__(self, model):
        super().__init__()
        self.denoiser = model.denoiser
        self.model = model

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Batch of pairs -> mean squared error (), in float32."""
        conditions = {k.removeprefix("conditions/"): v for k, v in batch.items() if k.startswith("conditions/")}
        output = self.model.call(batch["x"].float(), batch["timestep"], conditions)
        return nn.functional.mse_loss(output, batch["target"].float())


def on_device(batch: dict[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
    """Move a batch to a device."""
    return {name: values.to(device, non_blocking=True) for name, values in batch.items()}


def micro_batches(batch: dict[str, torch.Tensor], size: int) -> Iterator[tuple[dict[str, torch.Tensor], float]]:
    """Split a batch into parts of at most `size` pairs, each with its share: the parts' gradients add up to the
    batch's."""
    number = len(batch["x"])
    for first in range(0, number, size):
        part = {name: values[first : first + size] for name, values in batch.items()}
        yield part, len(part["x"]) / number


@torch.no_grad()
def unadapted_loss(distillation: Distillation, pairs: Pairs, micro_batch_size: int, seed: int) -> float:
    """Return the mean squared error of the unadapted base model, over pairs drawn by the seed.

    Training should get below it.
    """
    generator = torch.Generator().manual_seed(seed_of(seed, "base loss", 0))
    chosen = torch.randint(len(pairs), (_BASE_LOSS_PAIRS,), generator=generator)
    device = distillation.model.device

    def mean(size: int) -> float:
        parts = (on_device(default_collate([pairs[i] for i in part]), device) for part in chosen.split(size))
        return sum(distillation(part).item() * len(part["x"]) for part in parts) / _BASE_LOSS_PAIRS

    return fitting(micro_batch_size, "micro_batch_size", mean)[0]
