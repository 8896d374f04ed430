"""Makes diffusers work with an adapted denoiser: guidance scale, saving, recomputing, casting, offloading, compiling.

A pipeline may use the denoiser without `agd.load`, for example one made with `from_pipe`. A flag in the denoiser's
configuration tells such a pipeline to make one pass. Pipelines that know the flag pass the embedded scale as
`timestep_cond`.
"""

import functools
import sys
import types
from collections.abc import Callable

import torch
import torch.utils.checkpoint
from torch import nn

from agd.runtime.errors import UserError

_FLAG, _EMBEDDING_WIDTH = "time_cond_proj_dim", 8


def integrate(denoiser: nn.Module) -> None:
    """Make diffusers treat the denoiser as adapted. Everything is set on the instance; `restore` gives back what was there."""
    set_flag(denoiser, on=True)
    ours = {
        "save_pretrained": types.MethodType(_save_base(type(denoiser)), denoiser),
        "_skip_layerwise_casting_patterns": [*(denoiser._skip_layerwise_casting_patterns or []), "agd"],
        "enable_gradient_checkpointing": types.MethodType(enable_gradient_checkpointing, denoiser),
    }
    for name in ("add_adapter", "load_lora_adapter"):
        if hasattr(denoiser, name):
            ours[name] = types.MethodType(_leave_trainable(type(denoiser), name), denoiser)
    denoiser.agd.replaced = {name: vars(denoiser).get(name) for name in ours}
    vars(denoiser).update(ours)
    recomputed = {n: m for n, m in denoiser.named_modules() if getattr(m, "gradient_checkpointing", False)}
    denoiser.agd.recomputed_by = {name: module._gradient_checkpointing_func for name, module in recomputed.items()}
    for module in recomputed.values():
        module._gradient_checkpointing_func = denoiser.agd.checkpointed
    forget_compiled()


def restore(denoiser: nn.Module) -> None:
    """Undo `integrate`, before the adapters are removed. Recomputing that was switched on or off since stays so."""
    set_flag(denoiser, on=False)
    for name, before in denoiser.agd.replaced.items():
        vars(denoiser).pop(name)
        vars(denoiser).update({name: before} if before is not None else {})
    for name, module in denoiser.named_modules():
        if getattr(module, "_gradient_checkpointing_func", None) == denoiser.agd.checkpointed:
            module._gradient_checkpointing_func = denoiser.agd.recomputed_by.get(name, _recompute)
    forget_compiled()


def _recompute(block: Callable, *args):
    """Recompute a block in the backward pass, as diffusers does by default."""
    return torch.utils.checkpoint.checkpoint(block, *args, use_reentrant=False)


def is_flagged(denoiser: nn.Module) -> bool:
    """Return whether pipelines guide this denoiser in one pass."""
    return getattr(denoiser.config, _FLAG, None) is not None


def set_flag(denoiser: nn.Module, on: bool) -> None:
    """Set or clear the flag, if this kind of denoiser has one."""
    if _FLAG in denoiser.config:
        # Bypass the configuration's own storage: diffusers would save the flag, and the checkpoint lacks the flag's
        # weights.
        object.__setattr__(denoiser.config, _FLAG, _EMBEDDING_WIDTH if on else None)


def embedded_guidance_scale(embedded: torch.Tensor) -> torch.Tensor:
    """Recover the guidance scale w (B,) float32 from its sinusoidal embedding (B, 2k), for -30 < w < 32, any float
    dtype.

    Pipelines embed x = 1000 (w - 1) as sin(f x), cos(f x), with f from 1 down to 1/10000. The lowest frequency gives x
    without ambiguity, but coarsely. Each higher frequency gives x more finely, up to whole turns. The estimate from the
    frequency below it fixes the number of turns.
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
    """Return a `save_pretrained` that leaves out the adapters: it writes a stock checkpoint that any library opens."""

    @functools.wraps(kind.save_pretrained)
    def save_pretrained(denoiser, *args, **kwargs):
        if denoiser.agd.fused is not None:
            raise UserError("save_pretrained: the adapter is merged into the weights (fuse); unfuse it first")
        adapters = denoiser._modules.pop("agd")
        try:
            return kind.save_pretrained(denoiser, *args, **kwargs)
        finally:
            denoiser._modules["agd"] = adapters

    return save_pretrained


@functools.cache
def _leave_trainable(kind: type, name: str) -> Callable:
    """Return a method that adds a LoRA as diffusers' does. PEFT freezes all else; this leaves the adapters as they were."""
    stock = getattr(kind, name)

    @functools.wraps(stock)
    def add(denoiser, *args, **kwargs):
        trainable = [parameter for parameter in denoiser.agd.parameters() if parameter.requires_grad]
        try:
            return stock(denoiser, *args, **kwargs)
        finally:
            for parameter in trainable:
                parameter.requires_grad_(True)

    return add


def enable_gradient_checkpointing(denoiser: nn.Module, gradient_checkpointing_func: Callable | None = None) -> None:
    """Recompute the denoiser's blocks in the backward pass. Also set as `denoiser.enable_gradient_checkpointing()`."""
    chosen = gradient_checkpointing_func or denoiser.agd.checkpointed
    type(denoiser).enable_gradient_checkpointing(denoiser, chosen)


def execution_device(denoiser: nn.Module) -> torch.device:
    """Return the device that the denoiser computes on. An offloaded denoiser keeps its weights on another device."""
    hooks = (getattr(module, "_hf_hook", None) for module in denoiser.modules())
    devices = (getattr(hook, "execution_device", None) for hook in hooks)  # of accelerate: on the model or on each leaf
    return next((device for device in devices if device is not None), denoiser.device)


def forget_compiled() -> None:
    """Clear compiled code: it does not notice added or removed hooks, and must be compiled again."""
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()
