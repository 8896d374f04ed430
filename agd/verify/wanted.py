"""Compares the settings in artifacts with a configuration: is this what it asks for, or what an earlier one did?

A job that outlives its Snakemake puts its result in place when it ends, whatever has been configured since.
"""

import functools
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from agd.settings import configuration, schema, validation
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
    rf"{_SEED}/fidelity/(?P<variant>[^/]+)\.json",
]


def settings_checks(found: Found, config: dict) -> Iterator[tuple[Path, Callable[[], None]]]:
    """Yield (path, check) for artifacts of the configuration's models. A check raises UserError that names the setting."""
    for path, record in found.items():
        match = next(filter(None, (re.search(f"{place}$", str(path)) for place in _PLACES)), None)
        if match and match["model"] in config["models"]:
            made = record["provenance"] if isinstance(record, dict) else record.provenance
            yield path, functools.partial(_check, path, made, match, config)


def _check(path: Path, made: dict, match: re.Match, config: dict) -> None:
    stage, then = made["stage"], made["stage_version"]
    if stage == "prepare_prompts" and "captions" not in config["models"][match["model"]]:
        return
    want(then == VERSIONS[stage], path, f"made by version {then} of {stage}, which is at {VERSIONS[stage]}")
    model, variant = match["model"], match.groupdict().get("variant")
    known = {**config["models"][model].get(configuration.VARIANTS.get(stage), {}), **dict.fromkeys((*BUILT_IN, GUIDED))}
    adapters = config["models"][model]["adapters"]
    want(variant is None or variant in known or variant in adapters, path, f"{variant!r} is not in the configuration")
    asked = schema.result_settings(stage, configuration.settings(config, model, stage, variant))
    if stage == "sample":
        asked |= {"guidance_scale": float(match["w"]), "num_inference_steps": int(match["n"])}
    free = ["guidance_scales"]  # a table may ask for more of them
    if stage in ("sample", "measure_fidelity") and (variant == "none" or variant in adapters):
        free += schema.cfg_settings(stage)
    for name, value in made["settings"].items():
        if name in asked and name not in free and asked[name] != "auto":  # `auto` is recorded as what it became
            want(value == asked[name], path, f"made with {name} {value!r}, and the configuration says {asked[name]!r}")


def of_files(files: list[Path]) -> dict:
    """Return the shipped configuration with these files on top of it, as Snakemake reads them. Raises UserError."""
    config = validation.typed(configuration.with_files(files))
    configuration.check(config)
    return config
