"""Checks the files of guides (agd.settings.guides) before any job. Loads no weights, and no torch."""

from collections.abc import Callable, Mapping
from pathlib import Path

from PIL import Image

from agd.artifacts.images import open_image
from agd.artifacts.sealed_json import read_json
from agd.diffusion.base_models import check_weights
from agd.runtime.errors import UserError
from agd.settings.guides import NEEDED, check_complete

_CONTROLNET = "ControlNetModel"


def check(given: Mapping[str, str | None], key: Callable[[str], str]) -> None:
    """Raise UserError if a file of a guide is missing, or of another kind. key: name -> how the user spells it."""
    check_complete(given, key)
    for name in (found for found in NEEDED if given.get(found)):
        for part in (name, *NEEDED[name]):
            if not Path(given[part]).exists():
                raise UserError(f"{key(part)}: {given[part]} is not there; check the path")
        picture(given[f"{name}_image"], key(f"{name}_image"))
        _check_weights(name, given, key)


def _check_weights(name: str, given: Mapping[str, str | None], key: Callable[[str], str]) -> None:
    file = Path(given[name])
    if name == "ip_adapter" and (file.suffix != ".safetensors" or not file.is_file()):
        raise UserError(f"{key(name)}: {file} is not a .safetensors file, and nothing else is read; convert it")
    part = "image_encoder" if name == "ip_adapter" else name
    check_weights(Path(given[part]), key(part))
    if name == "controlnet" and (kind := read_json(file / "config.json").get("_class_name")) != _CONTROLNET:
        raise UserError(f"{key(name)}: {file} holds {kind}, not {_CONTROLNET}; give a ControlNet")


def picture(path: str, key: str) -> Image.Image:
    """Open the picture of a guide, in RGB. Raises UserError if it can't be read."""
    try:
        return open_image(Path(path).read_bytes(), path).convert("RGB")
    except (OSError, UserError):
        raise UserError(f"{key}: {path} is not a picture that can be read; give a PNG or JPEG file") from None
