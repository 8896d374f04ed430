"""Describes where a denoiser takes adapters, and the widths there."""

import dataclasses
import re
from collections.abc import Callable

import torch
from torch import nn

from agd.adapters.config import FULL, LOW_RANK, AdapterConfig
from agd.adapters.tuned_weights import weight_shapes
from agd.runtime.errors import UserError

# The linear layers of attention and feed-forward in diffusers' transformer blocks. PEFT's LoRA keeps them as base_layer.
_LINEAR = re.compile(
    r"(.*\btransformer_blocks\.\d+\.(?:attn\d\.to_(?:q|k|v|out\.0)|ff\.net\.(?:0\.proj|2)))(\.base_layer)?"
)


@dataclasses.dataclass(frozen=True)
class Anatomy:
    """Where one kind of denoiser takes adapters. Each family defines its own.

    entry: name of a submodule that every pass calls first, before any block and outside gradient checkpointing.
    attentions: denoiser -> {name: attention module}, the attention modules that get an adapter.
    widths: denoiser -> {"timestep": width, "class" or "prompt": width} of the embeddings that `embed` returns. Also
        "summary" if the base adds one of the prompt to the timestep's embedding; adapters with an embedding read it.
    embed: (denoiser, arguments of the pass by name, output of the entry) -> {name: (B, m, width)}.
    example: denoiser -> the arguments of a pass of one sample, on the default device; to count its operations.
    embeddings: denoiser -> {name: module}, whose output (B, width of the timestep's embedding) tells blocks the timestep.
    norms: denoiser -> {name: GroupNorm}, the last normalization if it doesn't read these embeddings.
    """

    entry: str
    attentions: Callable[[nn.Module], dict[str, nn.Module]]
    widths: Callable[[nn.Module], dict[str, int]]
    embed: Callable[[nn.Module, dict, torch.Tensor], dict[str, torch.Tensor]]
    example: Callable[[nn.Module], dict]
    embeddings: Callable[[nn.Module], dict[str, nn.Module]] = lambda denoiser: {}
    norms: Callable[[nn.Module], dict[str, nn.GroupNorm]] = lambda denoiser: {}


def linears(denoiser: nn.Module) -> dict[str, nn.Linear]:
    """Return name -> linear layer of attention and feed-forward, in all transformer blocks of a diffusers model."""
    found = {}
    for name, module in denoiser.named_modules():
        match = _LINEAR.fullmatch(name)
        if match and isinstance(module, nn.Linear):
            found[match[1]] = module
    return found


def adapted_modules(denoiser: nn.Module, config: AdapterConfig, anatomy: Anatomy) -> dict[str, nn.Module]:
    """Return name -> module whose output this kind of adapter adds to: attentions, linear layers, or none."""
    if config.kind in ("embedding", FULL):
        return {}
    return linears(denoiser) if config.kind in LOW_RANK else anatomy.attentions(denoiser)


def embedding_modules(denoiser: nn.Module, config: AdapterConfig, anatomy: Anatomy) -> dict[str, nn.Module]:
    """Return name -> module to whose output this adapter adds its vector. Raises UserError if the family names none."""
    found = anatomy.embeddings(denoiser) if config.embeds else {}
    if config.embeds and not found:
        raise UserError(f"embedding: not for a {type(denoiser).__name__}; choose another kind, without embedding")
    return found


def norm_modules(denoiser: nn.Module, config: AdapterConfig, anatomy: Anatomy) -> dict[str, nn.GroupNorm]:
    """Return name -> normalization whose output this adapter scales and shifts."""
    return anatomy.norms(denoiser) if config.embeds else {}


def used_widths(denoiser: nn.Module, config: AdapterConfig, anatomy: Anatomy) -> dict[str, int]:
    """Return name -> width of the base model's embeddings that condition this adapter."""
    use = {"timestep": config.use_timestep, "summary": config.use_condition and config.embeds}
    widths = anatomy.widths(denoiser) if config.conditioned else {}
    return {name: width for name, width in widths.items() if use.get(name, config.use_condition)}


def base_shape(denoiser: nn.Module, config: AdapterConfig, anatomy: Anatomy) -> dict[str, dict]:
    """Return the widths that a base must have for this adapter, for its `config.json`.

    layers: name -> width of an attention's output, or [input, output] of a linear layer. embeddings: name -> width.
    norms: name -> channels.
    features: name -> width of what conditions it. weights: name -> shape, for the kind `full` alone.
    """
    modules = adapted_modules(denoiser, config, anatomy)
    low_rank = config.kind in LOW_RANK
    width = anatomy.widths(denoiser)["timestep"]
    return {
        "layers": {
            name: [module.in_features, module.out_features] if low_rank else module.to_out[0].out_features
            for name, module in modules.items()
        },
        "embeddings": dict.fromkeys(embedding_modules(denoiser, config, anatomy), width),
        "norms": {k: norm.num_channels for k, norm in norm_modules(denoiser, config, anatomy).items()},
        "features": used_widths(denoiser, config, anatomy),
    } | ({"weights": weight_shapes(denoiser)} if config.kind == FULL else {})
