"""Adapts every self-attention of `DiTTransformer2DModel`."""

import torch
from torch import nn

from agd.adapters.anatomy import Anatomy


def _attentions(denoiser: nn.Module) -> dict[str, nn.Module]:
    return {str(i): block.attn1 for i, block in enumerate(denoiser.transformer_blocks)}


def _embeddings(denoiser: nn.Module) -> dict[str, nn.Module]:
    """Each block embeds timestep and class by itself; the last layer reads the first block's embedding."""
    return {str(i): block.norm1.emb for i, block in enumerate(denoiser.transformer_blocks)}


def _widths(denoiser: nn.Module) -> dict[str, int]:
    width = denoiser.inner_dim
    return {"timestep": width, "class": width}


def _embed(denoiser: nn.Module, arguments: dict, entry_output: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the base's embeddings of the timestep and class, (B, 1, D) each, from its first block."""
    embedder = denoiser.transformer_blocks[0].norm1.emb
    frequencies = embedder.time_proj(arguments["timestep"]).to(entry_output.dtype)
    t_BD = embedder.timestep_embedder(frequencies)
    class_BD = embedder.class_embedder(arguments["class_labels"])
    return {"timestep": t_BD[:, None], "class": class_BD[:, None]}


def _example(denoiser: nn.Module) -> dict:
    described = denoiser.config
    latents = torch.zeros(1, described.in_channels, described.sample_size, described.sample_size)
    return {"hidden_states": latents, "timestep": torch.zeros(1), "class_labels": torch.zeros(1, dtype=torch.long)}


ANATOMY = Anatomy(
    entry="pos_embed", attentions=_attentions, embeddings=_embeddings, widths=_widths, embed=_embed, example=_example
)
