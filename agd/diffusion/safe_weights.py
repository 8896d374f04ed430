"""Converts a base model's weights to safetensors, where they are pickles in the hub's cache. No code in them is run."""

import json
import shutil
import zipfile
from pathlib import Path

import torch
from safetensors.torch import save_file

from agd.artifacts.files import folder_aside
from agd.artifacts.sealed_json import read_json
from agd.diffusion import base_models
from agd.runtime.errors import UserError, errors_say, one_line


def convert(snapshot: Path) -> Path:
    """Write a pipeline of the hub's cache once more, with safetensors in place of pickles. Returns the new folder.

    Numbers and dtypes stay as they are; other files become links to the snapshot's. Raises UserError, naming the file, if a
    pickle can't be read or holds anything but tensors.
    """
    folder, pickles = base_models.converted_folder(snapshot), base_models.pickles(snapshot)
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
                save_file(_tensors(file), target.with_name(_safe_name(file.name)), {"format": "pt"})
        if not (folder / base_models.INDEX).is_file():  # nobody has made it meanwhile
            shutil.rmtree(folder, ignore_errors=True)  # remains, of a snapshot that was deleted
            whole.rename(folder)
    return folder


def _safe_name(name: str) -> str:
    """Return the name that diffusers and transformers look for: `diffusion_pytorch_model.safetensors`, `model.safetensors`."""
    return name.replace(".bin", ".safetensors").removeprefix("pytorch_" if name.startswith("pytorch_model") else "")


def _renamed(index: Path) -> dict:
    found = read_json(index, "weight_map")
    return found | {"weight_map": {key: _safe_name(str(name)) for key, name in found["weight_map"].items()}}


def _tensors(file: Path) -> dict[str, torch.Tensor]:
    """Read a pickle of tensors, and nothing but tensors."""
    with errors_say(
        str(file), lambda error: f"{file}: not a pickle of tensors alone; it is not read ({one_line(error)})"
    ):
        found = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
        if not isinstance(found, dict) or not all(isinstance(values, torch.Tensor) for values in found.values()):
            raise UserError(f"{file}: holds more than tensors; give a model with safetensors")
    return {name: values.clone(memory_format=torch.contiguous_format) for name, values in found.items()}
