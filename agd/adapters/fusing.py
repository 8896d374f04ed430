"""Merges a `lora` into the base's linear layers for one guidance scale, and takes it out again, bit for bit.

W x + s B A x = (W + s B A) x, with s the gain at w. A merged pass costs nothing more than one of the base.
"""

import functools

import torch

from agd.adapters.anatomy import linears
from agd.adapters.diffusers_integration import forget_compiled
from agd.adapters.forward_pass import constant, gain, number
from agd.runtime.errors import UserError


@torch.no_grad()
def fuse(adapters, w: float) -> None:
    """Merge the updates for the guidance scale w. Raises UserError if this adapter or its base can't be merged.

    If it is interrupted, the weights are what they were.
    """
    w = number(w, "fuse")
    if not adapters.config.mergeable:
        raise UserError(
            f"fuse: an adapter of kind {adapters.config.kind} depends on more than w; only lora can be merged"
        )
    if adapters.fused is not None:
        raise UserError(f"fuse: the adapter is merged for w = {adapters.fused[0]:g} already; unfuse it first")
    if not adapters.enabled:
        raise UserError("fuse: the adapter is switched off; enable it first")
    if adapters.current.guidance_scale is not None and is_other(adapters.current.guidance_scale, w):
        raise UserError(f"fuse: another guidance scale than {w:g} is in force (`with adapters.scale`); leave it first")
    layers = linears(adapters.host)
    for name, linear in layers.items():
        if not linear.weight.is_floating_point() or linear.weight.is_meta:
            raise UserError(f"fuse: {name} has no weights to merge into (quantized or offloaded); leave it unfused")
    adapters.check_range(constant(w))
    before = {name: linear.weight.detach().clone() for name, linear in layers.items()}
    try:
        for name, linear in layers.items():
            linear.weight.copy_(_merged(adapters, name, before[name], w))
    except BaseException:
        for name, linear in layers.items():
            linear.weight.copy_(before[name])
        raise
    for handle in adapters.layer_handles:
        handle.remove()
    adapters.layer_handles = _refusals(adapters)
    adapters.fused = w, before
    forget_compiled()


@torch.no_grad()
def unfuse(adapters) -> None:
    """Restore the base's weights, bit for bit.

    Raises UserError if the adapter is not merged, or if something else has changed the weights since.
    """
    if adapters.fused is None:
        raise UserError("unfuse: the adapter is not merged; there is nothing to undo")
    w, before = adapters.fused
    layers = linears(adapters.host)
    for name, linear in layers.items():
        expected = _merged(adapters, name, before[name].to(linear.weight.device), w).float()
        # A move to another dtype and back rounds.
        if not torch.allclose(linear.weight.float(), expected, rtol=1e-2, atol=1e-6):
            raise UserError(
                f"unfuse: {name} is not what `fuse` left there (a LoRA was merged or taken out, or weights were loaded); "
                "undo that first"
            )
    for name, linear in layers.items():
        linear.weight.copy_(before[name])
    for handle in adapters.layer_handles:
        handle.remove()
    adapters.fused = None
    adapters.connect_layers()
    forget_compiled()


def _merged(adapters, name: str, before: torch.Tensor, w: float) -> torch.Tensor:
    """Return a layer's weight with its update at w, in float32 and then in the weight's dtype."""
    layer = adapters.layers[name.replace(".", "_")].adapter
    share = (gain(torch.tensor([w]), adapters.config) * adapters.strength).item()
    update = share * layer.out.weight.to(before.device) @ layer.down.weight.to(before.device)
    return (before.float() + update).to(before.dtype)


def _refusals(adapters) -> list:
    """Hooks that refuse to read or replace the weights while they are merged."""

    refuse = functools.partial(_refuse, adapters)
    both = (adapters.host, adapters)
    return [
        *(module.register_state_dict_pre_hook(refuse) for module in both),
        *(module.register_load_state_dict_pre_hook(refuse) for module in both),
    ]


def _refuse(adapters, *_) -> None:
    adapters.check_not_fused("state_dict")


def is_other(w, merged: float) -> bool:
    """Return whether a guidance scale is not the one, for all samples and steps."""
    return callable(w) or not bool((torch.as_tensor(w, dtype=torch.float32) - merged).abs().max() <= 1e-3)


def check_fused(adapters, w) -> None:
    """Raise UserError if the adapter is merged for another guidance scale than w."""
    if adapters.fused is not None and is_other(w, adapters.fused[0]):
        raise UserError(f"guidance scale: the adapter is merged for w = {adapters.fused[0]:g} (fuse); unfuse it first")


def check_projections(kind: str, attentions: list) -> None:
    """Raise UserError if diffusers calls other layers than the adapted ones, so that a low-rank update would be lost."""
    if any(type(attention.processor).__name__.startswith("Fused") for attention in attentions):
        raise UserError(
            f"fused projections: an adapter of kind {kind} changes the layers that they replace; "
            "call unfuse_qkv_projections() first"
        )
