"""Counts the operations of a denoiser's pass, from its configuration alone: no weights are read."""

import dataclasses
from pathlib import Path

import diffusers
import torch
from torch.utils.flop_counter import FlopCounterMode

from agd.artifacts.sealed_json import parse_json
from agd.diffusion.base_models import on_hub
from agd.settings import families


@dataclasses.dataclass(frozen=True)
class Denoiser:
    """operations: floating-point operations of one pass of one sample. latent_values: numbers in one sample's latents.
    pixels: bytes of one image without compression."""

    operations: float
    latent_values: int
    pixels: int


def denoiser(name: str, family: str) -> Denoiser | None:
    """Count the operations of a model in a folder or on the hub. None if its configuration is not to be had."""
    options = families.options(family)
    described, autoencoder = (_config(name, part) for part in (options.DENOISER_FOLDER, "vae"))
    if described is None or autoencoder is None:
        return None
    kind = getattr(diffusers, options.DENOISER)
    with torch.device("meta"), torch.no_grad():
        model = kind.from_config(described).eval()
        arguments = families.anatomy(family).example(model)
        with FlopCounterMode(display=False) as counter:
            model(**arguments)
    side, channels = described["sample_size"], described["in_channels"]
    pixels = side * 2 ** (len(autoencoder["block_out_channels"]) - 1)
    return Denoiser(counter.get_total_flops(), channels * side**2, autoencoder["out_channels"] * pixels**2)


def _config(name: str, part: str) -> dict | None:
    """Read a part's configuration, from a folder, the hub's cache, or the hub. None if it is not there."""
    file = Path(name) / part / "config.json"
    if not file.is_file():
        if Path(name).exists() or name.count("/") != 1:
            return None
        from huggingface_hub import hf_hub_download

        try:
            repository, revision = on_hub(name)
            file = Path(hf_hub_download(repository, f"{part}/config.json", revision=revision))
        except Exception:  # whatever stands in the way, a plan can do without
            return None
    try:
        return parse_json(file.read_text(encoding="utf-8"))
    except ValueError:
        return None
