"""The state of one forward pass, shared by the denoiser's adapters."""

import contextlib
import threading
from collections.abc import Iterator

import torch

from agd.adapters.config import AdapterConfig
from agd.runtime.errors import UserError


def constant(number: float) -> torch.Tensor:
    """Return a number as a CPU tensor, whatever the default device: a new value then needs no new compilation."""
    return torch.tensor(number, dtype=torch.float32, device="cpu")


def _of_thread(name: str, default=None) -> property:
    """An attribute that each thread has for itself. Written so that torch.compile follows it."""

    def read(self):
        return getattr(self.here, name, default)

    def write(self, value):
        setattr(self.here, name, value)

    return property(read, write)


class ForwardPass:
    """The state of one forward pass, shared by the denoiser's adapters. It is kept until the next pass begins.

    Each thread has its own: pipelines in several threads may share a denoiser. A thread in which PyTorch recomputes
    blocks gets that of the forward pass from `Adapters.checkpointed`.
    Callers set guidance_scale, and `off` for a call that the base model guides by itself; in_call says that a pipeline's
    call has set them, and not the user. Each pass sets the rest: its
    arguments, w as given and per sample, the features it is conditioned on and their embedding, and the factor of its
    adapters' outputs (0 where w <= 1).
    """

    guidance_scale = _of_thread("guidance_scale")  # () or (B,) tensor, a number, a function of the timestep, or None
    off = _of_thread("off", False)
    in_call = _of_thread("in_call", False)
    arguments = _of_thread("arguments")  # by name
    w = _of_thread("w")
    w_B = _of_thread("w_B")
    features = _of_thread("features")  # by name
    conditions = _of_thread("conditions")  # agd.adapters.layers.Conditions
    share_B = _of_thread("share_B")

    def __init__(self, kept: dict | None = None):
        self.here = threading.local()
        self.restore(kept or {})

    def kept(self) -> dict:
        """Return this thread's state."""
        return dict(vars(self.here))

    def restore(self, kept: dict) -> None:
        """Replace this thread's state by one that `kept` returned."""
        vars(self.here).clear()
        vars(self.here).update(kept)

    @contextlib.contextmanager
    def call(self) -> Iterator[None]:
        """Let a pipeline's call set this thread's state. It is restored after the block: a callback may make a call."""
        before = self.kept()
        self.in_call, self.off = True, False
        try:
            yield
        finally:
            self.restore(before)

    def __reduce__(self):
        """Let copies and pickles of the adapters keep what the caller has set. They begin with a pass of their own."""
        return ForwardPass, ({name: value for name, value in self.kept().items() if name in ("guidance_scale", "off")},)


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
