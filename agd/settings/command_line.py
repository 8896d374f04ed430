"""Converts between a stage's settings and its command line. Each fact has one source.

Options, types, ranges and help are from config/schema.yaml, defaults from config/default.yaml and the model's file, and
files from agd/settings/stages.py.
"""

import argparse
import shlex

from agd.runtime.errors import UserError
from agd.settings import configuration, families, schema
from agd.settings.stages import STAGES, Argument
from agd.settings.validation import LARGEST

_PUBLISHED = {"num_inference_steps": ["--inference-steps"]}  # names of settings in the published commands


def parse(
    stage: str, program: str, family: str | None, model: str | None, argv: list[str]
) -> tuple[argparse.Namespace, dict]:
    """Parse and check a command line. Returns (files, settings). Raises UserError; `--help` exits as in argparse."""
    for word in argv:
        if any("\ud800" <= sign <= "\udfff" for sign in word):
            raise UserError(f"{word}: is not UTF-8; rename the file, or set a locale of UTF-8")
    shipped = configuration.shipped()
    first = _Parser(add_help=False, allow_abbrev=False)
    first.add_argument("--model", default=model)
    first.add_argument("--guidance")
    chosen = first.parse_known_args(argv)[0]
    model = chosen.model
    known = [name for name, section in shipped["models"].items() if section["family"] == family or family is None]
    if model is not None and model not in known:
        raise UserError(f"--model: {model!r} is unknown; choose one of {', '.join(known)}")
    methods = shipped["models"][model].get("methods", {}) if model else {}
    defaults = configuration.settings(shipped, model, stage, chosen.guidance if chosen.guidance in methods else None)
    parser = _parser(stage, program, family, model, defaults, list(methods))
    arguments = parser.parse_args(argv)
    if getattr(arguments, "guidance", None) in methods:  # a kind of cfg, whose settings are the defaults now
        arguments.guidance = "cfg"
    settings = {name: getattr(arguments, name) for name in schema.properties(stage, family)}
    configuration.check_settings(stage, settings, family=family)
    files = argparse.Namespace(**{k: v for k, v in vars(arguments).items() if k not in settings})
    for argument in _arguments(stage, family):
        _check_file(argument.flag, getattr(files, argument.flag[2:].replace("-", "_")))
    if "base_model" in files and files.base_model is None and stage == "sample_trajectories" and model:
        files.base_model = shipped["models"][model]["base_model"]
    return files, settings


def _check_file(option: str, value) -> None:
    """Raise UserError if a file's name is empty, or a number is out of its range."""
    if value == "" or (isinstance(value, list) and "" in value and option != "--prompt"):
        raise UserError(f"{option}: '' is empty; give a name, or leave it out")
    if isinstance(value, int) and not isinstance(value, bool):
        least = 1 if option in ("--count", "--columns") else 0
        if not least <= value <= LARGEST:
            raise UserError(f"{option}: {value} must be {least} or more, and at most 2^53")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise UserError(f"{message}; see --help")


def _parser(
    stage: str, program: str, family: str | None, model: str | None, defaults: dict, methods: list[str]
) -> argparse.ArgumentParser:
    description = schema.schema()["$defs"].get(stage, {}).get("description")
    parser = _Parser(f"python -m {program}", description=description, allow_abbrev=False)
    files = parser.add_argument_group("files")
    for argument in _arguments(stage, family):
        more = {"choices": [*argument.options["choices"], *methods]} if argument.flag == "--guidance" else {}
        files.add_argument(argument.flag, **argument.options | more)
    group = parser.add_argument_group("settings")
    if model:
        group.add_argument("--model", default=model, help=f"whose settings are the defaults (default: {model})")
    for name, spec in schema.properties(stage, family).items():
        default = defaults.get(name)
        options = {"default": default, "help": f"{spec['description']} (default: {default})".replace("%", "%%")}
        if spec.get("type") == "boolean":
            options["action"] = argparse.BooleanOptionalAction
            options["help"] = spec["description"]
        else:
            options["type"] = {"integer": int, "number": _number}.get(spec.get("type"), str)
            options["metavar"] = name.upper() if "enum" not in spec else "{" + ",".join(spec["enum"]) + "}"
            options["required"] = default is None
        group.add_argument(flag(name), *_PUBLISHED.get(name, []), **options)
    return parser


def _arguments(stage: str, family: str | None) -> list[Argument]:
    """Return a stage's file arguments for a family."""
    if family is None:
        return [argument for argument in STAGES[stage].arguments if argument.subjects is None]
    own = families.options(family)
    ours = [argument for argument in STAGES[stage].arguments if argument.subjects in (None, own.SUBJECTS)]
    return ours + own.ARGUMENTS.get(stage, [])


def _number(text: str) -> int | float:
    value = float(text)
    if value != value or value in (float("inf"), float("-inf")):
        raise ValueError(text)
    return int(value) if value.is_integer() else value


_number.__name__ = "number"


def flag(name: str) -> str:
    """Return the option of a setting or file: `--base-model` for `base_model`."""
    return "--" + name.replace("_", "-")


def flags(settings: dict) -> str:
    """Return settings as command-line options, sorted by name: equal settings give equal text."""
    words = []
    for name, value in sorted(settings.items()):
        if isinstance(value, bool):
            words.append(flag(name) if value else "--no-" + name.replace("_", "-"))
        else:
            words += [flag(name), shlex.quote(str(value))]
    return " ".join(words)
