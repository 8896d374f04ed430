"""Tells which arguments of a pipeline's call change what guidance means. No trained adapter can follow them."""

import functools
from typing import Any

import torch


def beyond_adapters(pipe, given: dict[str, Any], defaults: dict[str, Any]) -> str | None:
    """Return the first argument of a call that changes what guidance means. No trained adapter can do that."""
    nothing = functools.cache(lambda: _embeds_of_nothing(pipe, given.get("clip_skip")))
    for name, value in given.items():
        if not name.startswith("negative_"):
            continue
        if isinstance(value, torch.Tensor):
            empty = any(_same(value, one) for one in nothing().get(name, []))
        else:
            texts = value if isinstance(value, list) else [value]
            empty = value == defaults[name] or all(text == "" for text in texts)
        if not empty:
            return name
    return "guidance_rescale" if given.get("guidance_rescale") else None


@torch.no_grad()
def _embeds_of_nothing(pipe, clip_skip: int | None) -> dict[str, list[torch.Tensor]]:
    """Return what `encode_prompt` gives for no negative prompt and for an empty one, by the name of the call's argument.

    Empty without text encoders: then nobody can tell what embeddings say.
    """
    encoders = [getattr(pipe, name) for name in ("text_encoder", "text_encoder_2") if hasattr(pipe, name)]
    if not encoders or None in encoders:
        return {}
    found: dict[str, list[torch.Tensor]] = {}
    for prompt in (None, ""):
        wanted = dict(device=pipe._execution_device, num_images_per_prompt=1, do_classifier_free_guidance=True)
        wanted |= {"clip_skip": clip_skip} if clip_skip is not None else {}  # not every class has it
        encoded = pipe.encode_prompt("", negative_prompt=prompt, **wanted)
        for name, value in zip(
            ("negative_prompt_embeds", "negative_pooled_prompt_embeds"), encoded[1::2], strict=False
        ):
            if value is not None:
                found.setdefault(name, []).append(value)
    return found


def _same(embeds: torch.Tensor, one: torch.Tensor) -> bool:
    """Return whether all of several embeddings (B, ...) are one (1, ...), but for the rounding of other batches."""
    if embeds.shape[1:] != one.shape[1:]:
        return False
    difference = (embeds.to(one.device, torch.float32) - one.float()).flatten(1).norm(dim=1)
    return bool((difference <= 0.01 * one.float().norm()).all())
