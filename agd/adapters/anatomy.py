"""Describes where a denoiser takes adapters, and the widths there."""

import dataclasses
from collections.abc import Callable

import torch
from torch import nn

from agd.adapters.config import AdapterConfig


@dataclasses.dataclass(frozen=True)
class Anatomy:
    """Where one kind of denoiser takes adapters. Each family defines its own.

    entry: name of a submodule that every pass calls first, before any block and outside gradient checkpointing.
    attentions: denoiser -> {name: attention module}, the attention modules that get an adapter.
    widths: denoiser -> {"timestep": width, "class" or "prompt": width} of the embeddings that `embed` returns.
    embed: (denoiser, arguments of the pass by name, output of the entry) -> {name: (B, m, width)}.
    """

    entry: str
    attentions: Callable[[nn.Module], dict[str, nn.Module]]
    widths: Callable[[nn.Module], dict[str, int]]
    embed: Callable[[nn.Module, dict, torch.Tensor], dict[str, torch.Tensor]]


def used_widths(denoiser: nn.Module, config: AdapterConfig, anatomy: Anatomy) -> dict[str, int]:
    """Return name -> width of the base model's embeddings that condition this adapter."""
    use = {True: config.use_timestep, False: config.use_condition}
    return {name: width for name, width in anatomy.widths(denoiser).items() if use[name == "timestep"]}


def layer_widths(denoiser: nn.Module, anatomy: Anatomy) -> dict[str, int]:
    """Return name -> width D of each adapted attention."""
    return {name: attention.to_out[0].out_features for name, attention in anatomy.attentions(denoiser).items()}
