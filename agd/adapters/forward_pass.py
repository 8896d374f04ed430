"""The state of one forward pass, shared by the denoiser's adapters."""

import contextlib
import contextvars
import dataclasses
import math
import numbers
import threading
from collections.abc import Callable, Iterator

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


@dataclasses.dataclass(frozen=True, eq=False)
class Scale:
    """A guidance scale for a while: a user's, or a pipeline's call's.

    w: () or (B,) tensor, a function of the timestep, or None. off: the base model guides by itself.
    """

    w: torch.Tensor | Callable | None
    by_call: bool = False
    off: bool = False


class ForwardPass:
    """The state of one forward pass, shared by the denoiser's adapters. It is kept until the next pass begins.

    Each thread has its own: pipelines in several threads may share a denoiser. A thread in which PyTorch recomputes
    blocks gets that of the forward pass from `Adapters.checkpointed`.
    Callers set the guidance scale, for a while (`scale`) or until further notice (guidance_scale). Each pass sets the
    rest: its arguments, w as given and per sample, the features it is conditioned on and their embedding, and the factor
    of its adapters' outputs (0 where w <= 1).
    """

    # What is asked for now, as `refresh` found it: guidance_scale is also a number; by_call and off as in Scale.
    guidance_scale = _of_thread("guidance_scale")
    by_call = _of_thread("by_call", False)
    off = _of_thread("off", False)
    arguments = _of_thread("arguments")  # by name
    w = _of_thread("w")
    w_B = _of_thread("w_B")
    features = _of_thread("features")  # by name
    conditions = _of_thread("conditions")  # agd.adapters.layers.Conditions
    silu_BH = _of_thread("silu_BH")  # of the conditions' sum, once it was asked for
    share_B = _of_thread("share_B")

    def __init__(self):
        self.here = threading.local()
        # The scales of the running task or thread, the last one counts. Blocks may end in another order than they began.
        self.scales = contextvars.ContextVar("scales", default=())

    def set_scale(self, w) -> None:
        """Set the guidance scale in this thread until further notice. One that is set for a while comes before it."""
        self.here.lasting = w
        self.refresh()

    @contextlib.contextmanager
    def scale(self, one: Scale) -> Iterator[None]:
        """Set a guidance scale within the block."""
        self.scales.set((*self.scales.get(), one))
        self.refresh()
        try:
            yield
        finally:
            self.scales.set(tuple(other for other in self.scales.get() if other is not one))
            self.refresh()

    def refresh(self) -> None:
        """Look up what is asked for in the running task. torch.compile can't follow this, and takes what was found last."""
        open_now = self.scales.get()
        now = open_now[-1] if open_now else Scale(getattr(self.here, "lasting", None))
        self.guidance_scale, self.by_call, self.off = now.w, now.by_call, now.off

    @property
    def in_call(self) -> bool:
        """Whether a pipeline's call is running, of which this may be a callback."""
        return any(one.by_call for one in self.scales.get())

    def activated(self) -> torch.Tensor:
        """Return silu of the conditions' sum (B, H), for adapters of embeddings and normalizations.

        Computed once per pass, but in training: there, shared gradients would add up in another order, to other bits.
        """
        if torch.is_grad_enabled():
            return torch.nn.functional.silu(self.conditions.sum_BH)
        if self.silu_BH is None:
            self.silu_BH = torch.nn.functional.silu(self.conditions.sum_BH)
        return self.silu_BH

    def kept(self) -> dict:
        """Return this thread's state."""
        return dict(vars(self.here))

    def restore(self, kept: dict) -> None:
        """Replace this thread's state by one that `kept` returned."""
        vars(self.here).clear()
        vars(self.here).update(kept)

    def __reduce__(self):
        """Copies and pickles of the adapters begin anew: calls and blocks that set a scale are the original's."""
        return ForwardPass, ()


def number(value, what: str) -> float:
    """Return a finite number. Raises UserError, naming what it is, for anything else."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value):
        raise UserError(f"{what}: {value!r} is not a finite number; give one such as 2.0")
    return float(value)


def checked(w, what: str):
    """Return a guidance scale as a float32 tensor () or (B,) on its device, or a function of the timestep.

    w: a number, several in a list, a tensor, or a function. Raises UserError for anything else. what: its name in errors.
    """
    if isinstance(w, list | tuple):
        w = torch.tensor([number(one, what) for one in w], dtype=torch.float32, device="cpu")
    if isinstance(w, torch.Tensor):
        if w.ndim > 1 or not w.numel():
            raise UserError(f"{what}: a tensor of shape {tuple(w.shape)}; give a number, or one number per image")
        if not w.is_meta and not w.isfinite().all():
            raise UserError(f"{what}: not finite; give numbers such as 2.0")
        return w
    return w if callable(w) else constant(number(w, what))


def per_sample(w: torch.Tensor, batch: int, stacked: bool = False) -> torch.Tensor:
    """() or (b,) -> (B,). stacked: samples may be there several times (PAG); w is then repeated in the same order."""
    if w.ndim == 0 or len(w) == 1:
        return w.expand(batch)
    if batch % len(w) or (len(w) != batch and not stacked):
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
