"""Reads the small files of scores that tables are made of, and refuses those that don't belong into one table.

Needs no torch: whoever has these files alone can make the tables again.
"""

import csv
import math
from collections.abc import Iterator
from pathlib import Path

from agd.artifacts.metrics import read_metrics
from agd.artifacts.sealed_json import read_json, read_sealed
from agd.runtime.errors import UserError
from agd.settings import guides, tables
from agd.settings.columns import BY_TIMESTEP, COLUMNS
from agd.settings.tables import Run

_SMALL_GPU = 24  # GB
_NAMES = ("model", "method", "w", "steps")  # of a row from elsewhere
_RANGES = {
    "w": (1, 1e12),
    "steps": (1, 1e12),
    **{name: (column.least, column.most) for name, column in COLUMNS.items()},
}


class OneTable:
    """What the files of one table must agree on."""

    def __init__(self):
        self.first: dict[tuple, tuple] = {}
        self.versions: dict[str, int] = {}

    def agree(self, path: Path, about: str, what: str, value) -> None:
        """Raise UserError, naming the file, if an earlier file had another value. about: the model, or "" for all."""
        there, other = self.first.setdefault((about, what), (value, path))
        if there != value:
            raise UserError(
                f"{path}: {what} is {value}, and {there} in {other}; make the older one again, with equal settings"
            )

    def add(self, path: Path, made: dict) -> None:
        """Add the stages that made a file. Raises UserError if another version of one made an earlier file."""
        for stage, version in stages(made):
            self.agree(path, "", f"the version of {stage}", version)
            self.versions[stage] = version


def stages(made: dict) -> Iterator[tuple[str, int]]:
    """Yield each stage in a record of provenance and in those that it holds, with its version."""
    if "stage_version" in made:
        yield made["stage"], made["stage_version"]
    for value in made.values():
        if isinstance(value, dict):
            yield from stages(value)


class Scores:
    """Reads the scores of a table's runs. complete: its definition. results: the folder of all results."""

    def __init__(self, complete: dict, results: str | Path):
        self.complete, self.results, self.table = complete, Path(results), OneTable()
        self.measures = tables.measures(complete)
        self.sources = list(dict.fromkeys(COLUMNS[name].source for name in self.measures))
        self.shared: dict[str, dict] = {}  # model -> number of samples, extractor and reference

    def read(self, run: Run, seed: int) -> tuple[dict, dict]:
        """Return a run's measures (None where the method has none), and those at each timestep.

        Raises UserError, naming the file, if a file is missing, bad, of another run than its path says, or not comparable.
        """
        values, by_timestep = dict.fromkeys(self.measures), {}
        for source in self.sources:
            place = tables.path(self.complete, run, seed, source)
            if place is None:
                continue
            path = self.results / place
            try:
                found = getattr(self, f"_{source}")(path, run, seed)
            except KeyError as error:
                raise UserError(f"{path}: says nothing of {error.args[0]}; delete it and run again") from None
            values |= {name: found.get(name) for name in self.measures if COLUMNS[name].source == source}
            if source == "fidelity":
                by_timestep = {name: found[name] for name in found if name.startswith("at_")}
        return values, by_timestep

    def _metrics(self, path: Path, run: Run, seed: int) -> dict:
        record = read_metrics(path)
        made = record["provenance"]["samples"]
        chosen = made["settings"]
        placed = (chosen["guidance_scale"], chosen["num_inference_steps"], made["seed"])
        followed = made.get("follows", {})
        ours = made["guidance"] == self._guidance(run) and guides.fits(run.method, followed)
        if placed != (float(run.scale), run.steps, seed) or not ours:
            way = made["guidance"] + (" with a guide" if followed else "")
            said = f"{way} at w = {placed[0]:g} in {placed[1]} steps of seed {placed[2]}"
            raise UserError(f"{path}: measures samples of {said}, unlike its path; delete it and run again")
        self._check_guidance(path, run, chosen)
        shared = {name: record[name] for name in ("features", "reference", "num_samples")}
        own = {
            "the base model": made["base"]["fingerprint"],
            "the reference's checksum": record["provenance"].get("reference"),
            "the extractor's checksum": record["provenance"].get("weights"),
            **{name: record["provenance"]["settings"].get(name) for name in ("neighbours", "clip_model")},
            **{f"{name} of the samples": chosen.get(name) for name in ("dtype", "scheduler")},
        }
        for name, value in {**shared, **own}.items():
            self.table.agree(path, run.model, name, value)
        self.shared[run.model] = shared
        self._add_adapter(path, run, seed, made.get("adapter"))
        self.table.add(path, record["provenance"])
        return record

    def _check_guidance(self, path: Path, run: Run, chosen: dict) -> None:
        """Raise UserError if a file of a kind of cfg is of another kind."""
        for name, value in self.complete.get("guided", {}).get(run.model, {}).get(run.method, {}).items():
            if chosen.get(name, value) != value:
                raise UserError(
                    f"{path}: {name} is {chosen[name]}, and {value} for {run.method} in the configuration; delete it and run again"
                )

    def _guidance(self, run: Run) -> str:
        """Return what the samples of a run say of their guidance: further methods are kinds of cfg."""
        if run.method in self.complete["adapters"].get(run.model, {}):
            return "adapter"
        return "none" if guides.split(run.method)[0] == "none" else "cfg"

    def _add_adapter(self, path: Path, run: Run, seed: int, made: dict | None) -> None:
        """Check that all files of a method and seed are of one adapter."""
        if made is not None:
            there, other = self.table.first.setdefault((run.model, run.method, seed), (made, path))
            if there != made:
                raise UserError(f"{path}: is of another adapter than {other}; make the older one again")

    def _adapter(self, path: Path, run: Run, seed: int) -> dict:
        record = _read(path, "size", "an adapter's config.json")
        self._add_adapter(path, run, seed, record["provenance"])
        self.table.add(path, record["provenance"])
        here = (
            self.complete["adapters"][run.model][run.method].split("/")[0] == run.model
        )  # or held out on another base
        return {
            **record["size"],
            "unexplained_held_out": record.get("fidelity", {}).get("unexplained") if here else None,
        }

    def _cost(self, path: Path, run: Run, seed: int) -> dict:
        record = _read(path, "seconds_per_step", "what train says of its cost")
        each, used = record["seconds_per_step"], record["peak_gpu_bytes"]
        return {
            "training_seconds": None if each is None else each * record["steps"],
            "peak_gpu_gb": None if used is None else used / 1e9,
            "fits_24gb": None if used is None else used / 1e9 <= _SMALL_GPU,
        }

    def _fidelity(self, path: Path, run: Run, seed: int) -> dict:
        record = _read(path, "by_guidance_scale", "a file of fidelity")
        at = record["by_guidance_scale"].get(f"{float(run.scale):g}")
        if at is None:
            raise UserError(f"{path}: measures nothing at w = {run.scale}; delete it and run again")
        made = record["provenance"]
        if (made["seed"], made["guidance"]) != (seed, self._guidance(run)):
            said = f"{made['guidance']} and of seed {made['seed']}"
            raise UserError(f"{path}: is of {said}, unlike its path; delete it and run again")
        self._check_guidance(path, run, made["settings"])
        self.table.agree(path, run.model, "the base model", made["base"]["fingerprint"])
        self.table.agree(path, run.model, "num_trajectories", record["num_trajectories"])
        self._add_adapter(path, run, seed, made["adapter"] or None)
        self.table.add(path, made)
        far = {f"divergence_{what}": value for what, value in at["divergence"].items()}
        series = {f"at_{name}": at[stored] for name, stored in BY_TIMESTEP.items()}
        return {
            **{name: at[name] for name in ("unexplained", "captured")},
            **far,
            **series,
            "at_timesteps": at["timesteps"],
        }


