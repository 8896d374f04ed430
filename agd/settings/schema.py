"""Reads config/schema.yaml, which describes every setting, and adds the families' own settings.

Imports nothing heavy: Snakemake and every command line read it at their start.
"""

import functools
from pathlib import Path

import yaml

from agd.settings.columns import AXES, COLUMNS
from agd.settings.families import PACKAGES, options

_PACKAGE = Path(__file__).resolve().parent.parent
# config/ is inside the package in a wheel, and beside it in a checkout.
CONFIG_FOLDER = next(
    (folder for folder in (_PACKAGE / "config", _PACKAGE.parent / "config") if (folder / "schema.yaml").is_file()),
    _PACKAGE.parent / "config",
)
# Stages that also read another stage's result settings: samples and reference need the same feature extractor, and what is
# timed is what is sampled.
ALSO_READS = {"calculate_metrics": "prepare_reference", "measure_speed": "sample"}
ADAPTER_KEYS = ("trajectories", "trained_as")  # of an adapter's section, beside settings of `train`


@functools.cache
def schema() -> dict:
    """Return the configuration's JSON schema: config/schema.yaml with the registered families and their settings, the
    settings that adapters and methods override, and the measures of tables."""
    joined = yaml.safe_load((CONFIG_FOLDER / "schema.yaml").read_text(encoding="utf-8"))
    definitions = joined["$defs"]
    definitions["model"]["properties"]["family"]["enum"] = list(PACKAGES)
    definitions["measure"]["enum"] = list(COLUMNS)
    definitions["axis"]["enum"] = list(AXES)
    for family in PACKAGES:
        for stage, settings in options(family).SETTINGS.items():
            for name, spec in settings.items():
                there = definitions[stage]["properties"].setdefault(name, {**spec, "families": []})
                there["families"].append(family)
    # Settings that cfg has in both stages. Others of its settings also say what measure_fidelity compares with.
    stages = [_resolved(definitions, stage).items() for stage in ("sample", "measure_fidelity")]
    partial = set.intersection(*({k for k, v in own if v.get("only_for") == "cfg"} for own in stages))
    for section, stage in (("adapter", "train"), ("method", "sample")):
        known = definitions[stage]["properties"]
        overridden = {k: v for k, v in known.items() if section == "adapter" or k in partial}
        definitions[section]["properties"] = definitions[section].get("properties", {}) | overridden
    return joined


def properties(stage: str, family: str | None = None) -> dict[str, dict]:
    """Return setting -> its schema, for every setting that a stage reads (empty for a stage without settings).

    family: if given, leave out the settings that its models don't use.
    """
    definitions = schema()["$defs"]
    own = _resolved(definitions, stage) if stage in definitions else {}
    also = properties(ALSO_READS[stage], family) if stage in ALSO_READS else {}
    also = {k: v for k, v in also.items() if decides(v) == "result"}
    return also | {k: v for k, v in own.items() if family is None or applies(v, family)}


def _resolved(definitions: dict, stage: str) -> dict[str, dict]:
    """Return a stage's own settings, with shared ones in place of the references to them."""
    own = definitions[stage]["properties"]
    return {k: definitions[v["$ref"].rsplit("/", 1)[1]] if "$ref" in v else v for k, v in own.items()}


def applies(spec: dict, family: str) -> bool:
    """Return whether a family's models use a setting, from the setting's keys `families` and `subjects`."""
    return family in spec.get("families", [family]) and spec.get("subjects") in (None, options(family).SUBJECTS)


def result_settings(stage: str, settings: dict) -> dict:
    """Return a stage's result settings. Leaves out None: a setting that the model doesn't use."""
    known = properties(stage)
    return {k: v for k, v in settings.items() if v is not None and decides(known[k]) == "result"}


def execution_settings(stage: str, settings: dict) -> dict:
    """Return a stage's execution settings: they say how the work is done and change no result."""
    return {k: v for k, v in settings.items() if decides(properties(stage)[k]) == "execution"}


def decides(spec: dict) -> str:
    """Return what a setting decides: `result`, `execution`, or `files` (which files there are, not their contents)."""
    return spec.get("decides", "result")


def cfg_settings(stage: str) -> list[str]:
    """Return a stage's settings that only its method `cfg` uses."""
    return [name for name, spec in properties(stage).items() if spec.get("only_for") == "cfg"]


def of_cfg(stage: str, settings: dict) -> dict:
    """Return the part of a stage's settings that only its method `cfg` uses."""
    return {name: settings[name] for name in cfg_settings(stage) if name in settings}
