"""What made an artifact: stage and its version, settings, commit, packages, device. No clock, no host, no user name:
equal work leaves equal bytes, and nothing private travels."""

import functools
import hashlib
import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Iterable
from pathlib import Path

from agd.artifacts import sha256
from agd.errors import UserError
from agd.versions import VERSIONS

_PACKAGES = ("torch", "diffusers", "transformers", "timm", "zarr", "numpy")


def provenance(stage: str, settings: dict, device: str, **more) -> dict:
    """A JSON-ready record of how an artifact came about. `more` adds inputs, such as the base model's identity."""
    return {
        "stage": stage,
        "stage_version": VERSIONS[stage],
        "settings": settings,
        "commit": commit(),
        "packages": {name: version for name in _PACKAGES if (version := _version(name))},
        "python": platform.python_version(),
        "device": device,
        **more,
    }


@functools.cache
def commit() -> str:
    """The checkout's commit (with `-dirty` where files differ from it), or "unknown" outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        return "unknown"
    return done.stdout.strip() or "unknown"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def model_fingerprint(folder: Path) -> str:
    """sha256 over the configuration and the weight files of one model folder (such as `base/transformer`)."""
    files = sorted(f for f in folder.iterdir() if f.name == "config.json" or f.suffix == ".safetensors")
    hasher = hashlib.sha256()
    for file in files:
        hasher.update(f"{file.name} {_content_hash(file)}\n".encode())
    return hasher.hexdigest()


def _content_hash(file: Path) -> str:
    target = file.resolve()
    # In the hub's cache a weight file is a link to a blob that is named by its sha256: no need to read gigabytes.
    return target.name if target.parent.name == "blobs" and len(target.name) == 64 else sha256(file)


def read_json(path: Path, *keys: str) -> dict:
    """Read a JSON object that has these keys, or raise a UserError that names the file."""
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path}: no such file; make it first, or check the path") from None
    except (ValueError, IsADirectoryError):
        raise UserError(f"{path}: not a JSON file; delete it and run again") from None
    if missing := [key for key in keys if found.get(key) is None]:
        raise UserError(f"{path}: says nothing of {missing[0]}; fetch the model again")
    return found


def digest(parts: Iterable[str]) -> str:
    """sha256 over several texts, in their order."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def json_bytes(record: dict) -> bytes:
    """JSON with sorted keys and a final newline: equal records, equal bytes."""
    return (json.dumps(record, indent=2, sort_keys=True, allow_nan=False) + "\n").encode()
