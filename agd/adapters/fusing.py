"""Merges a `lora` into the base's linear layers for one guidance scale, and takes it out again, bit for bit.

W x + s B A x = (W + s B A) x, with s the gain at w. A merged pass costs nothing more than one of the base.
"""

import torch

from agd.adapters.anatomy import linears
from agd.adapters.forward_pass import constant, gain
from agd.runtime.errors import UserError


@torch.no_grad()
def fuse(adapters, w: float) -> None:
    """Merge the updates for the guidance scale w. Raises UserError if this adapter or its base can't be merged."""
    if adapters.config.kind != "lora":
        raise UserError(
            f"fuse: an adapter of kind {adapters.config.kind} depends on more than w; only lora can be merged"
        )
    if adapters.fused is not None:
        raise UserError(f"fuse: the adapter is merged for w = {adapters.fused[0]:g} already; unfuse it first")
    if not adapters.enabled:
        raise UserError("fuse: the adapter is switched off; enable it first")
    layers = linears(adapters.host)
    for name, linear in layers.items():
        if not linear.weight.is_floating_point() or linear.weight.is_meta:
            raise UserError(f"fuse: {name} has no weights to merge into (quantized or offloaded); leave it unfused")
    before = {name: linear.weight.detach().clone() for name, linear in layers.items()}
    share = (gain(torch.tensor([float(w)]), adapters.config) * adapters.current.strength).item()
    for linear, layer in zip(layers.values(), adapters.layers.values(), strict=True):
        update = share * layer.adapter.out.weight @ layer.adapter.down.weight
        linear.weight.copy_(linear.weight.float() + update)
    for handle in adapters.layer_handles:
        handle.remove()
    adapters.layer_handles = []
    adapters.fused = float(w), before
    adapters.check_range(constant(w))


@torch.no_grad()
def unfuse(adapters) -> None:
    """Restore the base's weights, bit for bit. Raises UserError if the adapter is not merged."""
    if adapters.fused is None:
        raise UserError("unfuse: the adapter is not merged; there is nothing to undo")
    _, before = adapters.fused
    for name, linear in linears(adapters.host).items():
        linear.weight.copy_(before[name])
    adapters.fused = None
    adapters.connect_layers()


def check_fused(adapters, w) -> None:
    """Raise UserError if the adapter is merged for another guidance scale than w."""
    if adapters.fused is None:
        return
    merged = adapters.fused[0]
    if callable(w) or bool((torch.as_tensor(w, dtype=torch.float32) - merged).abs().max() > 1e-3):
        raise UserError(f"guidance scale: the adapter is merged for w = {merged:g} (fuse); unfuse it first")


def check_projections(kind: str, attentions: list) -> None:
    """Raise UserError if diffusers calls other layers than the adapted ones, so that a low-rank update would be lost."""
    if any(type(attention.processor).__name__.startswith("Fused") for attention in attentions):
        raise UserError(
            f"fused projections: an adapter of kind {kind} changes the layers that they replace; "
            "call unfuse_qkv_projections() first"
        )
