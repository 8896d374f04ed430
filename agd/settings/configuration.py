"""Reads, merges and checks the configuration. Imports nothing heavy, because Snakemake reads it at every start."""

import contextlib
import dataclasses
import math
import re
from pathlib import Path

import jsonschema
import yaml

from agd.runtime.errors import UserError
from agd.settings.adapter_choices import check_adapter, check_gain
from agd.settings.results import half, scale_name
from agd.settings.schema import ALSO_READS, CONFIG_FOLDER, applies, properties, result_settings, schema


def files() -> list[Path]:
    """List the files of the shipped configuration: config/default.yaml and all of config/models/."""
    return [CONFIG_FOLDER / "default.yaml", *sorted((CONFIG_FOLDER / "models").glob("*.yaml"))]


def shipped() -> dict:
    """Return the shipped configuration."""
    config = {"models": {}}
    for part in (yaml.safe_load(file.read_text(encoding="utf-8")) for file in files()):
        config = {**config, **part, "models": config["models"] | part.get("models", {})}
    return config


def typed(value, spec: dict | None = None):
    """Convert text to numbers where the schema needs numbers: Snakemake reads items of `--config 'a=[1, 2]'` as text.

    Values that can't be converted stay as they are, and `check` reports them.
    """
    spec = schema() if spec is None else spec
    if "$ref" in spec:
        spec = schema()["$defs"][spec["$ref"].rsplit("/", 1)[1]]
    if isinstance(value, dict):
        others = spec.get("additionalProperties") or {}
        return {k: typed(v, spec.get("properties", {}).get(k, others)) for k, v in value.items()}
    if isinstance(value, list):
        return [typed(item, spec.get("items", {})) for item in value]
    kinds = spec.get("type", [])
    kinds = set(kinds if isinstance(kinds, list) else [kinds])
    if isinstance(value, float) and "integer" in kinds and value.is_integer():
        return int(value)
    if not isinstance(value, str) or not kinds & {"integer", "number", "boolean", "null"}:
        return value
    if "string" in kinds:
        return None if value == "null" else value
    try:
        read = yaml.safe_load(value)
    except yaml.YAMLError:
        return value
    if isinstance(read, str) and "number" in kinds:
        with contextlib.suppress(ValueError):
            return float(read)  # 1e-3, which YAML reads as text
    return value if isinstance(read, dict | list) else read


def check(config: dict) -> None:
    """Raise UserError if the configuration is wrong: one line with the key, the value and the allowed values."""
    _check_against(schema(), config, "")
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
        needed = ["prepare_reference", "sample_trajectories", "sample", "measure_fidelity", "calculate_metrics"]
        for stage in [*needed, *optional]:
            check_settings(stage, settings(config, model, stage), f"models.{model}.{stage}", section["family"])
        for adapter in section["adapters"]:
            chosen = settings(config, model, "train", adapter)
            where = f"models.{model}.adapters.{adapter}"
            check_settings("train", chosen, where, section["family"])
            highest = settings(config, model, "sample_trajectories")["guidance_max"]
            check_gain(chosen["gain"], highest, f"{where}.gain")


def settings(config: dict, model: str | None, stage: str, adapter: str | None = None) -> dict:
    """Return one stage's settings: defaults, then the model's (None: no model), then (for `train`) the adapter's.

    Leaves out defaults that the model's family doesn't have. The model's own settings always stay, so that they are
    checked.
    """
    section = config["models"][model] if model else {}
    borrowed = settings(config, model, ALSO_READS[stage]) if stage in ALSO_READS else {}
    known = properties(stage, section.get("family"))
    general = {k: v for k, v in config["defaults"].get(stage, {}).items() if k in known}
    own = section["adapters"][adapter] if adapter and stage == "train" else {}
    return borrowed | general | section.get(stage, {}) | own


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
    adapted = Run(compared_adapter(config, model), scale, steps)
    return [Run("none", "1", steps), Run("cfg", scale, steps), Run("cfg", scale, half(steps)), adapted]


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
    return name


