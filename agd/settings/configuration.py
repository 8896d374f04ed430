"""Reads, merges and checks the configuration. Imports nothing heavy, because Snakemake reads it at every start."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

from agd.runtime.errors import UserError
from agd.settings import guides, written_values, yaml_files
from agd.settings.adapter_choices import check_adapter, check_gain
from agd.settings.results import GUIDED, HALF, TRAINED_BASE, half, scale_name, total
from agd.settings.schema import ADAPTER_KEYS, ALSO_READS, CONFIG_FOLDER, applies, properties, result_settings, schema
from agd.settings.validation import allowed, check_against, key_of

_MOST_FILES = 100_000  # of one stage; far fewer already keep Snakemake busy for minutes
# Stage -> the key of a model's section whose entries override the stage's settings, by name.
VARIANTS = {
    "train": "adapters",
    "sample_trajectories": "trajectories",
    "sample": "methods",
    "measure_fidelity": "methods",
}


def files() -> list[Path]:
    """List the files of the shipped configuration: config/default.yaml and all of config/models/ and config/tables/."""
    folders = ("models", "tables")
    return [
        CONFIG_FOLDER / "default.yaml",
        *(file for f in folders for file in sorted((CONFIG_FOLDER / f).glob("*.yaml"))),
    ]


def shipped() -> dict:
    """Return the shipped configuration: its files, merged in order as Snakemake merges them."""
    return with_files([])


def with_files(more: Sequence[Path]) -> dict:
    """Return the shipped configuration with these files on top of it. It is not checked. Raises UserError for no YAML."""
    return functools.reduce(_merged, map(yaml_files.read, [*files(), *more]), {})


def _merged(first, second):
    if not isinstance(first, dict) or not isinstance(second, dict):
        return second
    return first | {key: _merged(first.get(key), value) for key, value in second.items()}


def check(config: dict) -> None:
    """Raise UserError if the configuration is wrong: one line with the key, the value and the allowed values."""
    check_against(schema(), config, "")
    for model, section in config["models"].items():
        for name, spec in schema()["$defs"]["model"]["properties"].items():
            theirs = applies(spec, section["family"])
            if "subjects" in spec and theirs and name not in section:
                raise UserError(f"models.{model}.{name}: missing; models of the family {section['family']} need it")
            if not theirs and name in section:
                raise UserError(
                    f"models.{model}.{name}: not for models of the family {section['family']}; leave it out"
                )
        optional = [stage for stage in ("train_base", "prepare_prompts") if stage in section]
        needed = ["prepare_reference", "sample_trajectories", "sample", "measure_fidelity", "measure_speed"]
        needed += ["calculate_metrics"]
        for stage in [*needed, *optional]:
            check_settings(stage, settings(config, model, stage), f"models.{model}.{stage}", section["family"])
        _check_variants(config, model)
        _check_continues(config, model)
        guides.check(config, model)


def _check_variants(config: dict, model: str) -> None:
    """Check a model's adapters, trajectories and methods, with the settings that they override."""
    section = config["models"][model]
    for stage, key in VARIANTS.items():
        for name in section.get(key, {}):
            check_settings(
                stage, settings(config, model, stage, name), f"models.{model}.{key}.{name}", section["family"]
            )
    for name in section.get("methods", {}):
        if name in section["adapters"]:
            raise UserError(f"models.{model}.methods.{name}: is the name of an adapter too; choose another")
    others = {**section.get("methods", {}), **section["adapters"]}
    others.pop(section.get("compared_adapter", config["compared_adapter"]), None)
    for name in section.get("compared_methods", []):
        if name not in others:
            known = ", ".join(others) or "none"
            raise UserError(f"models.{model}.compared_methods: {name!r} is no other method of it; known are {known}")
    for name, adapter in section["adapters"].items():
        where = f"models.{model}.adapters.{name}"
        if "trained_as" in adapter:
            _check_trained_as(config, name, adapter, where)
            continue
        learnt_from = trajectories_of(config, model, name)
        if learnt_from not in {**section.get("trajectories", {}), GUIDED: {}}:
            raise UserError(
                f"{where}.trajectories: {learnt_from!r} is not in models.{model}.trajectories; add it there"
            )
        highest = settings(config, model, "sample_trajectories", learnt_from)["guidance_max"]
        check_gain(settings(config, model, "train", name)["gain"], highest, f"{where}.gain")


def _check_continues(config: dict, model: str) -> None:
    """Raise UserError if a base goes on from one of another architecture, or, by way of others, from itself."""
    trained = {
        TRAINED_BASE.format(model=name): name for name, section in config["models"].items() if "train_base" in section
    }
    where, before, seen = f"models.{model}.train_base.continues", model, []
    while before in trained.values() and before not in seen:
        seen.append(before)
        chosen = settings(config, before, "train_base")
        if chosen["architecture"] != settings(config, model, "train_base")["architecture"]:
            raise UserError(f"{where}: {before} is of another architecture; give one of the same")
        before = trained.get(chosen["continues"])
    if before in seen:
        raise UserError(f"{where}: goes on from {model} itself, by way of others or not; begin one of them anew")


def _check_trained_as(config: dict, name: str, adapter: dict, where: str) -> None:
    """Raise UserError unless `trained_as` names an adapter that is trained for another model of the configuration."""
    model, _, other = adapter["trained_as"].partition("/")
    there = config["models"].get(model, {}).get("adapters", {})
    if other not in there or "trained_as" in there[other]:
        raise UserError(
            f"{where}.trained_as: {adapter['trained_as']} is no adapter that is trained; give MODEL/ADAPTER"
        )
    if config["models"][model]["family"] != config["models"][where.split(".")[1]]["family"]:
        raise UserError(
            f"{where}.trained_as: {model} is of another family; give an adapter of a model of the same shape"
        )
    if len(adapter) > 1:
        raise UserError(f"{where}: trained as {adapter['trained_as']}; leave its other settings out")


