"""Saves and loads adapters: `adapter.safetensors`, and a `config.json` with configuration and provenance."""

import dataclasses
import json
import math
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from agd.adapters.anatomy import Anatomy, base_shape
from agd.adapters.attaching import attach, detach
from agd.adapters.config import AdapterConfig
from agd.adapters.module import Adapters
from agd.artifacts.files import make_folder, writing
from agd.artifacts.hub import hub_errors
from agd.artifacts.sealed_json import check_files, checksums, read_json, read_sealed, write_sealed
from agd.runtime import devices
from agd.runtime.errors import UserError

WEIGHTS, CONFIG, CARD = "adapter.safetensors", "config.json", "README.md"


def save(adapters: Adapters, folder: str | Path, record: dict, beside: Iterable[str] = ()) -> None:
    """Write the weights, and a `config.json` with the configuration, the base's shape and `record` (sizes, provenance
    ...).

    The configuration holds checksums of the weights and of the folder's files that `beside` names.
    """
    state = adapters.state_dict()
    if wrapped := [name for name in state if ".base_layer." in name or ".lora_" in name]:
        raise UserError(
            f"{wrapped[0]}: PEFT put a LoRA on the adapters' own layers; give its LoraConfig exclude_modules=r'agd\\..*', and attach anew"
        )
    write(
        folder,
        state,
        {**record, "adapter": dataclasses.asdict(adapters.config), "base_shape": adapters.base_shape},
        beside,
    )


def write(folder: str | Path, state: dict[str, torch.Tensor], description: dict, beside: Iterable[str] = ()) -> None:
    """Write tensors and description as `save` does."""
    folder = make_folder(folder)
    with writing(folder / WEIGHTS) as aside:
        # Only one entry: safetensors writes several in random order, and equal work should give equal bytes.
        metadata = {"agd": json.dumps(description, sort_keys=True)}
        save_file({k: v.detach().cpu().contiguous() for k, v in state.items()}, aside, metadata)
    write_sealed(folder / CONFIG, {**description, "files": checksums(folder, [WEIGHTS, *beside])})


def read_description(folder: str | Path) -> dict:
    """Read the `config.json` of a saved adapter.

    Raises UserError, naming the file, if it is something else or changed.
    """
    path = Path(folder) / CONFIG
    found = read_json(path)
    shape = found.get("base_shape")
    whole = isinstance(shape, dict) and isinstance(found.get("adapter"), dict) and {"layers", "features"} <= set(shape)
    if not whole:
        raise UserError(f"{path}: not an agd adapter's configuration; give the folder that `train` wrote")
    check_record(found, str(path))
    return read_sealed(path)


def read_whole(folder: str | Path) -> dict:
    """Return the configuration of a saved adapter whose weights are whole, as stages want to know before they open a model.

    Raises UserError, naming the file, if one of the two is missing or damaged.
    """
    description = read_description(folder)
    check_files(Path(folder) / CONFIG, description, WEIGHTS)
    return description


def check_record(record: dict, where: str) -> None:
    """Raise UserError, naming where it is, if the range of guidance scales in a configuration is no range."""
    given = record.get("guidance_scale_range", [1, 1])
    numbers = isinstance(given, list | tuple) and all(isinstance(w, int | float) and math.isfinite(w) for w in given)
    if not numbers or len(given) != 2 or given[0] > given[1]:
        raise UserError(f"{where}: guidance_scale_range {given!r} is no range; give two numbers such as [1, 8]")


def without_places(record):
    """Return a record in which bases that are no hub's are named by the last part of their path: a path may name a person."""
    if isinstance(record, list):
        return [without_places(item) for item in record]
    if not isinstance(record, dict):
        return record
    found = {key: without_places(value) for key, value in record.items()}
    if {"name", "revision"} <= set(found) and found["revision"] is None:
        found["name"] = Path(found["name"]).name
    return found


