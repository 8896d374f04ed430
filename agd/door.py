"""The public functions, which find out by themselves what kind of denoiser they are given."""

from pathlib import Path

from torch import nn

from agd import hooks, store
from agd.adapters import AdapterConfig
from agd.errors import UserError
from agd.hooks import Adapters, Anatomy, detach

__all__ = ["AdapterConfig", "attach", "detach", "load", "save"]


def _anatomy(denoiser: nn.Module) -> Anatomy:
    from agd.dit.family import ANATOMY

    known = {"DiTTransformer2DModel": ANATOMY}
    name = type(denoiser).__name__
    if name not in known:
        raise UserError(f"{name}: no adapters for this kind of denoiser; supported are {', '.join(known)}")
    return known[name]


def attach(denoiser: nn.Module, config: AdapterConfig) -> Adapters:
    """Freeze a diffusers denoiser and put new, untrained adapters on it, also found as `denoiser.agd`."""
    return hooks.attach(denoiser, config, _anatomy(denoiser))


def load(denoiser: nn.Module, folder: str | Path) -> Adapters:
    """Put trained adapters on a denoiser: the one they were trained on, or a fine-tune of it.

    Passes inside `with adapters.scale(w):` are guided, one evaluation each. Raises UserError if the denoiser has another
    shape than the adapters' base.
    """
    return store.load(denoiser, folder, _anatomy(denoiser))


def save(adapters: Adapters, folder: str | Path, provenance: dict | None = None) -> None:
    """Write `adapter.safetensors` and `config.json` into a folder."""
    store.save(adapters, folder, {"provenance": provenance or {}})
