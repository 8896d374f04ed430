"""A stage's settings <-> its command line. Options, types, ranges and help come from config/schema.yaml; defaults from
config/default.yaml and the model's file, so that both are written once."""

import argparse
import importlib
import inspect
import shlex
import signal
import sys
from collections.abc import Callable

from agd import config
from agd.errors import UserError
from agd.stopping import Terminated, at_once

_SEED = ("--seed", dict(type=int, default=0, help="seed of the study (default: 0)"))
_FIRST = ("--first", dict(type=int, default=0, help="index of the first one to make (default: 0)"))
_COUNT = ("--count", dict(type=int, help="how many to make, in one file (default: all, in files of --chunk-size)"))
_BASE = ("--base-model", dict(help="folder that diffusers opens, or hub id"))
_PROMPT = ("--prompt", dict(nargs="+", metavar="PROMPT", help="what to depict, in turn"))
_PROMPT_FILE = ("--prompt-file", dict(metavar="F", help="text file with one prompt per line, in turn (UTF-8)"))

# What a stage reads and writes, and what a family's stage reads besides; files are named on the command line, never in
# the configuration of a stage.
FILES = {
    "download": [
        ("--url", dict(required=True, metavar="URL", help="one of the files that agd/downloads.py lists")),
        ("--output", dict(required=True, metavar="FILE", help="file to write")),
    ],
    "prepare_digits": [
        ("--output", dict(required=True, metavar="ZIP", help="zip of PNG images to write")),
        ("--annotations", dict(required=True, metavar="ZIP", help="zip of captions to write, as COCO lays them out")),
    ],
    "prepare_prompts": [
        ("--captions", dict(required=True, help="COCO's annotations_trainval2017.zip, or a folder of its captions_*2017.json")),
        ("--output-dir", dict(required=True, metavar="D", help="folder for trajectories.txt and samples.txt")),
    ],
    "train_classifier": [("--output", dict(required=True, metavar="SAFETENSORS", help="file to write; its accuracy goes beside it"))],
    "train_base": [("--output-dir", dict(required=True, metavar="BASE", help="folder to write, which diffusers opens"))],
    "prepare_reference": [
        ("--reference", dict(required=True, help="folder or .zip of images, or .npz of statistics")),
        ("--output", dict(required=True, metavar="NPZ", help="file to write")),
    ],
    "sample_trajectories": [
        ("--output-dir", dict(required=True, metavar="T", help="folder for the shards, {first}.zarr.zip")),
        _BASE,
        _SEED,
        _FIRST,
        _COUNT,
    ],
    "train": [
        ("--dir", dict(required=True, metavar="R", help="folder for the adapter")),
        ("--data-path", dict(required=True, nargs="+", metavar="T", help="folder of shards, or shards")),
        ("--base-model", dict(help="folder or hub id (default: the one that the trajectories were sampled from)")),
        _SEED,
    ],
    "sample": [
        ("--dir", dict(metavar="R", help="folder of a trained adapter (for --guidance adapter)")),
        ("--guidance", dict(choices=["adapter", "cfg", "none"], default="adapter", help="how to guide (default: adapter)")),
        ("--output-dir", dict(metavar="S", help="folder for the images (default: R/samples)")),
        ("--base-model", dict(help="folder or hub id (default: the one that the adapter was trained on)")),
        _SEED,
        _FIRST,
        _COUNT,
    ],
    "calculate_metrics": [
        ("--dir", dict(metavar="R", help="folder of an adapter whose samples are in R/samples")),
        ("--samples", dict(nargs="+", metavar="ZIP", help="sample files (default: all in R/samples)")),
        ("--ref", dict(required=True, help="reference: folder or .zip of images, or .npz of statistics or features")),
        ("--output", dict(metavar="JSON", help="file to write (default: R/metrics.json)")),
    ],
    "tabulate": [
        ("--name", dict(required=True, help="the model's name")),
        ("--metrics", dict(nargs="+", required=True, metavar="JSON", help="metrics of every method and seed to compare")),
        ("--samples", dict(nargs="+", required=True, metavar="ZIP", help="sample files to show, a row each")),
        ("--training", dict(nargs="+", required=True, metavar="CSV", help="training.csv of each seed")),
        ("--adapter", dict(required=True, metavar="R", help="folder of the adapter that is compared")),
        ("--columns", dict(type=int, default=10, help="images per row (default: 10)")),
        ("--output-dir", dict(required=True, help="folder for fid.json, fid.txt, samples.png and training.png")),
    ],
    "sd.sample_trajectories": [_PROMPT_FILE],
    "sd.sample": [
        _PROMPT,
        _PROMPT_FILE,
        ("--ip-adapter", dict(metavar="FILE", help="weights of an IP-Adapter (.safetensors)")),
        ("--ip-adapter-image", dict(metavar="IMAGE", help="picture that the IP-Adapter looks at")),
        ("--image-encoder", dict(metavar="FOLDER", help="image encoder of the IP-Adapter")),
        ("--controlnet", dict(metavar="FOLDER", help="ControlNet: folder that diffusers opens")),
        ("--controlnet-image", dict(metavar="IMAGE", help="picture that the ControlNet follows")),
    ],
}  # fmt: skip


