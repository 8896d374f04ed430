"""The configuration: read, merged, checked. Imports nothing heavy, for Snakemake reads it at every start."""

import contextlib
import functools
import math
import re
from pathlib import Path

import jsonschema
import yaml

from agd.errors import UserError

CONFIG_FOLDER = Path(__file__).resolve().parent.parent / "config"


@functools.cache
def schema() -> dict:
    """config/schema.yaml, with references of properties resolved."""
    return yaml.safe_load((CONFIG_FOLDER / "schema.yaml").read_text(encoding="utf-8"))


# Stages that also read another stage's settings: samples and reference go through the same feature extractor.
_ALSO_READS = {"calculate_metrics": "prepare_reference"}


def properties(stage: str, family: str | None = None) -> dict[str, dict]:
    """Setting -> its schema, for every setting that a stage reads (none for a stage without a section).

    family: leave out the settings that are other families' alone.
    """
    definitions = schema()["$defs"]
    own = definitions.get(stage, {"properties": {}})["properties"]
    resolved = {k: definitions[v["$ref"].rsplit("/", 1)[1]] if "$ref" in v else v for k, v in own.items()}
    also = properties(_ALSO_READS[stage], family) if stage in _ALSO_READS else {}
    return also | {k: v for k, v in resolved.items() if family is None or family in v.get("families", [family])}


def what(stage: str, settings: dict) -> dict:
    """The settings that a stage's result depends on; those of other families, None, are left out."""
    known = properties(stage)
    return {k: v for k, v in settings.items() if v is not None and not {"how", "plan"} & set(known[k])}


def how(stage: str, settings: dict) -> dict:
    """The settings that say only how the work is done: no result depends on them."""
    return {k: v for k, v in settings.items() if properties(stage)[k].get("how")}


def files() -> list[Path]:
    """The files of the shipped configuration: config/default.yaml and every one of config/models/."""
    return [CONFIG_FOLDER / "default.yaml", *sorted((CONFIG_FOLDER / "models").glob("*.yaml"))]


def shipped() -> dict:
    """The configuration as shipped."""
    config = {"models": {}}
    for part in (yaml.safe_load(file.read_text(encoding="utf-8")) for file in files()):
        config = {**config, **part, "models": config["models"] | part.get("models", {})}
    return config


def total(stage: str, chosen: dict) -> int:
    """How many trajectories (`sample_trajectories`) or images (`sample`) a stage's settings ask for."""
    return chosen["num_samples" if stage == "sample" else "num_trajectories"]


def typed(value, spec: dict | None = None):
    """The configuration with numbers where the schema wants numbers: Snakemake reads what is inside `--config 'a=[1, 2]'`
    as text. What can't be read as wanted is left for `check` to name."""
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
            return float(read)  # 1e-3, which YAML takes for text
    return value if isinstance(read, dict | list) else read


def check(config: dict) -> None:
    """Raise a UserError, one line that names the key, the value and what is allowed, unless the configuration is right."""
    _check_against(schema(), config, "")
    for model, section in config["models"].items():
        for name, spec in schema()["$defs"]["model"]["properties"].items():
            needed = section["family"] in spec.get("families", [])
            if needed and name not in section:
                raise UserError(f"models.{model}.{name}: missing; models of the family {section['family']} need it")
            if "families" in spec and name in section and not needed:
                raise UserError(
                    f"models.{model}.{name}: not for models of the family {section['family']}; leave it out"
                )
        optional = [stage for stage in ("train_base", "prepare_prompts") if stage in section]
        for stage in ["prepare_reference", "sample_trajectories", "sample", "calculate_metrics", *optional]:
            check_settings(stage, settings(config, model, stage), f"models.{model}.{stage}", section["family"])
        for adapter in section["adapters"]:
            chosen = settings(config, model, "train", adapter)
            check_settings("train", chosen, f"models.{model}.adapters.{adapter}", section["family"])


def settings(config: dict, model: str | None, stage: str, adapter: str | None = None) -> dict:
    """One stage's settings: defaults, then the model's (None: there is no model), then (for `train`) the adapter's.

    Defaults of settings that the model's family lacks are left out; what the model's own section says stays, to be checked.
    """
    section = config["models"][model] if model else {}
    borrowed = settings(config, model, _ALSO_READS[stage]) if stage in _ALSO_READS else {}
    known = properties(stage, section.get("family"))
    general = {k: v for k, v in config["defaults"].get(stage, {}).items() if k in known}
    return borrowed | general | section.get(stage, {}) | (section["adapters"][adapter] if adapter else {})


def check_settings(stage: str, values: dict, where: str = "", family: str | None = None) -> None:
    """Check one stage's complete settings, alone and against each other. `where` is put before the key in errors."""
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
    if "class_labels" in values:
        class_labels(values["class_labels"], _key(where, "class_labels"))


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
    """JSON schema's `pattern`, for ours, which are anchored: Python's `$` would let a newline at the end pass."""
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
    """What a setting may be, in words."""
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