def _read(path: Path, key: str, what: str) -> dict:
    if key not in read_json(path):
        raise UserError(f"{path}: not {what}; delete it and run again")
    return read_sealed(path)


def read_elsewhere(path: str | Path) -> list[dict]:
    """Read values from elsewhere: rows with model, method, w, steps (None if empty), and measure -> value.

    Raises UserError, naming the file and the line, for an unknown column, a row that is there twice, and for what is no number
    or can't be one of this measure.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file)
            lines, names = [(table.line_num, line) for line in table], table.fieldnames or []
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"{path}: no such file; give a CSV file (elsewhere)") from None
    except (UnicodeDecodeError, csv.Error):
        raise UserError(f"{path}: not a CSV file in UTF-8; save it as one") from None
    if repeated := [name for name in names if names.count(name) > 1]:
        raise UserError(f"{path}: has two columns {repeated[0]}; leave one out")
    for name in [*names, *_NAMES]:
        if name not in (*_NAMES, *COLUMNS):
            raise UserError(f"{path}: column {name!r} is unknown; choose from {', '.join((*_NAMES, *COLUMNS))}")
        if name not in names:
            raise UserError(f"{path}: has no column {name}; add it (its values may be empty)")
    if not lines:
        raise UserError(f"{path}: has no rows; add some, or leave elsewhere out")
    rows, seen = [], {}
    for number, line in lines:
        rows.append(_row_from_elsewhere(path, number, line))
        first = seen.setdefault(tuple(rows[-1][name] for name in _NAMES), number)
        if first != number:
            raise UserError(f"{path}: lines {first} and {number} are of the same run; make one of them")
    return rows


def _row_from_elsewhere(path, number: int, line: dict) -> dict:
    if None in line or None in line.values():
        raise UserError(f"{path}: line {number} has not as many values as the first line has names; mend it")
    row = {name: line[name].strip() for name in ("model", "method")}
    for name in row:
        if not row[name]:
            raise UserError(f"{path}: line {number}: {name} is empty; fill it in")
        if not row[name].isprintable():
            raise UserError(f"{path}: line {number}: {name} is {row[name]!r}, which can't be printed; mend it")
    for name, text in line.items():
        if name not in row:
            row[name] = _number_from_elsewhere(f"{path}: line {number}: {name} is {text!r}", text, *_RANGES[name])
    if row["steps"] is not None:
        if row["steps"] % 1:
            raise UserError(
                f"{path}: line {number}: steps is {line['steps']!r}, no whole number; mend it, or leave it empty"
            )
        row["steps"] = int(row["steps"])
    return row


def _number_from_elsewhere(what: str, text: str, least: float, most: float) -> float | None:
    if not text.strip():
        return None
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"{what}, no number; mend it, or leave it empty")
    if not least <= number <= most:
        raise UserError(f"{what}, and can only be {least:g} to {most:g}; mend it, or leave it empty")
    return number + 0.0  # no -0
