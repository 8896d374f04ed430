"""The public functions, which find out by themselves what they are given: a pipeline, or its denoiser.

On a pipeline its own calls are guided in one pass, and what an adapter can't answer (a negative prompt) is guided as
before, and said. On a denoiser by itself the guidance scale is set by `with adapters.scale(w):`, or comes from pipelines
that know the flag (agd/manners.py); those pass over negative prompts without a word: better load on the pipeline.
"""

import importlib
import tempfile
from pathlib import Path

from torch import nn

from agd import hooks, pipelines, store
from agd.adapters import AdapterConfig
from agd.artifacts import writing
from agd.card import card
from agd.errors import UserError
from agd.hooks import Adapters, Anatomy

__all__ = ["AdapterConfig", "attach", "detach", "load", "push", "save", "unload"]

_ANATOMIES = {"UNet2DConditionModel": "agd.sd.anatomy", "DiTTransformer2DModel": "agd.dit.family"}


def _opened(target) -> tuple[nn.Module, Anatomy]:
    """The denoiser of a pipeline, or a denoiser itself, and where it takes adapters; UserError for other kinds."""
    is_model = isinstance(target, nn.Module)
    denoiser = getattr(target, "_orig_mod", target) if is_model else pipelines.denoiser_of(target)
    module = _ANATOMIES.get(type(denoiser).__name__)
    if module is None or not (is_model or pipelines.guides(target)):
        kind, name = ("denoiser", denoiser) if is_model else ("pipeline", target)
        raise UserError(
            f"{type(name).__name__}: no adapters for this kind of {kind}; supported are {' and '.join(_ANATOMIES)}"
            f"{'' if is_model else ', in pipelines that take a guidance_scale'}"
        )
    return denoiser, importlib.import_module(module).ANATOMY


def _wrap(target) -> None:
    if not isinstance(target, nn.Module):
        pipelines.wrap(target)


def attach(target, config: AdapterConfig) -> Adapters:
    """Freeze a pipeline's denoiser and put new, untrained adapters on it, also found as `denoiser.agd`."""
    denoiser, anatomy = _opened(target)
    adapters = hooks.attach(denoiser, config, anatomy)
    _wrap(target)
    return adapters


def load(target, name: str | Path) -> Adapters:
    """Put trained adapters on a pipeline (or a denoiser): of the base they were trained on, or of a fine-tune of it.

    name: a folder, or a hub id. The pipeline's own calls then make one pass per step. A second pipeline that shares an
    adapted denoiser is loaded in the same way, with the same name. Raises UserError if the denoiser has another shape
    than the adapters' base, or carries other adapters.
    """
    denoiser, anatomy = _opened(target)
    folder = store.locate(name)
    if not hasattr(denoiser, "agd"):
        store.load(denoiser, folder, anatomy)
    elif denoiser.agd.source != folder.resolve():
        there = denoiser.agd.source or "new ones"
        raise UserError(f"{name}: this denoiser carries other adapters already ({there}); agd.unload them first")
    _wrap(target)
    return denoiser.agd


def detach(target) -> None:
    """Take the adapters off; the pipeline, or the denoiser, is as it was. Raises UserError if there are none."""
    denoiser, _ = _opened(target)
    # Where two pipelines share the denoiser, the second to be unloaded finds its wrapping only.
    if isinstance(target, nn.Module) or not pipelines.unwrap(target) or hasattr(denoiser, "agd"):
        hooks.detach(denoiser)


unload = detach


def save(adapters: Adapters, folder: str | Path, record: dict | None = None) -> None:
    """Write `adapter.safetensors`, `config.json` and the model card `README.md` into a folder.

    record: more for config.json, such as {"guidance_scale_range": [1, 8], "provenance": {...}}, beside what the
    adapters were loaded with.
    """
    store.save(adapters, folder, {"size": hooks.size(adapters.host), **adapters.record, **(record or {})})
    with writing(Path(folder) / store.CARD) as aside:
        aside.write_text(card(store.read_description(folder), Path(folder).name), encoding="utf-8")


def push(adapters: Adapters | str | Path, repo_id: str, private: bool = False) -> None:
    """Publish adapters, or the folder of saved ones, on the hub, with a model card; a card in the folder goes as it is.

    Raises UserError if the hub does not take them, such as without a login.
    """
    if isinstance(adapters, Adapters):
        with tempfile.TemporaryDirectory() as folder:
            store.save(adapters, folder, {"size": hooks.size(adapters.host), **adapters.record})
            return push(folder, repo_id, private)
    from huggingface_hub import CommitOperationAdd, HfApi

    folder = Path(adapters)
    description, written = store.read_description(folder), folder / store.CARD
    text = written.read_text(encoding="utf-8") if written.exists() else card(description, repo_id)
    files = {store.WEIGHTS: folder / store.WEIGHTS, store.CONFIG: folder / store.CONFIG, store.CARD: text.encode()}
    operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=file) for name, file in files.items()]
    try:
        api = HfApi()
        api.create_repo(repo_id, private=private, exist_ok=True)
        api.create_commit(repo_id, operations, commit_message="Add guidance adapters")
    except Exception as error:  # the hub's client raises a dozen unrelated types for "not taken"
        words = " ".join(str(error).split())[:160]
        raise UserError(f"{repo_id}: the hub did not take it ({words}); log in, and check the name") from None
    return None