def base_name(folder: str | Path, description: dict) -> str:
    """Return the folder or hub id of the base that a saved adapter was trained on. Raises UserError if it doesn't say."""
    name = description.get("provenance", {}).get("base", {}).get("name")
    if name is None:
        raise UserError(f"--base-model: missing; {folder} doesn't say which model it was trained on")
    return name


def locate(name: str | Path) -> Path:
    """Return the folder of a saved adapter: a local folder, or a hub id's, downloaded if needed.

    Raises UserError, naming the id, if it can't be downloaded.
    """
    if Path(name).exists():
        return Path(name)
    from huggingface_hub import snapshot_download

    with hub_errors(f"{name}:"):
        return Path(snapshot_download(str(name), allow_patterns=[WEIGHTS, CONFIG, CARD]))


def load(denoiser: nn.Module, folder: str | Path, anatomy: Anatomy) -> Adapters:
    """Attach a saved adapter to a denoiser of the same shape: the base it was trained on, or a fine-tune of it.

    Raises UserError, naming the file, if it is missing, damaged, or made for a base of another shape.
    """
    description = read_description(folder)
    path = Path(folder) / WEIGHTS
    try:
        config = AdapterConfig(**description["adapter"])
    except TypeError:
        raise UserError(f"{Path(folder) / CONFIG}: describes another version's adapter; train it again") from None
    every = {"embeddings": {}, "norms": {}, "weights": {}}
    here, theirs = (every | shape for shape in (base_shape(denoiser, config, anatomy), description["base_shape"]))
    if here != theirs:
        raise UserError(
            f"{folder}: made for a base of another shape ({_shape_words(theirs)}) than "
            f"this one ({_shape_words(here)}); give the base it was trained on, or a fine-tune of it"
        )
    weights = read_weights(folder, description)
    with torch.random.fork_rng(devices=[]):  # a seeded script must draw the same numbers with adapters as without
        adapters = attach(denoiser, config, anatomy, freeze=False)
    try:
        adapters.load_state_dict(weights)
    except RuntimeError:
        detach(denoiser)
        raise UserError(f"{path}: doesn't fit the {CONFIG} beside it; train the adapter again") from None
    adapters.record = {k: v for k, v in description.items() if k not in ("adapter", "base_shape", "files")}
    adapters.source = Path(folder).resolve()
    return adapters.eval()


def load_at(denoiser: nn.Module, folder: str | Path, anatomy: Anatomy, w: float) -> Adapters:
    """Attach a saved adapter for sampling at one guidance scale: merged if it can be, for a pass then costs what the base's
    does. Raises UserError as `load` does."""
    adapters = load(denoiser, folder, anatomy)
    adapters.current.set_scale(w)
    if adapters.config.mergeable:  # one w for all images: hundreds of small layers need not be called
        with devices.full_gpu_suppressed():  # without the room for it, it goes on unmerged
            adapters.fuse(w)
    return adapters


def read_weights(folder: str | Path, description: dict) -> dict:
    """Read the tensors of a saved adapter by name, and check them against `description`, its configuration.

    Raises UserError, naming the file, if it is missing, damaged or from another adapter.
    """
    path = Path(folder) / WEIGHTS
    try:
        check_files(Path(folder) / CONFIG, description, WEIGHTS)
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no dict
    except SafetensorError as error:
        raise UserError(f"{path}: damaged ({error}); delete it and train again") from None


def _shape_words(shape: dict) -> str:
    layers = [width[-1] if isinstance(width, list) else width for width in shape["layers"].values()]
    kind = "linear layers" if any(isinstance(width, list) for width in shape["layers"].values()) else "attentions"
    parts = [f"{len(layers)} {kind} of width {min(layers)} to {max(layers)}"] if layers else []
    parts += [f"{len(shape['embeddings'])} embeddings of the timestep"] if shape["embeddings"] else []
    parts += [f"{sum(map(math.prod, shape['weights'].values()))} weights"] if shape["weights"] else []
    parts += [", ".join(f"{name} {width}" for name, width in shape["features"].items()) or "no embeddings"]
    return ", ".join(parts)
