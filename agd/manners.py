"""What diffusers does with an adapted denoiser as a whole: how pipelines hand it the guidance scale, how it is saved,
recomputed, cast, placed and compiled.

Pipelines that nobody wrapped (agd/pipelines.py), such as one made with `from_pipe`, are told by a flag that this
denoiser is guided in one pass: those that know the flag then pass the scale, embedded, as `timestep_cond`.
"""

import functools
import sys
import types
from collections.abc import Callable

import torch
from torch import nn

_FLAG, _EMBEDDING_WIDTH = "time_cond_proj_dim", 8


def acquire(denoiser: nn.Module) -> None:
    """Behave as an adapted denoiser. Everything is set on the instance: taking it off is deleting it."""
    flag(denoiser, on=True)
    denoiser.save_pretrained = types.MethodType(_save_base(type(denoiser)), denoiser)
    denoiser._skip_layerwise_casting_patterns = [*(denoiser._skip_layerwise_casting_patterns or []), "agd"]
    denoiser.enable_gradient_checkpointing = types.MethodType(enable_gradient_checkpointing, denoiser)
    if denoiser.is_gradient_checkpointing:
        denoiser.enable_gradient_checkpointing()
    _forget_compiled()


def relinquish(denoiser: nn.Module) -> None:
    """Behave as the base again."""
    flag(denoiser, on=False)
    del denoiser.save_pretrained, denoiser._skip_layerwise_casting_patterns, denoiser.enable_gradient_checkpointing
    if denoiser.is_gradient_checkpointing:
        denoiser.enable_gradient_checkpointing()
    _forget_compiled()


def flagged(denoiser: nn.Module) -> bool:
    """Whether pipelines take this denoiser for one that is guided in one pass."""
    return getattr(denoiser.config, _FLAG, None) is not None


def flag(denoiser: nn.Module, on: bool) -> None:
    """Set or lift the flag, where this kind of denoiser has one."""
    if _FLAG in denoiser.config:
        # Past the configuration, not into it: that would be saved, and a checkpoint would lack the weights it promises.
        object.__setattr__(denoiser.config, _FLAG, _EMBEDDING_WIDTH if on else None)


def decode(embedded: torch.Tensor) -> torch.Tensor:
    """Guidance scale w (B,) float32 of its sinusoidal embedding (B, 2k), for -30 < w < 32, in any float dtype.

    Pipelines embed x = 1000 (w - 1) as sin(f x), cos(f x), f from 1 down to 1/10000. The slowest pair says x without
    doubt but coarsely; each faster one says it more finely, up to whole turns, which the one before settles.
    """
    half = embedded.shape[1] // 2
    sines, cosines = embedded.float().split(half, dim=1)
    phases = torch.atan2(sines, cosines)
    frequencies = [10000 ** (-i / (half - 1)) for i in range(half)]
    x_B = phases[:, -1] / frequencies[-1]
    for i in reversed(range(half - 1)):
        turns = torch.round((x_B * frequencies[i] - phases[:, i]) / (2 * torch.pi))
        x_B = (phases[:, i] + 2 * torch.pi * turns) / frequencies[i]
    return 1 + x_B / 1000


@functools.cache
def _save_base(kind: type) -> Callable:
    """`save_pretrained` for a kind of denoiser, the adapters left out: a stock checkpoint, which any library opens."""

    @functools.wraps(kind.save_pretrained)
    def save_pretrained(denoiser, *args, **kwargs):
        adapters = denoiser._modules.pop("agd")
        try:
            return kind.save_pretrained(denoiser, *args, **kwargs)
        finally:
            denoiser._modules["agd"] = adapters

    return save_pretrained


def enable_gradient_checkpointing(denoiser: nn.Module, gradient_checkpointing_func: Callable | None = None) -> None:
    """Recompute the blocks of an adapted denoiser in its backward pass; also `denoiser.enable_gradient_checkpointing()`."""
    chosen = gradient_checkpointing_func or denoiser.agd.checkpointed
    type(denoiser).enable_gradient_checkpointing(denoiser, chosen)


def execution_device(denoiser: nn.Module) -> torch.device:
    """Where the denoiser computes, which for an offloaded one is not where its weights are."""
    hooks = (getattr(module, "_hf_hook", None) for module in denoiser.modules())
    devices = (getattr(hook, "execution_device", None) for hook in hooks)  # accelerate's: model, or each leaf by itself
    return next((device for device in devices if device is not None), denoiser.device)


def _forget_compiled() -> None:
    """Compiled code does not notice hooks that come and go: have it compiled anew."""
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()
