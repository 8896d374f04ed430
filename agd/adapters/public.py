"""The public API. Each function takes a pipeline, or its denoiser.

An adapted pipeline makes one pass per step. If an adapter can't do what a call asks (a negative prompt), the call is
guided in two passes, with a warning. Another pipeline that shares the denoiser (`from_pipe`) is a stock one: the base
guides it in two passes, with a warning, until it is loaded too. For a denoiser alone, set the guidance scale by `with
adapters.scale(w):`.
"""

import tempfile
from pathlib import Path

from torch import nn

from agd.adapters import attaching, known_pipelines, pipelines, saving
from agd.adapters.anatomy import Anatomy
from agd.adapters.config import FULL, AdapterConfig
from agd.adapters.lora_export import export_lora
from agd.adapters.model_card import model_card
from agd.adapters.module import Adapters
from agd.artifacts.files import writing
from agd.runtime.errors import UserError, errors_say, one_line
from agd.settings import families

__all__ = ["AdapterConfig", "attach", "detach", "export_lora", "load", "push", "save", "unload"]


def _opened(target) -> tuple[nn.Module, Anatomy]:
    """Return the denoiser and where it takes adapters. Raises UserError if its kind is not supported."""
    is_model = isinstance(target, nn.Module)
    denoiser = pipelines.unwrapped(target) if is_model else pipelines.denoiser_of(target)
    known = families.denoisers()
    family = next((known[kind.__name__] for kind in type(denoiser).__mro__ if kind.__name__ in known), None)
    if family is not None and not is_model and (why := known_pipelines.why_not(type(target))):
        raise UserError(
            f"{type(target).__name__}: adapters don't serve this kind of pipeline, for {why}; use one of those in docs/pipelines.md, "
            "or its denoiser: agd.load(pipe.unet, ...), then `with pipe.unet.agd.scale(w):` and guidance_scale=1"
        )
    if family is None:
        kind, name = ("denoiser", denoiser) if is_model or denoiser is not None else ("pipeline", target)
        raise UserError(
            f"{type(name).__name__}: no adapters for this kind of {kind}; supported are {' and '.join(known)}"
        )
    return denoiser, families.anatomy(family)


def _check_unparallel(target) -> None:
    """Raise UserError for a denoiser in DataParallel: its copies would share one pass's conditions."""
    denoiser = (
        target if isinstance(target, nn.Module) else getattr(target, "unet", getattr(target, "transformer", None))
    )
    if isinstance(denoiser, nn.DataParallel):
        raise UserError("DataParallel: copies of a denoiser can't share adapters; take a process for each GPU instead")


def _wrap(target) -> None:
    if not isinstance(target, nn.Module):
        pipelines.wrap(target)


def attach(target, config: AdapterConfig) -> Adapters:
    """Freeze a pipeline's denoiser and attach new, untrained adapters. They are also `denoiser.agd`."""
    if not isinstance(config, AdapterConfig):
        raise UserError(
            f"config: {type(config).__name__} is no agd.AdapterConfig; give one, such as agd.AdapterConfig()"
        )
    denoiser, anatomy = _opened(target)
    _check_unparallel(target)
    adapters = attaching.attach(denoiser, config, anatomy)
    _wrap(target)
    return adapters


def load(target, name: str | Path) -> Adapters:
    """Attach trained adapters to a pipeline or a denoiser: the base they were trained on, or a fine-tune of it.

    name: a folder, or a hub id. The pipeline then makes one pass per step. For a second pipeline that shares the
    denoiser, call `load` again with the same name. Raises UserError if the denoiser has another shape than the
    adapters' base, or has other adapters.
    """
    if not isinstance(name, str | Path):
        raise UserError(f"name: {type(name).__name__} is neither a folder nor a hub id; give one as a string")
    denoiser, anatomy = _opened(target)
    _check_unparallel(target)
    folder = saving.locate(name)
    if saving.read_description(folder)["adapter"].get("kind") == FULL:
        raise UserError(
            f"{name}: holds a whole denoiser (kind full), to compare adapters with; sample it with agd's `sample`"
        )
    if not hasattr(denoiser, "agd"):
        saving.load(denoiser, folder, anatomy)
    elif denoiser.agd.source != folder.resolve():
        there = denoiser.agd.source or "new ones"
        raise UserError(f"{name}: this denoiser carries other adapters already ({there}); agd.unload them first")
    _wrap(target)
    return denoiser.agd


