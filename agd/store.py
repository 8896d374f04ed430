"""Adapters on disk: `adapter.safetensors` and a `config.json` that says what they are and how they came about."""

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from agd.adapters import AdapterConfig
from agd.artifacts import make_folder, writing
from agd.errors import UserError
from agd.hooks import Adapters, Anatomy, attach, detach, layer_widths, used_widths
from agd.provenance import read_json
from agd.records import check_files, read_sealed, sealed_json, vouch

WEIGHTS, CONFIG, CARD = "adapter.safetensors", "config.json", "README.md"


def save(adapters: Adapters, folder: str | Path, record: dict, beside: Iterable[str] = ()) -> None:
    """Write the weights, and beside them the configuration, the base's shape and `record` (sizes, provenance ...).

    The configuration vouches for the weights, and for the files of the folder that `beside` names.
    """
    folder = make_folder(folder)
    shape = {"layers": adapters.layer_widths, "features": adapters.feature_widths}
    description = {**record, "adapter": dataclasses.asdict(adapters.config), "base_shape": shape}
    with writing(folder / WEIGHTS) as aside:
        # One entry, and no more: safetensors writes several in random order, and equal work should leave equal bytes.
        metadata = {"agd": json.dumps(description, sort_keys=True)}
        save_file({k: v.detach().cpu().contiguous() for k, v in adapters.state_dict().items()}, aside, metadata)
    with writing(folder / CONFIG) as aside:
        aside.write_bytes(sealed_json({**description, "files": vouch(folder, [WEIGHTS, *beside])}))


def read_description(folder: str | Path) -> dict:
    """The `config.json` of a saved adapter, checked to be one and unchanged. Raises UserError that names the file."""
    path = Path(folder) / CONFIG
    if not {"adapter", "base_shape"} <= set(found := read_json(path)) or set(found["base_shape"]) != {
        "layers",
        "features",
    }:
        raise UserError(f"{path}: not an agd adapter's configuration; give the folder that `train` wrote")
    return read_sealed(path)


def locate(name: str | Path) -> Path:
    """The folder of a saved adapter: a local one, or that of a hub id, downloaded if need be.

    Raises UserError, naming the id, if it can't be had.
    """
    if Path(name).exists():
        return Path(name)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(snapshot_download(str(name), allow_patterns=[WEIGHTS, CONFIG, CARD]))
    except HFValidationError:
        raise UserError(f"{name}: neither a folder here nor a hub id; check the path") from None
    except Exception as error:  # the hub's client raises a dozen unrelated types for "not to be had"
        raise UserError(
            f"{name}: neither a folder here nor in the hub's local cache, and the hub did not give it "
            f"({type(error).__name__}); give a local folder, or log in and connect"
        ) from None


def load(denoiser: nn.Module, folder: str | Path, anatomy: Anatomy) -> Adapters:
    """Attach a saved adapter to a denoiser of the shape it was trained on: its base, or any fine-tune of it.

    Raises UserError, naming the file, if it is missing, damaged, or made for a base of another shape.
    """
    description = read_description(folder)
    path = Path(folder) / WEIGHTS
    try:
        config = AdapterConfig(**description["adapter"])
    except TypeError:
        raise UserError(f"{Path(folder) / CONFIG}: describes another version's adapter; train it again") from None
    here = {"layers": layer_widths(denoiser, anatomy), "features": used_widths(denoiser, config, anatomy)}
    if here != description["base_shape"]:
        raise UserError(
            f"{folder}: made for a base of another shape ({_shape_words(description['base_shape'])}) than "
            f"this one ({_shape_words(here)}); give the base it was trained on, or a fine-tune of it"
        )
    weights = read_weights(folder, description)
    adapters = attach(denoiser, config, anatomy, freeze=False)
    try:
        adapters.load_state_dict(weights)
    except RuntimeError:
        detach(denoiser)
        raise UserError(f"{path}: doesn't fit the {CONFIG} beside it; train the adapter again") from None
    adapters.record = {k: v for k, v in description.items() if k not in ("adapter", "base_shape", "files")}
    adapters.source = Path(folder).resolve()
    return adapters.eval()


def read_weights(folder: str | Path, description: dict) -> dict:
    """The tensors of a saved adapter by name, checked against the configuration beside them (`description`).

    Raises UserError, naming the file, if it is missing, damaged or another adapter's.
    """
    path = Path(folder) / WEIGHTS
    try:
        check_files(Path(folder) / CONFIG, description, WEIGHTS)
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no dict
    except SafetensorError as error:
        raise UserError(f"{path}: damaged ({error}); delete it and train again") from None


def _shape_words(shape: dict) -> str:
    layers = shape["layers"].values()
    features = ", ".join(f"{name} {width}" for name, width in shape["features"].items())
    return f"{len(layers)} attentions of width {min(layers)} to {max(layers)}, {features or 'no embeddings'}"