def settings(config: dict, model: str | None, stage: str, variant: str | None = None) -> dict:
    """Return one stage's settings: defaults, then the model's (None: no model), then the variant's.

    variant: name of an adapter (for `train`), of trajectories, or of a method, with or without a guide; of any other name,
    there are none.
    Leaves out defaults that the model's family doesn't have. The model's own settings always stay, so that they are
    checked.
    """
    section = config["models"][model] if model else {}
    borrowed = settings(config, model, ALSO_READS[stage]) if stage in ALSO_READS else {}
    known = properties(stage, section.get("family"))
    general = {k: v for k, v in config["defaults"].get(stage, {}).items() if k in known}
    own = section.get(VARIANTS.get(stage), {}).get(guides.split(variant)[0]) or {}
    own = {name: value for name, value in own.items() if name not in ADAPTER_KEYS or stage != "train"}
    borrowed = {k: v for k, v in borrowed.items() if k in known}
    return borrowed | general | section.get(stage, {}) | own


def trajectories_of(config: dict, model: str, adapter: str) -> str:
    """Return the name of the trajectories that an adapter learns from."""
    return config["models"][model]["adapters"][adapter].get("trajectories", GUIDED)


def trained_as(config: dict, model: str, adapter: str) -> tuple[str, str]:
    """Return the model and the name that an adapter is trained as: its own, or those of `trained_as`."""
    other_model, _, other = config["models"][model]["adapters"][adapter].get("trained_as", "").partition("/")
    return (other_model, other) if other else (model, adapter)


def recorded(stage: str, chosen) -> dict:
    """Return the result settings of a stage's `Settings` for provenance, including the family's own settings."""
    values = dataclasses.asdict(chosen)
    return result_settings(stage, values.pop("family_settings", {}) | values)


@dataclasses.dataclass(frozen=True)
class Run:
    """Samples to compare: method, guidance scale as written in paths, number of steps."""

    method: str
    scale: str
    steps: int


def compared(config: dict, model: str) -> list[Run]:
    """Return what a model's fid.json compares, in order."""
    chosen = settings(config, model, "sample")
    scale, steps = scale_name(chosen["guidance_scale"]), chosen["num_inference_steps"]
    adapted = [compared_adapter(config, model), *config["models"][model].get("compared_methods", [])]
    base = [Run("none", "1", steps), Run("cfg", scale, steps), Run("cfg", scale, half(steps))]
    return base + [Run(method, scale, steps) for method in adapted]


def compared_rows(config: dict, model: str) -> list[str]:
    """Return the names of the rows of a model's fid.json: `compared`, with `cfg-half` for cfg in half the steps."""
    methods = [run.method for run in compared(config, model)]
    return [HALF if method in methods[:i] else method for i, method in enumerate(methods)]


def curve(config: dict, model: str) -> list[Run]:
    """Return what a model's curve.json compares: each method at each number of evaluations."""
    scale = scale_name(settings(config, model, "sample")["guidance_scale"])
    numbers = config["models"][model].get("curve_evaluations", config["curve_evaluations"])
    methods = (("none", "1", 1), ("cfg", scale, 2), (compared_adapter(config, model), scale, 1))
    return [Run(method, w, number // passes) for method, w, passes in methods for number in numbers]


def compared_adapter(config: dict, model: str) -> str:
    """Return the adapter that a model's fid.json compares with none and cfg. Raises UserError if the model lacks it."""
    section = config["models"][model]
    name = section.get("compared_adapter", config["compared_adapter"])
    if name not in section["adapters"]:
        raise UserError(f"models.{model}.adapters: {name!r} is not there; add it, or give another compared_adapter")
    if "trained_as" in section["adapters"][name]:
        raise UserError(
            f"models.{model}.compared_adapter: {name!r} is trained for another model; give one of this model"
        )
    return name


def _check_number_of_files(stage: str, values: dict, where: str) -> None:
    number, size = total(stage, values), values["chunk_size"]
    if number > _MOST_FILES * size:
        raise UserError(
            f"{key_of(where, 'chunk_size')}: {size} makes more than {_MOST_FILES:,} files for {number}; raise it"
        )


def check_settings(stage: str, values: dict, where: str = "", family: str | None = None) -> None:
    """Check all settings of one stage, singly and together. where: prefix of the key in errors."""
    known = properties(stage, family)
    check_against({"type": "object", "additionalProperties": False, "properties": known}, values, where)
    for name in known:
        if name not in values:
            raise UserError(f"{key_of(where, name)}: missing; give a value ({allowed(known[name])})")
    low, high = values.get("guidance_min", 1), values.get("guidance_max", 1)
    if stage == "sample_trajectories" and low > high:
        raise UserError(f"{key_of(where, 'guidance_min')}: {low} is above guidance_max, {high}; swap them")
    if stage == "train":
        check_adapter(*(values[k] for k in ("kind", "embedding", "encoder", "gain")), where=key_of(where, ""))
    if stage in ("sample", "sample_trajectories"):
        _check_number_of_files(stage, values, where)
    if values.get("guidance_scales", "auto") != "auto":
        written_values.guidance_scales(values["guidance_scales"], key_of(where, "guidance_scales"))
    if "guided_sigmas" in values:
        written_values.guided_sigmas(values["guided_sigmas"], key_of(where, "guided_sigmas"))
    if "class_labels" in values:
        written_values.class_labels(values["class_labels"], key_of(where, "class_labels"))
