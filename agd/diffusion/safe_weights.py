"""Converts a base model's weights to safetensors, where they are pickles in the hub's cache. No code in them is run."""

import json
import shutil
import zipfile
from pathlib import Path

import torch
from safetensors.torch import save_file

from agd.artifacts.files import folder_aside, writing
from agd.artifacts.sealed_json import RECORD, check_folder, checksums, read_json, write_sealed
from agd.diffusion import base_models
from agd.runtime.errors import UserError, errors_say


def converted(snapshot: Path) -> Path:
    """Return the folder of a pipeline of the hub's cache with safetensors in place of pickles, which is made if it isn't
    there whole.

    Numbers and dtypes stay as they are; other files become links to the snapshot's. A record of checksums is beside them,
    so that whoever opens the folder checks it. Raises UserError, naming the file, if a pickle can't be read or holds
    anything but tensors.
    """
    folder = base_models.converted_folder(snapshot)
    if not _whole(folder):
        _convert(snapshot, folder)
    return folder


def _whole(folder: Path) -> bool:
    try:
        check_folder(folder)
    except UserError:
        return False
    return (folder / RECORD).is_file() and (folder / base_models.INDEX).is_file()


def _convert(snapshot: Path, folder: Path) -> None:
    pickles = base_models.pickles(snapshot)
    with folder_aside(folder) as aside:
        whole = aside / "whole"
        for file in map(Path, base_models.files(snapshot)):
            target = whole / file.relative_to(snapshot)
            target.parent.mkdir(parents=True, exist_ok=True)
            if file not in pickles:
                target.symlink_to(file.resolve())
            elif file.suffix == ".json":
                target.with_name(_safe_name(file.name)).write_text(json.dumps(_renamed(file)))
            else:
                with writing(target.with_name(_safe_name(file.name))) as part:
                    save_file(_tensors(file), part, {"format": "pt"})
        (whole / RECORD).unlink(missing_ok=True)  # a base's that was trained here
        names = sorted(str(file.relative_to(whole)) for file in whole.rglob("*") if file.is_file())
        write_sealed(whole / RECORD, {"files": checksums(whole, names)})
        if not _whole(folder):  # nobody has made it meanwhile
            shutil.rmtree(folder, ignore_errors=True)  # remains, or damaged
            whole.rename(folder)


def _safe_name(name: str) -> str:
    """Return the name that diffusers and transformers look for: `diffusion_pytorch_model.safetensors`, `model.safetensors`."""
    return name.replace(".bin", ".safetensors").removeprefix("pytorch_" if name.startswith("pytorch_model") else "")


def _renamed(index: Path) -> dict:
    found = read_json(index, "weight_map")
    for name in map(str, found["weight_map"].values()):
        if Path(name).name != name or not (index.parent / name).is_file():
            raise UserError(f"{index}: names {name}, which is not beside it; fetch the model again")
    return found | {"weight_map": {key: _safe_name(str(name)) for key, name in found["weight_map"].items()}}


def _tensors(file: Path) -> dict[str, torch.Tensor]:
    """Read a pickle of tensors, and nothing but tensors."""

    def line(error: Exception) -> str:  # torch's own text says how to read it all the same
        return f"{file}: damaged, or no pickle of tensors alone ({type(error).__name__}); it is not read"

    with errors_say(str(file), line):
        found = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
        tensors = isinstance(found, dict) and all(isinstance(values, torch.Tensor) for values in found.values())
        if not found or not tensors:
            raise UserError(f"{file}: holds {'more than' if found else 'no'} tensors; give a model with safetensors")
    return {name: values.clone(memory_format=torch.contiguous_format) for name, values in found.items()}