_PUBLISHED = {"num_inference_steps": ["--inference-steps"]}  # the published commands' names for settings
_DIGITS = ("prepare_digits", "train_classifier", "train_base")  # stages that live in agd/digits/


def door(stage: str, family: str | None = None, model: str | None = None) -> Callable[[list[str] | None], None]:
    """The `main` of a stage's module: reads the command line, then imports and runs the stage.

    family: the package whose `FAMILY` the stage works on. model: whose settings are the defaults; `--model` overrides.
    Exit status 2 and one line on a user's mistake; nothing heavy is imported before the command line is known to be good.
    A scheduler's SIGTERM stops the stage as Ctrl-C does: one line, nothing half-written, status 143 (128 + 15).
    """

    def main(argv: list[str] | None = None) -> None:
        name = ".".join(filter(None, ["agd", "digits" if stage in _DIGITS else family, stage]))
        try:
            with at_once():
                files, settings = parse(stage, name, family, model, sys.argv[1:] if argv is None else argv)
                module = importlib.import_module(f"agd.digits.{stage}" if stage in _DIGITS else f"agd.{stage}")
                # A stage that reads only what others made asks for no family, and is spared importing one.
                needed = "family" in inspect.signature(module.run).parameters
                knows = {"family": importlib.import_module(f"agd.{family}.family").FAMILY} if needed else {}
                others = dict.fromkeys(config.properties(stage))  # settings that are other families' alone: None
                module.run(files, module.Settings(**others | settings), **knows)
        except UserError as error:
            print(f"{name}: error: {error}", file=sys.stderr)
            sys.exit(2)
        except KeyboardInterrupt:
            print(f"{name}: interrupted", file=sys.stderr)
            sys.exit(130)
        except Terminated:
            print(f"{name}: stopped by SIGTERM; the same command goes on", file=sys.stderr)
            sys.exit(128 + signal.SIGTERM)
        except OSError as error:
            said = UserError(f"{error.filename or 'input/output'}: {error.strerror or error}")
            print(f"{name}: error: {said}", file=sys.stderr)
            sys.exit(2)

    return main


def parse(
    stage: str, program: str, family: str | None, model: str | None, argv: list[str]
) -> tuple[argparse.Namespace, dict]:
    """Command line -> (files, settings), checked. Raises UserError; --help and misspelt options exit as argparse does."""
    shipped = config.shipped()
    first = _Parser(add_help=False, allow_abbrev=False)
    first.add_argument("--model", default=model)
    model = first.parse_known_args(argv)[0].model
    known = [name for name, section in shipped["models"].items() if section["family"] == family or family is None]
    if model is not None and model not in known:
        raise UserError(f"--model: {model!r} is unknown; choose one of {', '.join(known)}")
    defaults = config.settings(shipped, model, stage)
    parser = _parser(stage, program, family, model, defaults)
    arguments = parser.parse_args(argv)
    settings = {name: getattr(arguments, name) for name in config.properties(stage, family)}
    config.check_settings(stage, settings, family=family)
    files = argparse.Namespace(**{k: v for k, v in vars(arguments).items() if k not in settings})
    for name in ("seed", "first"):
        if getattr(files, name, 0) < 0:
            raise UserError(f"--{name}: {getattr(files, name)} must be 0 or more")
    if "count" in files and files.count is not None and files.count < 1:
        raise UserError(f"--count: {files.count} must be 1 or more")
    if "base_model" in files and files.base_model is None and stage == "sample_trajectories" and model:
        files.base_model = shipped["models"][model]["base_model"]
    return files, settings


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise UserError(f"{message}; see --help")


def _parser(stage: str, program: str, family: str | None, model: str | None, defaults: dict) -> argparse.ArgumentParser:
    description = config.schema()["$defs"].get(stage, {}).get("description")
    parser = _Parser(f"python -m {program}", description=description, allow_abbrev=False)
    files = parser.add_argument_group("files")
    for flag, options in FILES[stage] + FILES.get(f"{family}.{stage}", []):
        files.add_argument(flag, **options)
    group = parser.add_argument_group("settings")
    if model:
        group.add_argument("--model", default=model, help=f"whose settings are the defaults (default: {model})")
    for name, spec in config.properties(stage, family).items():
        default = defaults.get(name)
        options = {"default": default, "help": f"{spec['description']} (default: {default})".replace("%", "%%")}
        if spec.get("type") == "boolean":
            options["action"] = argparse.BooleanOptionalAction
            options["help"] = spec["description"]
        else:
            options["type"] = {"integer": int, "number": _number}.get(spec.get("type"), str)
            options["metavar"] = name.upper() if "enum" not in spec else "{" + ",".join(spec["enum"]) + "}"
            options["required"] = default is None
        group.add_argument(_flag(name), *_PUBLISHED.get(name, []), **options)
    return parser


def _number(text: str) -> int | float:
    value = float(text)
    if value != value or value in (float("inf"), float("-inf")):
        raise ValueError(text)
    return int(value) if value.is_integer() else value


_number.__name__ = "number"


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def flags(settings: dict) -> str:
    """Settings -> the options that give them, sorted by name: equal settings, equal text."""
    words = []
    for name, value in sorted(settings.items()):
        if isinstance(value, bool):
            words.append(_flag(name) if value else "--no-" + name.replace("_", "-"))
        else:
            words += [_flag(name), shlex.quote(str(value))]
    return " ".join(words)
