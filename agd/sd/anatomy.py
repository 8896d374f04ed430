"""Adapts every cross-attention of `UNet2DConditionModel`."""

import torch
from torch import nn

from agd.adapters.anatomy import Anatomy
from agd.runtime.errors import UserError


def _attentions(denoiser: nn.Module) -> dict[str, nn.Module]:
    """Find cross-attentions by what they do, not by name: `attn2` is self-attention in some models."""
    return {name: module for name, module in denoiser.named_modules() if getattr(module, "is_cross_attention", False)}


def _embeddings(denoiser: nn.Module) -> dict[str, nn.Module]:
    """Every ResNet block reads the embedding of the timestep."""
    return {"timestep": denoiser.time_embedding}


def _norms(denoiser: nn.Module) -> dict[str, nn.GroupNorm]:
    """The last normalization bounds the output, and nothing tells it the timestep."""
    return {"out": denoiser.conv_norm_out}


def _check_inputs(denoiser: nn.Module) -> None:
    """Raise UserError unless a UNet takes what text to image takes: prompts as tokens, projected (Kolors) or not."""
    described = denoiser.config
    blocks = (*described.down_block_types, described.mid_block_type or "", *described.up_block_types)
    unlike = {
        "encoder_hid_dim_type": described.encoder_hid_dim_type
        not in (None, "ip_image_proj", "text_proj"),  # IF, Kandinsky
        "addition_embed_type": described.addition_embed_type not in (None, "text_time"),
        "block types": any(name.startswith(("SimpleCross", "UNetMidBlock2DSimple")) for name in blocks),
    }
    if wrong := [name for name, is_so in unlike.items() if is_so]:
        raise UserError(
            f"this UNet takes other inputs than those of Stable Diffusion and SDXL ({wrong[0]} of its configuration); give one of these"
        )


def _widths(denoiser: nn.Module) -> dict[str, int]:
    _check_inputs(denoiser)
    projected = denoiser.config.encoder_hid_dim_type == "text_proj"
    width = denoiser.config.encoder_hid_dim if projected else denoiser.config.cross_attention_dim
    widths = {
        "timestep": denoiser.time_embedding.linear_2.out_features,
        "prompt": width if isinstance(width, int) else width[0],
    }
    if (
        denoiser.config.addition_embed_type == "text_time"
    ):  # SDXL, which adds the prompt's summary to that of the timestep
        sizes = 6 * denoiser.config.addition_time_embed_dim
        widths["summary"] = denoiser.config.projection_class_embeddings_input_dim - sizes
    return widths


def _embed(denoiser: nn.Module, arguments: dict, entry_output: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the base's embedding of the timestep (B, 1, width), and the prompt's tokens (B, n, width) and summary.

    Take the tokens from the denoiser's arguments, not the attention's: IP-Adapter adds image tokens to the attention's.
    """
    _check_mask(arguments.get("encoder_attention_mask"))
    features = {"timestep": entry_output[:, None], "prompt": arguments["encoder_hidden_states"]}
    if denoiser.config.addition_embed_type == "text_time":
        features["summary"] = arguments["added_cond_kwargs"]["text_embeds"][:, None]
    return features


def _check_mask(mask: torch.Tensor | None) -> None:
    """Raise UserError if tokens are masked: adapters were trained on all of the prompt's tokens."""
    if mask is not None and not bool(mask.ndim == 2 and mask.bool().all()):
        raise UserError(
            "encoder_attention_mask: adapters read all of the prompt's tokens; leave it out, or agd.unload the adapters"
        )


def _example(denoiser: nn.Module) -> dict:
    """A prompt of 77 tokens, CLIP's length."""
    described = denoiser.config
    side = described.sample_size
    arguments = {
        "sample": torch.zeros(1, described.in_channels, side, side),
        "timestep": torch.zeros(1),
        "encoder_hidden_states": torch.zeros(1, 77, _widths(denoiser)["prompt"]),
    }
    if described.addition_embed_type == "text_time":
        summary = torch.zeros(1, _widths(denoiser)["summary"])
        arguments["added_cond_kwargs"] = {"text_embeds": summary, "time_ids": torch.zeros(1, 6)}
    return arguments


ANATOMY = Anatomy(
    entry="time_embedding",
    attentions=_attentions,
    embeddings=_embeddings,
    norms=_norms,
    widths=_widths,
    embed=_embed,
    example=_example,
)