def check_settings(stage: str, values: dict, where: str = "", family: str | None = None) -> None:
    """Check all settings of one stage, singly and together. where: prefix of the key in errors."""
    known = properties(stage, family)
    _check_against({"type": "object", "additionalProperties": False, "properties": known}, values, where)
    for name in known:
        if name not in values:
            raise UserError(f"{_key(where, name)}: missing; give a value ({_allowed(known[name])})")
        if isinstance(values[name], float) and not math.isfinite(values[name]):
            raise UserError(f"{_key(where, name)}: {values[name]} is not allowed; {_allowed(known[name])}")
    low, high = values.get("guidance_min", 1), values.get("guidance_max", 1)
    if stage == "sample_trajectories" and low > high:
        raise UserError(f"{_key(where, 'guidance_min')}: {low} is above guidance_max, {high}; swap them")
    if stage == "train":
        check_adapter(values["kind"], values["embedding"], values["encoder"], _key(where, "encoder"))
    if values.get("guidance_scales", "auto") != "auto":
        guidance_scales(values["guidance_scales"], _key(where, "guidance_scales"))
    if "class_labels" in values:
        class_labels(values["class_labels"], _key(where, "class_labels"))


def guidance_scales(text: str, where: str = "guidance_scales") -> list[float]:
    """'1.5,3' -> [1.5, 3.0]. Raises UserError if a scale is no guidance."""
    scales = [float(part) for part in text.split(",")]
    if min(scales) <= 1:
        raise UserError(
            f"{where}: {min(scales):g} is no guidance, so that there is nothing to measure; give more than 1"
        )
    return scales


def class_labels(text: str, where: str = "class_labels") -> list[int]:
    """'0-2,7' -> [0, 1, 2, 7]."""
    labels = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        if last and int(first) > int(last):
            raise UserError(f"{where}: {part!r} is reversed; write it as {last}-{first}")
        labels += range(int(first), int(last or first) + 1)
    return labels


def _whole(validator, pattern: str, instance, rules: dict):
    """Match JSON schema's `pattern` to the whole text: Python's `$` would allow a newline at the end."""
    if isinstance(instance, str) and not re.fullmatch(pattern, instance):
        yield jsonschema.ValidationError(f"{instance!r} does not match {pattern!r}")


_Validator = jsonschema.validators.extend(jsonschema.Draft202012Validator, {"pattern": _whole})


def _check_against(rules: dict, value, where: str) -> None:
    validator = _Validator(rules)
    error = jsonschema.exceptions.best_match(validator.iter_errors(value))
    if error is None:
        return
    key = ".".join(str(part) for part in ([where] if where else []) + list(error.absolute_path))
    if error.validator in ("additionalProperties", "required"):
        known = error.schema.get("properties", {})
        if error.validator == "required":
            missing = [name for name in error.validator_value if name not in error.instance]
            raise UserError(f"{_key(key, missing[0])}: missing; add it to the configuration")
        unknown = [str(name) for name in error.instance if name not in known]
        raise UserError(f"{_key(key, unknown[0])}: unknown key; allowed are {', '.join(sorted(known))}")
    raise UserError(f"{key or 'configuration'}: {error.instance!r} is not allowed; {_allowed(error.schema)}")


def _allowed(spec: dict) -> str:
    """Describe the allowed values of a setting in words."""
    words = []
    kind = spec.get("type")
    if kind:
        words.append("must be " + " or ".join(kind if isinstance(kind, list) else [kind]))
    bounds = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
    words += [f"{text} {spec[bound]}" for bound, text in bounds.items() if bound in spec]
    if "enum" in spec:
        words.append("must be one of " + ", ".join(map(str, spec["enum"])))
    if "pattern" in spec:
        words.append(f"matching {spec['pattern']}")
    words += [f"a multiple of {spec['multipleOf']}"] if "multipleOf" in spec else []
    words += [
        f"{text} {spec[k]} entries"
        for k, text in (("minItems", "at least"), ("minProperties", "at least"))
        if k in spec
    ]
    words += ["without repeats"] if spec.get("uniqueItems") else []
    return ", ".join(words) or spec.get("description", "see config/schema.yaml")


def _key(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name
