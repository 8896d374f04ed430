"""Denoising, one sample's randomness at a time: what trajectories and images have in common."""

import hashlib
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import nn

from agd.devices import fitting


def seed_of(seed: int, purpose: str, index: int) -> int:
    """Seed of one sample: a function of the study's seed and the sample's index, never of its batch or chunk."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{index}".encode()).digest()
    return int.from_bytes(digest[:8]) >> 1


def generators(seed: int, purpose: str, indices: Sequence[int]) -> list[torch.Generator]:
    """One CPU generator per sample: CPU, so that every device draws the same noise."""
    return [torch.Generator().manual_seed(seed_of(seed, purpose, i)) for i in indices]


def uniform(low: float, high: float, draw: Sequence[torch.Generator]) -> torch.Tensor:
    """One number per generator from [low, high): (B,) float32."""
    return torch.stack([low + (high - low) * torch.rand((), generator=g) for g in draw])


def in_turn(subjects: Sequence, indices: Sequence[int]) -> list:
    """The class or prompt of each sample: they take turns."""
    return [subjects[i % len(subjects)] for i in indices]


def in_batches(indices: list[int], batch_size: int, work: Callable[[list[int]], object], bar) -> Iterator:
    """work(batch) of one batch after the other. A batch that the GPU has no room for is halved, and so are those after
    it; `bar`, which work moves on, goes back for what is done again."""
    first, size = 0, batch_size
    while first < len(indices):
        reached = bar.n

        def attempt(number: int):
            bar.update(reached - bar.n)  # noqa: B023, called within the loop's turn
            return work(indices[first : first + number])  # noqa: B023

        done, size = fitting(min(size, len(indices) - first), "batch_size", attempt)
        first += size
        yield done


def noise(shape: Sequence[int], draw: Sequence[torch.Generator]) -> torch.Tensor:
    """Standard normal (B, *shape), one generator per sample."""
    return torch.stack([torch.randn(tuple(shape), generator=g) for g in draw])


def denoise(
    predict: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], scheduler, noise_BCHW: torch.Tensor, steps: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Sample with a diffusers scheduler; yields, per step, the timestep (), the denoiser's input after the scheduler's
    scaling, the output, and the next sample, all (B, C, H, W).

    predict: (input, timestep) -> output. Deterministic schedulers only; the family sees to that.
    """
    scheduler.set_timesteps(steps, device=noise_BCHW.device)
    x_BCHW = noise_BCHW * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        model_input = scheduler.scale_model_input(x_BCHW, t)
        output = predict(model_input, t)
        x_BCHW = scheduler.step(output, t, x_BCHW).prev_sample
        yield t, model_input, output, x_BCHW


class Counter:
    """Counts function evaluations of a denoiser, one per sample of each forward pass, by a hook on the module itself."""

    def __init__(self, denoiser: nn.Module):
        self.evaluations = 0
        self._handle = denoiser.register_forward_hook(self._count)

    def _count(self, module, args, output):
        sample = output[0] if isinstance(output, tuple) else output.sample
        self.evaluations += sample.shape[0]

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._handle.remove()
