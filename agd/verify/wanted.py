"""Compares artifacts with a configuration: is this what it asks for, or what an earlier one did?"""

import functools
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from agd.artifacts import user_files
from agd.artifacts.provenance import fingerprint
from agd.settings import configuration, guides, schema, tables, validation
from agd.settings.results import BUILT_IN, GUIDED
from agd.settings.versions import VERSIONS
from agd.verify.consistency import Found, want

_SEED = r"/(?P<model>[^/]+)/seed\d+"
# Artifacts whose settings are configured, with groups that name the model and its adapter, trajectories or method.
_PLACES = [
    r"/(?P<model>[^/]+)/(base|prompts)/provenance\.json",
    rf"{_SEED}/trajectories/(?P<variant>[^/]+)/\d+\.zarr\.zip",
    rf"{_SEED}/adapters/(?P<variant>[^/]+)/config\.json",
    rf"{_SEED}/samples/(?P<variant>[^/]+)/w(?P<w>[^/]+)/n(?P<n>\d+)/\d+\.zip",
    rf"{_SEED}/metrics/[^/]+/w[^/]+/n\d+\.json",
    rf"{_SEED}/(fidelity|speed)/(?P<variant>[^/]+)\.json",
]


def settings_checks(found: Found, config: dict) -> Iterator[tuple[Path, Callable[[], None]]]:
    """Yield (path, check) for artifacts of the configuration's models. A check raises UserError that names the setting."""
    for path, record in found.items():
        match = next(filter(None, (re.search(f"{place}$", str(path)) for place in _PLACES)), None)
        if match and match["model"] in config["models"]:
            made = record["provenance"] if isinstance(record, dict) else record.provenance
            yield path, functools.partial(_check, path, made, match, config)
            yield path, functools.partial(_check_number, path, record, match, config)
        elif path.name in _OF_MODELS and path.parent.name in config["models"]:
            yield path, functools.partial(_OF_MODELS[path.name], path, record, path.parent.name, config)
        elif path.name == "classifier.json":
            asked = schema.result_settings("train_classifier", configuration.settings(config, None, "train_classifier"))
            yield path, functools.partial(_compare, path, record["provenance"]["settings"], asked)
        elif (
            path.parents[1].name == "tables" and path.parent.name in config.get("tables", {}) and "definition" in record
        ):
            yield path, functools.partial(_check_table, path, record, config)


def _check(path: Path, made: dict, match: re.Match, config: dict) -> None:
    stage, then = made["stage"], made["stage_version"]
    if stage == "prepare_prompts" and "captions" not in config["models"][match["model"]]:
        return
    want(then == VERSIONS[stage], path, f"made by version {then} of {stage}, which is at {VERSIONS[stage]}")
    model, (variant, guide) = match["model"], guides.split(match.groupdict().get("variant"))
    known = {**config["models"][model].get(configuration.VARIANTS.get(stage), {}), **dict.fromkeys((*BUILT_IN, GUIDED))}
    adapters = config["models"][model]["adapters"]
    want(variant is None or variant in known or variant in adapters, path, f"{variant!r} is not in the configuration")
    named = config["models"][model].get("guides", {})
    want(guide is None or guide in named, path, f"the guide {guide!r} is not in the configuration")
    if guide is not None and stage == "sample":
        _check_guide(path, made, named[guide])
    asked = schema.result_settings(stage, configuration.settings(config, model, stage, variant))
    if stage == "sample":
        asked |= {"guidance_scale": float(match["w"]), "num_inference_steps": int(match["n"])}
    free = ["guidance_scales"]  # a table may ask for more of them
    if stage in ("sample", "measure_fidelity") and (variant == "none" or variant in adapters):
        free += schema.cfg_settings(stage)
    _compare(path, made["settings"], {name: value for name, value in asked.items() if name not in free})


def _check_guide(path: Path, made: dict, given: dict[str, str]) -> None:
    """Check that samples followed these files: what stands in them decides, not their names."""
    followed = {name: value for name, value in made.get("follows", {}).items() if name != "guide"}
    _compare(path, {"guide": sorted(followed)}, {"guide": sorted(given)})
    for name, file in given.items():
        want(Path(file).exists(), path, f"can't be compared with its {name}, {file}, which is not there")
        want(fingerprint(Path(file)) == followed[name], path, f"made with another {name} than {file}")


def _compare(path: Path, made: dict, asked: dict) -> None:
    for name, value in made.items():
        if name in asked and asked[name] != "auto":  # `auto` is recorded as what it became
            want(value == asked[name], path, f"made with {name} {value!r}, and the configuration says {asked[name]!r}")


def _check_number(path: Path, record, match: re.Match, config: dict) -> None:
    """Check how many trajectories an adapter learnt from, or how many images were measured."""
    model, variant = match["model"], match.groupdict().get("variant")
    if path.name == "config.json" and variant in config["models"][model]["adapters"]:
        source = configuration.trajectories_of(config, model, variant)
        asked = configuration.settings(config, model, "sample_trajectories", source)
        number = record["provenance"]["trajectories"]["number"]
        _compare(path, {"num_trajectories": number}, {"num_trajectories": asked["num_trajectories"]})
    elif isinstance(record, dict) and "num_samples" in record:
        asked = configuration.settings(config, model, "sample")["num_samples"]
        _compare(path, {"num_samples": record["num_samples"]}, {"num_samples": asked})


def _check_comparison(path: Path, record: dict, model: str, config: dict) -> None:
    asked = configuration.settings(config, model, "sample")
    asked = {name: asked[name] for name in ("guidance_scale", "num_inference_steps", "num_samples")}
    asked["seeds"] = sorted(config["seeds"])
    _compare(path, {**record, "seeds": sorted(record["seeds"])}, asked)
    runs = configuration.compared if path.name == "fid.json" else configuration.curve
    lacking = dict.fromkeys(run.method for run in runs(config, model) if run.method not in record["methods"])
    want(not lacking, path, f"lacks {', '.join(lacking)}, which the configuration asks for")


def _check_reference(path: Path, reference, model: str, config: dict) -> None:
    asked = configuration.settings(config, model, "prepare_reference")
    source = user_files.local(config["models"][model]["reference"])
    made = {"features": reference.extractor, "image_size": reference.image_size, "reference": reference.source}
    wanted = {"features": asked["features"], "image_size": asked["image_size"], "reference": source}
    if str(source).endswith(".npz"):  # statistics say where they come from, or nothing
        wanted = {name: value for name, value in wanted.items() if name != "reference" and made["features"]}
    elif reference.features is not None:
        made["max_features"] = len(reference.features)
        wanted["max_features"] = min(asked["max_features"], reference.n)
    _compare(path, made, wanted)


def _check_base(path: Path, record: dict, model: str, config: dict) -> None:
    _compare(path, {"base_model": record["name"]}, {"base_model": config["models"][model]["base_model"]})


_OF_MODELS = {
    "base.json": _check_base,
    "fid.json": _check_comparison,
    "curve.json": _check_comparison,
    "reference.npz": _check_reference,
}


def _check_table(path: Path, record: dict, config: dict) -> None:
    same = record["definition"] == json.loads(json.dumps(tables.definition(config, path.parent.name, path.stem)))
    want(same, path, "made of another definition than the configuration's")


def of_files(files: list[Path]) -> dict:
    """Return the shipped configuration with these files on top of it, as Snakemake reads them. Raises UserError."""
    config = validation.typed(configuration.with_files(files))
    configuration.check(config)
    return config