def detach(target) -> None:
    """Remove the adapters and restore the pipeline or denoiser. Raises UserError if there are none."""
    denoiser, _ = _opened(target)
    # If two pipelines share the denoiser, the second one has only its wrapping left to undo.
    if isinstance(target, nn.Module) or not pipelines.unwrap(target) or hasattr(denoiser, "agd"):
        attaching.detach(denoiser)


unload = detach


def save(adapters, folder: str | Path, record: dict | None = None) -> None:
    """Write `adapter.safetensors`, `config.json` and the model card `README.md` into a folder.

    adapters: what `attach` or `load` returned, or the pipeline or denoiser that carries them.
    record: more fields for config.json, such as {"guidance_scale_range": [1, 8], "provenance": {...}}. They are added
    to the fields that the adapters were loaded with.
    """
    adapters = _adapters(adapters)
    record = {"size": attaching.size(adapters.host), **adapters.record, **(record or {})}
    saving.check_record(record, "record")
    saving.save(adapters, folder, record)
    with writing(Path(folder) / saving.CARD) as aside:
        aside.write_text(model_card(saving.read_description(folder), Path(folder).name), encoding="utf-8")


def _adapters(target) -> Adapters:
    """Return the adapters of a pipeline or denoiser. Raises UserError if it has none."""
    if isinstance(target, Adapters):
        return target
    denoiser, _ = _opened(target)
    if not hasattr(denoiser, "agd"):
        raise UserError(f"{type(target).__name__}: it carries no adapters; agd.load or agd.attach them first")
    return denoiser.agd


def push(adapters: Adapters | str | Path, repo_id: str, private: bool = False) -> None:
    """Publish adapters, or a folder of saved ones, on the hub with a model card.

    Paths on this machine are left out, but for the name of the base's folder. A model card in the folder is used with no
    other change. Raises UserError if the hub rejects them, for example without a login.
    """
    with tempfile.TemporaryDirectory() as aside:
        saved, published = Path(aside) / "saved", Path(aside) / "published"
        if isinstance(adapters, Adapters):
            saving.save(adapters, saved, {"size": attaching.size(adapters.host), **adapters.record})
        else:
            saved = Path(adapters)
        _upload(_publishable(saved, published, repo_id), repo_id, private)


def _publishable(folder: Path, clean: Path, repo_id: str) -> dict[str, Path]:
    """Write what may be published of a saved adapter into another folder. Returns name -> file."""
    description = saving.read_description(folder)
    place = description.get("provenance", {}).get("base", {}).get("name")
    public = saving.without_places({key: value for key, value in description.items() if key != "files"})
    saving.write(clean, saving.read_weights(folder, description), public)
    text = model_card(public, repo_id)
    if (folder / saving.CARD).exists():
        name = public.get("provenance", {}).get("base", {}).get("name")
        text = (folder / saving.CARD).read_text(encoding="utf-8")
        text = text.replace(place, name) if place else text
    (clean / saving.CARD).write_text(text, encoding="utf-8")
    return {name: clean / name for name in (saving.WEIGHTS, saving.CONFIG, saving.CARD)}


def _upload(files: dict[str, Path], repo_id: str, private: bool) -> None:
    from huggingface_hub import CommitOperationAdd, HfApi

    operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=file) for name, file in files.items()]
    with errors_say(
        repo_id, lambda error: f"{repo_id}: the hub did not take it ({one_line(error)}); log in, and check the name"
    ):
        api = HfApi()
        api.create_repo(repo_id, private=private, exist_ok=True)
        api.create_commit(repo_id, operations, commit_message="Add guidance adapters")
