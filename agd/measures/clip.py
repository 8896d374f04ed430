"""Computes the CLIP score: how well images match their prompts."""

from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import torch
from PIL import Image

from agd.artifacts.sealed_json import parse_json
from agd.diffusion.base_models import check_weights
from agd.runtime.errors import UserError, errors_say


def clip_score(
    pairs: Iterable[tuple[Image.Image, str]], model_folder: str, device: torch.device, batch_size: int
) -> float:
    """Return the mean over (image, prompt) pairs of 100 * max(cos(image embedding, text embedding), 0), in [0, 100].

    Hessel et al. (CLIPScore, arXiv 2104.08718) scale the cosine by 2.5. Most text-to-image papers and torchmetrics use
    100 times the cosine, as here. Compare scores only if the CLIP model is the same. Long prompts are truncated to the
    text encoder's limit. Raises UserError if the folder holds no CLIP model with safetensors weights.
    """
    model, processor = load(model_folder)
    model = model.to(device)
    longest = model.config.text_config.max_position_embeddings
    scores, remaining = [], iter(pairs)
    while batch := list(islice(remaining, batch_size)):
        images, prompts = zip(*batch, strict=True)
        cut = {"padding": True, "truncation": True, "max_length": longest}
        inputs = processor(
            text=list(prompts), images=[image.convert("RGB") for image in images], return_tensors="pt", **cut
        )
        with torch.no_grad():
            embedded = model(**inputs.to(device))  # both have length 1
        cosines = (embedded.image_embeds * embedded.text_embeds).sum(dim=1)
        scores += (100 * cosines.clamp(min=0)).tolist()
    return sum(scores) / len(scores)


def load(model_folder: str):
    """Load the CLIP model and the processor of a local folder. Raises UserError if it holds none."""
    from transformers import CLIPModel, CLIPProcessor
    from transformers.utils import logging

    logging.disable_progress_bar()  # a stage shows its own progress bar
    logging.set_verbosity_error()  # missing weights are reported below
    problem = f"clip_model: {model_folder} doesn't hold a CLIP model and its processor"
    what_to_do = "give a local folder that transformers.CLIPModel opens, with safetensors weights"
    try:
        kind = parse_json((Path(model_folder) / "config.json").read_text(encoding="utf-8"))["model_type"]
    except (OSError, ValueError, KeyError):
        kind = None
    if kind != "clip":
        raise UserError(f"{problem}; {what_to_do}")
    check_weights(Path(model_folder), "clip_model")
    with errors_say(problem, lambda error: f"{problem} ({type(error).__name__}); {what_to_do}"):
        model, loading = CLIPModel.from_pretrained(
            model_folder, dtype=torch.float32, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
        processor = CLIPProcessor.from_pretrained(model_folder, local_files_only=True, trust_remote_code=False)
    if loading["missing_keys"]:
        raise UserError(f"{problem} (weights are missing); {what_to_do}")
    # transformers also opens a folder without a tokenizer; every word is then an unknown token.
    if len(processor.tokenizer) != model.config.text_config.vocab_size:
        raise UserError(f"{problem} (its tokenizer is missing or another model's); {what_to_do}")
    return model.eval(), processor
