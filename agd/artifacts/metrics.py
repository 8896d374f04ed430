"""Reads the metrics that `calculate_metrics` wrote, for the stages that compare them."""

import statistics

from agd.artifacts.sealed_json import read_json, read_sealed
from agd.runtime.errors import UserError
from agd.settings.results import BUILT_IN, HALF

MEASURED = ("fid", "kid", "precision", "recall", "nfe", "seconds_per_image")
SHARED = ("num_samples", "features", "reference")


def read_metrics(path: str) -> dict:
    """Read a file of metrics. Raises UserError, naming the file, if it is something else."""
    if not {*MEASURED, *SHARED, "provenance"} <= set(read_json(path)):
        raise UserError(f"{path}: not a file of metrics; give what calculate_metrics wrote")
    return read_sealed(path)


def read_comparable(paths: list[str], adapter: dict) -> list[dict]:
    """Read several files of metrics. adapter: configuration of the adapter that is compared.

    Raises UserError if they were calculated with different settings, or from samples of another base model.
    """
    measured = [read_metrics(path) for path in paths]
    for key in SHARED:
        if any(metrics[key] != measured[0][key] for metrics in measured):
            raise UserError(f"{key}: differs between the metrics to compare; calculate them again with equal settings")
    for key in ("dtype", "scheduler", "guidance_scale"):
        made = [metrics["provenance"]["samples"] for metrics in measured]
        if len({own["settings"][key] for own in made if key != "guidance_scale" or own["guidance"] != "none"}) > 1:
            raise UserError(f"{key}: differs between the samples to compare; sample them again with equal settings")
    for path, metrics in zip(paths, measured, strict=True):
        if metrics["provenance"]["samples"]["base"]["fingerprint"] != adapter["provenance"]["base"]["fingerprint"]:
            raise UserError(
                f"{path}: measures samples of another base model than the adapter's; delete it and calculate it again"
            )
    return measured


def method_of(made: dict, adapter: str) -> str:
    """Return the method of samples with this provenance: `none`, `cfg`, or the compared adapter's name."""
    return adapter if made["guidance"] == "adapter" else made["guidance"]


def mean(values: list) -> float | None:
    """Return the mean, or None if a value is missing."""
    return None if None in values else statistics.fmean(values) if len(set(values)) > 1 else values[0]


def timed(speed: dict, method: str, adapter: str) -> dict | None:
    """Return what a record of measure_speed says of a method, or None if it doesn't. adapter: the name of the compared one."""
    if method == adapter:
        return speed["methods"]["adapter"]
    return speed["methods"][method] if method in (*BUILT_IN, HALF) else speed.get("others", {}).get(method)
