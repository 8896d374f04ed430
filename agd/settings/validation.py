"""Checks values against the JSON schema: one line with the key, the value and what is allowed. Imports nothing heavy."""

import contextlib
import math
import re

import jsonschema
import yaml

from agd.runtime.errors import UserError
from agd.settings.schema import schema
from agd.settings.yaml_files import ODD_NUMBER


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
    if isinstance(value, str):
        value = _of_text(value, kinds)
    whole = isinstance(value, float) and "integer" in kinds and value.is_integer()
    return int(value) if whole else value


def _of_text(value: str, kinds: set[str]):
    if not kinds & {"integer", "number", "boolean", "null"}:
        return value
    if "string" in kinds:
        return None if value == "null" else value
    if ODD_NUMBER.fullmatch(value):
        return value  # 010 is 8 to YAML, and 1:30 is 90
    try:
        read = yaml.safe_load(value)
    except yaml.YAMLError:
        return value
    if isinstance(read, str) and kinds & {"number", "integer"}:
        with contextlib.suppress(ValueError):
            return float(read)  # 1e-3, which YAML reads as text
    return value if isinstance(read, dict | list) else read


def _whole(validator, pattern: str, instance, rules: dict):
    """Match JSON schema's `pattern` to the whole text: Python's `$` would allow a newline at the end."""
    if isinstance(instance, str) and not re.fullmatch(pattern, instance):
        yield jsonschema.ValidationError(f"{instance!r} does not match {pattern!r}")


def _is_number(_, value) -> bool:
    """JSON schema takes NaN and infinity for numbers, too. No setting means them."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_integer(_, value) -> bool:
    """JSON schema takes 8.0 for an integer too. Paths and ranges are made of these, and don't. `typed` makes an 8 of it."""
    return isinstance(value, int) and not isinstance(value, bool)


_Validator = jsonschema.validators.extend(
    jsonschema.Draft202012Validator,
    {"pattern": _whole},
    type_checker=jsonschema.Draft202012Validator.TYPE_CHECKER.redefine_many(
        {"number": _is_number, "integer": _is_integer}
    ),
)


LARGEST = 1 << 53  # beyond, not every integer is a double, and tables, JSON and random generators part ways


def _check_sizes(value, where: tuple = ()) -> None:
    """Raise UserError if a number is larger than any setting can mean, or a text holds what no path can."""
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            _check_sizes(item, (*where, key))
    elif isinstance(value, int) and abs(value) > LARGEST:
        shown = str(value) if value.bit_length() < 120 else "a number of hundreds of digits"
        raise UserError(f"{'.'.join(map(str, where))}: {shown} is too large; give at most 2^53")
    elif isinstance(value, str) and "\0" in value:
        raise UserError(f"{'.'.join(map(str, where))}: {value!r} holds a character that ends a text; leave it out")


def check_against(rules: dict, value, where: str) -> None:
    """Raise UserError if a value does not follow these rules of JSON schema. where: its key."""
    _check_sizes(value, (where,) if where else ())
    validator = _Validator(rules)
    error = jsonschema.exceptions.best_match(validator.iter_errors(value))
    if error is None:
        return
    key = ".".join(str(part) for part in ([where] if where else []) + list(error.absolute_path))
    if error.validator in ("additionalProperties", "required"):
        known = error.schema.get("properties", {})
        if error.validator == "required":
            missing = [name for name in error.validator_value if name not in error.instance]
            raise UserError(f"{key_of(key, missing[0])}: missing; add it to the configuration")
        unknown = [str(name) for name in error.instance if name not in known]
        raise UserError(f"{key_of(key, unknown[0])}: unknown key; allowed are {', '.join(sorted(known))}")
    raise UserError(f"{key or 'configuration'}: {error.instance!r} is not allowed; {allowed(error.schema)}")


def allowed(spec: dict) -> str:
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


def key_of(where: str, name: str) -> str:
    """Return a setting's key in errors."""
    return f"{where}.{name}" if where else name
