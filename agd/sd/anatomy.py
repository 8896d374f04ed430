"""Where `UNet2DConditionModel` takes adapters: every cross-attention."""

import torch
from torch import nn

from agd.hooks import Anatomy


def _attentions(denoiser: nn.Module) -> dict[str, nn.Module]:
    """By what they do, not by their name: `attn2` is self-attention in some models."""
    return {name: module for name, module in denoiser.named_modules() if getattr(module, "is_cross_attention", False)}


def _widths(denoiser: nn.Module) -> dict[str, int]:
    width = denoiser.config.cross_attention_dim
    prompt = width if isinstance(width, int) else width[0]
    return {"timestep": denoiser.time_embedding.linear_2.out_features, "prompt": prompt}


def _embed(denoiser: nn.Module, arguments: dict, entry_output: torch.Tensor) -> dict[str, torch.Tensor]:
    """The base's own embedding of t (B, 1, width), and the prompt's tokens as the text encoder gave them (B, n, width).

    They are the denoiser's argument, not the attention's: there, IP-Adapter has put image tokens beside them.
    """
    return {"timestep": entry_output[:, None], "prompt": arguments["encoder_hidden_states"]}


ANATOMY = Anatomy(entry="time_embedding", attentions=_attentions, widths=_widths, embed=_embed)
