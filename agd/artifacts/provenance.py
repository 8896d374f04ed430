"""Records what made an artifact: stage and its version, settings, commit, packages, device. It holds no time and no host:
equal work gives equal bytes. It names bases as the user did; `agd.push` takes their paths off."""

import functools
import hashlib
import importlib.metadata
import platform
import subprocess
from collections.abc import Iterable
from pathlib import Path

from agd.artifacts.files import sha256
from agd.settings.versions import VERSIONS

_PACKAGES = ("torch", "diffusers", "transformers", "timm", "zarr", "numpy")


def provenance(stage: str, settings: dict, device: str, **more) -> dict:
    """Return a JSON-ready record of what made an artifact. `more` adds inputs, such as the base model's identity."""
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
    """Return the checkout's commit, with `-dirty` if files differ from it, or "unknown" outside a checkout of agd."""
    checkout = Path(__file__).resolve().parents[2]
    if not (checkout / ".git").exists():  # agd is installed: a repository in a parent folder is not agd's
        return "unknown"
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
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
    """Return the sha256 over the configuration and weight files of one model folder (such as `base/transformer`)."""
    files = sorted(f for f in folder.iterdir() if f.name == "config.json" or f.suffix == ".safetensors")
    files = [file for file in files if not is_unread_variant(file)]
    hasher = hashlib.sha256()
    for file in files:
        hasher.update(f"{file.name} {_content_hash(file)}\n".encode())
    return hasher.hexdigest()


def fingerprint(path: Path) -> str:
    """Return the sha256 of a file, or the fingerprint of a model's folder."""
    return model_fingerprint(path) if path.is_dir() else sha256(path)


def is_unread_variant(file: Path) -> bool:
    """Return whether a file is of another variant (`model.fp16.safetensors`) beside weights that are read instead."""
    stem, *more = file.name.split(".")
    plain = {("safetensors",), ("safetensors", "index", "json")}
    if tuple(more) in plain or not {"safetensors"} & set(more):
        return False
    return any((file.parent / ".".join([stem, *words])).exists() for words in plain)


def _content_hash(file: Path) -> str:
    target = file.resolve()
    # In the hub's cache, a weight file links to a blob named by its sha256: no need to read gigabytes.
    return target.name if target.parent.name == "blobs" and len(target.name) == 64 else sha256(file)


def digest(parts: Iterable[str]) -> str:
    """Return the sha256 over several texts, in their order."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
