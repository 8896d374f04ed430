"""Checks the consistency of artifacts with those that they were made from, and with those made from them.

Paths are absolute, so that a part of a study can be checked alone.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

from agd.adapters import saving
from agd.artifacts import trajectories
from agd.artifacts.files import sha256
from agd.artifacts.metrics import timed
from agd.artifacts.pairs import check_together
from agd.artifacts.provenance import digest
from agd.artifacts.scores import Scores
from agd.artifacts.sealed_json import RECORD
from agd.artifacts.zips import seal_of
from agd.runtime.errors import UserError
from agd.settings import guides, results, tables

Found = dict[Path, object]  # path -> contents of each good artifact


def want(right: bool, path: Path, problem: str) -> None:
    """Raise UserError, naming the artifact, unless `right` is true."""
    if not right:
        raise UserError(f"{path}: {problem}")


def consistency_checks(found: Found, looked_at: Path) -> Iterator[Callable[[], None]]:
    """Yield consistency checks to call. Each raises UserError, naming the artifact to make again.

    looked_at: the folder that `found` covers completely. Artifacts outside it are not judged.
    """
    folders = sorted({path.parent for path in found})
    for folder in folders:
        here = {path: record for path, record in found.items() if path.parent == folder}
        if shards := {path: record for path, record in here.items() if isinstance(record, trajectories.Shard)}:
            yield lambda shards=shards, folder=folder: _check_shards(folder, shards, found)
        elif folder.parent.name == "adapters" and folder / saving.CONFIG in here:
            # Trajectories are large, so users may have deleted them after training.
            learnt_from = _trajectories_of(folder, found)
            if learnt_from and learnt_from.is_relative_to(looked_at):
                yield lambda folder=folder, there=learnt_from: _check_adapter(folder / saving.CONFIG, there, found)
        elif folder.parents[2].name == "samples":
            zips = {path: record for path, record in here.items() if path.suffix == ".zip"}
            yield lambda zips=zips: _check_samples(zips, found)
        elif folder.parents[1].name == "metrics":
            yield from (lambda path=path: _check_metrics(path, found) for path in here)
        elif folder.name in ("fidelity", "speed"):
            yield from (lambda path=path: _check_measured_adapter(path, found) for path in here)
        elif folder.parent.name == "tables":
            drawn = [path for path, record in here.items() if "rows" in record]
            yield from (lambda path=path: _check_table(path, found) for path in drawn)
        if folder / "fid.json" in here:
            yield from (
                lambda path=path, made=made: _check_row(path, made, found) for path, made in _rows(folder, here)
            )
            yield from (
                lambda path=path, w=w, made=made: _check_fidelity(path, w, made, found)
                for path, w, made in _fidelity_rows(folder, here)
            )
            if "speed" in here[folder / "fid.json"]:
                yield lambda folder=folder, record=here[folder / "fid.json"]: _check_speed(folder, record, found)


def _check_shards(folder: Path, here: Found, found: Found) -> None:
    base, seed = found.get(folder.parents[2] / "base" / RECORD), folder.parents[1].name
    for path, shard in here.items():
        want(seed == f"seed{shard.provenance['seed']}", path, f"sampled for another seed than {seed}")
        same = base is None or base["fingerprint"] == shard.provenance["base"]["fingerprint"]
        want(same, path, "sampled from another base model than the one in base/")
    check_together(list(here), list(here.values()))


def _trajectories_of(adapter: Path, found: Found) -> Path | None:
    """Return the folder of the trajectories that an adapter learnt from: those of its seed with the settings that it names.
    If there are none such, the guided ones, if they are there."""
    made = found[adapter / saving.CONFIG].get("provenance", {}).get("trajectories", {}).get("made", {})
    sets = [
        folder
        for folder in (adapter.parents[1] / "trajectories").glob("*")
        if any(folder.glob(f"*{trajectories.SUFFIX}"))
    ]
    for path, record in found.items():
        if (
            path.parent in sets
            and isinstance(record, trajectories.Shard)
            and record.provenance["settings"] == made.get("settings")
        ):
            return path.parent
    return next((folder for folder in sets if folder.name == results.GUIDED), None)


def _shards(folder: Path, found: Found) -> list[Path]:
    return sorted(
        path for path, record in found.items() if path.parent == folder and isinstance(record, trajectories.Shard)
    )


def _check_adapter(path: Path, guided: Path, found: Found) -> None:
    made, seed = found[path]["provenance"], path.parents[2].name
    want(seed == f"seed{made['seed']}", path, f"trained for another seed than {seed}")
    shards = _shards(guided, found)
    if set(guided.glob(f"*{trajectories.SUFFIX}")) != set(shards):
        return  # bad ones are reported when they are read
    missing = set(range(made["trajectories"]["number"])) - {i for file in shards for i in found[file].index.tolist()}
    if missing:
        raise UserError(f"{guided / trajectories.shard_name(min(missing))}: missing, while {path} was trained on it")
    same = made["trajectories"]["sha256"] == digest(map(seal_of, shards))
    want(same, path, f"trained on other trajectories than those in {guided}")


def _check_samples(zips: Found, found: Found) -> None:
    for path, manifest in zips.items():
        made, first = manifest["provenance"], next(iter(zips.values()))["provenance"]
        _, method, w, n = path.parent.parts[-4:]
        chosen, seed = made["settings"], path.parents[4]
        placed = (chosen["guidance_scale"], chosen["num_inference_steps"], f"seed{made['seed']}")
        said = (float(w[1:]), int(n[1:]), seed.name)
        want(placed == said, path, f"made with other settings ({placed}) than its path says")
        # Without an adapter's folder: a kind of cfg, or an adapter's whose folder was deleted on purpose.
        plain, guide = guides.split(method)
        named = ["adapter"] if (seed / "adapters" / plain).is_dir() else ["cfg", "adapter"]
        right = [plain] if plain in results.BUILT_IN else named
        want(made["guidance"] in right, path, f"made with --guidance {made['guidance']}, not as samples/{method} is")
        said = "a ControlNet or an IP-Adapter" if guide is None else f"the guide {guide!r}"
        want(
            guides.fits(method, made.get("follows", {})),
            path,
            f"made {'with' if guide is None else 'without'} {said}, unlike its path",
        )
        shared = ("guidance", "settings", "stage_version", "subjects", "base", "follows")
        alike = all(made.get(k) == first.get(k) for k in shared)
        want(alike, path, "made otherwise than the first of its folder")
        adapter = found.get(seed / "adapters" / plain / saving.CONFIG)
        same = adapter is None or made.get("adapter") == adapter["provenance"]
        want(same, path, f"sampled with another adapter than the one in adapters/{plain}")
        base = found.get(path.parents[5] / "base" / RECORD)
        same = base is None or base["fingerprint"] == made["base"]["fingerprint"]
        want(same, path, "sampled from another base model than the one in base/")


def _check_metrics(path: Path, found: Found) -> None:
    record = found[path]
    reference = path.parents[4] / "reference.npz"
    same = reference not in found or record["provenance"]["reference"] == sha256(reference)
    want(same, reference, f"not the reference that {path} was calculated with")
    folder = path.parents[3] / "samples" / path.parts[-3] / path.parts[-2] / path.stem
    zips = sorted(file for file in found if file.parent == folder and file.suffix == ".zip")
    if {file.stem for file in folder.glob("*.*")} != {file.stem for file in zips} or not zips:
        return  # bad samples are reported elsewhere; missing ones may be deleted on purpose
    number = sum(found[file]["number"] for file in zips)
    right = number == record["num_samples"]
    want(right, path, f"measures {record['num_samples']} images, while {folder} holds {number}")
    same = record["provenance"]["samples"] == found[zips[0]]["provenance"]
    want(same, path, f"measures other samples than those in {folder}")


def _check_table(path: Path, found: Found) -> None:
    record, results_folder = found[path], path.parents[2]
    ours = [row for row in record["rows"] if not row["elsewhere"]]
    scores = Scores(record["definition"], results_folder)
    for run, row in zip(tables.runs(record["definition"]), ours, strict=True):
        for seed in run.seeds:
            files = {tables.path(record["definition"], run, seed, source) for source in scores.sources}
            if any(results_folder / file not in found for file in files if file):
                continue  # bad files are reported elsewhere; missing ones may be deleted on purpose
            shown = {name: value["per_seed"][str(seed)] for name, value in row["values"].items()}
            same = shown == scores.read(run, seed)[0]
            said = f"holds other figures than the scores of {run.method} at w{run.scale}/n{run.steps}, seed {seed}"
            want(same, path, said)


def _rows(folder: Path, here: Found) -> Iterator[tuple[Path, dict]]:
    """Yield, for each method and seed in a fid.json, the path of its metrics and the values in fid.json."""
    record = here[folder / "fid.json"]
    adapter = _compared_adapter(record)
    for name, row in record["methods"].items():
        if name == adapter:
            for seed in row["per_seed"]:
                yield folder / f"seed{seed}/adapters/{name}/{saving.CONFIG}", {}  # it must be there, no more
        method = "cfg" if name == results.HALF else name
        w = "1" if method == "none" else results.scale_name(record["guidance_scale"])
        for seed, figures in row["per_seed"].items():
            yield folder / f"seed{seed}/metrics/{method}/w{w}/n{row['num_inference_steps']}.json", figures


def _is_good(path: Path, found: Found) -> bool:
    """Return whether an artifact that a fid.json tells of is good; a bad one was reported when it was read. Raises UserError
    if it is missing."""
    want(path in found or path.is_file(), path, "missing, and fid.json tells of it")
    return path in found


def _check_row(path: Path, figures: dict, found: Found) -> None:
    if not _is_good(path, found):
        return
    same = all(found[path].get(name) == value for name, value in figures.items())
    want(same, path, "holds other figures than fid.json tells of it")


def _compared_adapter(record: dict) -> str:
    """Return the name of the adapter of a fid.json. It says which one, if it has other methods too."""
    others = (name for name in record["methods"] if name not in (*results.BUILT_IN, results.HALF))
    return record.get("compared_adapter") or next(others)


def _fidelity_rows(folder: Path, here: Found) -> Iterator[tuple[Path, str, dict]]:
    """Yield the path, the guidance scale and the values of each figure of fidelity in a fid.json."""
    record = here[folder / "fid.json"]
    name = _compared_adapter(record)
    for w, at in record.get("fidelity", {}).items():
        for seed, figures in at["per_seed"].items():
            yield folder / f"seed{seed}/fidelity/{name}.json", w, figures


def _check_fidelity(path: Path, w: str, figures: dict, found: Found) -> None:
    if not _is_good(path, found):
        return
    same = all(found[path]["by_guidance_scale"][w][name] == figures[name] for name in ("unexplained", "captured"))
    want(same, path, "holds other figures than fid.json tells of it")


def _check_speed(folder: Path, record: dict, found: Found) -> None:
    name = _compared_adapter(record)
    path = folder / f"seed{record['speed']['seed']}/speed/{name}.json"
    if not _is_good(path, found):
        return
    for method, row in record["methods"].items():
        theirs = timed(found[path], method, name) or {}
        same = row.get("speedup_over_cfg") == theirs.get("speedup_over_cfg")
        want(same, path, "holds other figures than fid.json tells of it")


def _check_measured_adapter(path: Path, found: Found) -> None:
    made, seed = found[path]["provenance"], path.parents[1].name
    want(seed == f"seed{made['seed']}", path, f"measured for another seed than {seed}")
    adapter = found.get(path.parents[1] / "adapters" / path.stem / saving.CONFIG)
    same = adapter is None or made["adapter"] == adapter["provenance"]
    want(same, path, f"measured with another adapter than the one in adapters/{path.stem}")
    for name, then in made.get("others", {}).items():
        other = found.get(path.parents[1] / "adapters" / name / saving.CONFIG)
        same = other is None or then.get("adapter") == other["provenance"]
        want(same, path, f"measured with another adapter than the one in adapters/{name}")
