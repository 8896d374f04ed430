"""The sampling loop, with a generator per sample. Trajectories and images share it."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import nn

from agd.runtime.devices import fitting
from agd.runtime.errors import UserError
from agd.runtime.seeds import seed_of


def generators(seed: int, purpose: str, indices: Sequence[int]) -> list[torch.Generator]:
    """Return one generator per sample. They are on the CPU, so that every device draws the same noise."""
    return [torch.Generator().manual_seed(seed_of(seed, purpose, i)) for i in indices]


def uniform(low: float, high: float, draw: Sequence[torch.Generator]) -> torch.Tensor:
    """Draw one number per generator from [low, high): (B,) float32."""
    return torch.stack([low + (high - low) * torch.rand((), generator=g) for g in draw])


def in_turn(subjects: Sequence, indices: Sequence[int]) -> list:
    """Return the subject of each index; subjects repeat in order."""
    return [subjects[i % len(subjects)] for i in indices]


def in_batches(indices: list[int], batch_size: int, work: Callable[[list[int]], object], bar) -> Iterator:
    """Yield work(batch) for each batch. If a batch doesn't fit on the GPU, it and all later batches are halved.

    `work` advances `bar`. The bar moves back for work that is repeated.
    """
    first, size = 0, batch_size
    while first < len(indices):
        reached = bar.n

        def attempt(number: int):
            bar.update(reached - bar.n)  # noqa: B023, called within the loop's turn
            return work(indices[first : first + number])  # noqa: B023

        done, size = fitting(min(size, len(indices) - first), "batch_size", attempt)
        first += size
        yield done


def decoded(model, latents_BCHW: torch.Tensor) -> torch.Tensor:
    """Decode latents (B, C, h, w) to images (B, channels, H, W) uint8 on the CPU, in parts if they don't fit on the GPU."""

    def images(number: int) -> torch.Tensor:
        return torch.cat([model.images(part).cpu() for part in latents_BCHW.split(number)])

    return fitting(len(latents_BCHW), "batch_size", images)[0]


def eight_bits(decoded_BCHW: torch.Tensor) -> torch.Tensor:
    """Convert decoded images (B, C, H, W) in [-1, 1] to uint8. Raises UserError if a value is not finite: it would be black."""
    if not decoded_BCHW.isfinite().all():
        raise UserError(
            "dtype: an image has values that are not finite; use bfloat16 or float32, or a lower guidance_scale"
        )
    return ((decoded_BCHW / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)


def noise(shape: Sequence[int], draw: Sequence[torch.Generator]) -> torch.Tensor:
    """Draw standard normal noise (B, *shape), one generator per sample."""
    return torch.stack([torch.randn(tuple(shape), generator=g) for g in draw])


def denoise(
    predict: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], scheduler, noise_BCHW: torch.Tensor, steps: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Sample with a diffusers scheduler. Yields the timestep (), and the denoiser's input, its output and the next
    sample.

    The three tensors are (B, C, H, W); the input is scaled by the scheduler. predict: (input, timestep) -> output. Only
    for deterministic schedulers; the family checks this.
    """
    scheduler.set_timesteps(steps, device=noise_BCHW.device)
    x_BCHW = noise_BCHW * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        model_input = scheduler.scale_model_input(x_BCHW, t)
        output = predict(model_input, t)
        x_BCHW = scheduler.step(output, t, x_BCHW).prev_sample
        yield t, model_input, output, x_BCHW


class EvaluationCounter:
    """Counts evaluations of the denoiser with a forward hook: one per sample of each forward pass."""

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
