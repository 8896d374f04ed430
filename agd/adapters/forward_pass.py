"""The state of one forward pass, shared by the denoiser's adapters."""

import dataclasses
from collections.abc import Callable

import torch

from agd.runtime.errors import UserError


def constant(number: float) -> torch.Tensor:
    """Return a number as a CPU tensor, whatever the default device: a new value then needs no new compilation."""
    return torch.tensor(number, dtype=torch.float32, device="cpu")


@dataclasses.dataclass(eq=False)
class ForwardPass:
    """The state of one forward pass, shared by the denoiser's adapters. It is kept until the next pass begins.

    This is a plain object, so that hooks in any thread, and a later recomputation, find it.
    Callers set guidance_scale and strength. Each pass sets the rest: its arguments, w as given and per sample, the
    features and tokens it is conditioned on, and the factor of its adapters' outputs (0 where w <= 1).
    """

    guidance_scale: torch.Tensor | float | Callable | None = None
    strength: torch.Tensor = dataclasses.field(default_factory=lambda: constant(1.0))
    arguments: dict = dataclasses.field(default_factory=dict)
    w: torch.Tensor | float | None = None
    w_B: torch.Tensor | None = None
    features: dict = dataclasses.field(default_factory=dict)
    tokens_BMH: torch.Tensor | None = None
    share_B11: torch.Tensor | None = None


def per_sample(w: torch.Tensor, batch: int) -> torch.Tensor:
    """() or (b,) -> (B,). Some batches stack their samples several times (PAG); w is repeated in the same order."""
    if w.ndim == 0 or len(w) == 1:
        return w.expand(batch)
    if batch % len(w):
        raise UserError(f"guidance scale: {len(w)} values for a batch of {batch}; give one, or one per sample")
    return w.repeat(batch // len(w))
