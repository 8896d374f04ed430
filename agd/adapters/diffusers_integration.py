"""Makes diffusers work with an adapted denoiser: saving, recomputing, casting, offloading, compiling."""

import functools
import sys
import types
from collections.abc import Callable

import torch
import torch.utils.checkpoint
from torch import nn

from agd.runtime.errors import UserError


def integrate(denoiser: nn.Module) -> None:
    """Make diffusers treat the denoiser as adapted. Everything is set on the instance; `restore` gives back what was there."""
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


def is_distilled(denoiser: nn.Module) -> bool:
    """Return whether the denoiser takes a guidance scale by itself."""
    return getattr(denoiser.config, "time_cond_proj_dim", None) is not None


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
