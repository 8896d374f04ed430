"""The state of one forward pass, shared by the denoiser's adapters."""

import dataclasses
from collections.abc import Callable

import torch

from agd.adapters.config import AdapterConfig
from agd.adapters.layers import Conditions
from agd.runtime.errors import UserError


def constant(number: float) -> torch.Tensor:
    """Return a number as a CPU tensor, whatever the default device: a new value then needs no new compilation."""
    return torch.tensor(number, dtype=torch.float32, device="cpu")


@dataclasses.dataclass(eq=False)
class ForwardPass:
    """The state of one forward pass, shared by the denoiser's adapters. It is kept until the next pass begins.

    This is a plain object, so that hooks in any thread, and a later recomputation, find it.
    Callers set guidance_scale and strength. Each pass sets the rest: its arguments, w as given and per sample, the
    features it is conditioned on and their embedding, and the factor of its adapters' outputs (0 where w <= 1).
    """

    guidance_scale: torch.Tensor | float | Callable | None = None
    strength: torch.Tensor = dataclasses.field(default_factory=lambda: constant(1.0))
    arguments: dict = dataclasses.field(default_factory=dict)
    w: torch.Tensor | float | None = None
    w_B: torch.Tensor | None = None
    features: dict = dataclasses.field(default_factory=dict)
    conditions: Conditions | None = None
    share_B: torch.Tensor | None = None


def per_sample(w: torch.Tensor, batch: int) -> torch.Tensor:
    """() or (b,) -> (B,). Some batches stack their samples several times (PAG); w is repeated in the same order."""
    if w.ndim == 0 or len(w) == 1:
        return w.expand(batch)
    if batch % len(w):
        raise UserError(f"guidance scale: {len(w)} values for a batch of {batch}; give one, or one per sample")
    return w.repeat(batch // len(w))


def of_batch(values: torch.Tensor, batch: int) -> torch.Tensor:
    """(B, ...) -> (batch, ...). Some attention processors split a batch in which samples are stacked several times."""
    if len(values) == batch:
        return values
    if len(values) % batch:
        raise UserError(f"adapters: a layer was called with {batch} samples in a pass of {len(values)}")
    return values[:batch]


def gain(w_B: torch.Tensor, config: AdapterConfig) -> torch.Tensor:
    """Return the factor (B,) of what adapters add: 0 where w <= 1; above, (w - 1) / (w_max - 1) at most 1, or 1.

    Guidance is linear in w - 1: with this factor, an adapter learns a direction, and at w = 1 there is no jump.
    """
    if config.gain:
        return ((w_B - 1) / (config.guidance_scale_max - 1)).clamp(0, 1)
    return (w_B > 1).float()
