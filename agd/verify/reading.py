"""Reads each kind of artifact completely, and checks its checksum, settings and values."""

import csv
import dataclasses
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from agd.adapters import saving
from agd.artifacts import checkpoints, downloads, training_cost, trajectories
from agd.artifacts.files import PART
from agd.artifacts.images import read_images
from agd.artifacts.provenance import model_fingerprint
from agd.artifacts.sealed_json import RECORD, check_files, parse_json, read_sealed
from agd.artifacts.zips import open_zip
from agd.measures import references
from agd.settings.families import PACKAGES, options
from agd.verify.consistency import want


def read_record(path: Path, large: str = "") -> dict:
    """Read a JSON record, and check every file that it has a checksum of.

    large: suffix of the files that a user may delete on purpose, all of a folder, while their records stay.
    """
    record = read_sealed(path)
    if "files" in record and not (large and _all_deleted(path.parent, large)):
        check_files(path, record)
        for file in (path.parent / name for name in record["files"] if name.endswith(".safetensors")):
            finite(file, load_file(file))
    return record


def _all_deleted(folder: Path, suffix: str) -> bool:
    return not any(folder.glob(f"*{suffix}"))


def of_stage(*stages: str) -> Callable[[Path], dict]:
    """Return a reader of the records of these stages."""

    def read_one(path: Path) -> dict:
        record = read_record(path)
        want(record.get("provenance", {}).get("stage") in stages, path, f"is no record of {' or '.join(stages)}")
        return record

    return read_one


def read_cost(path: Path) -> dict:
    """Read the record of what samples or a training cost, which has no provenance of its own."""
    record = read_record(path, large=".zip")
    own = "seconds_per_step" if path.name == "cost.json" else "evaluations"
    own_file = path.name == "cost.json" or list(record.get("files", ())) == [path.with_suffix(".zip").name]
    want(own in record and "provenance" not in record and own_file, path, "is the record of something else")
    return record


def finite(path: Path, arrays: dict) -> None:
    """Raise UserError, naming the file and the array, unless all values are finite."""
    for name, values in arrays.items():
        want(bool(np.isfinite(np.asarray(values)).all()), path, f"{name} has values that are not finite")


def read_base(path: Path) -> dict:
    """Read the record of a base trained here, and add its denoiser's fingerprint as `fingerprint`."""
    folders = [path.parent / options(family).DENOISER_FOLDER for family in PACKAGES]
    denoiser = next((folder for folder in folders if folder.is_dir()), None)
    want(denoiser is not None, path, "stands in a folder without a denoiser")
    return {**of_stage("train_base")(path), "fingerprint": model_fingerprint(denoiser)}


def read_digits(path: Path) -> dict:
    """Read the digits' images. Rejects any other zip of images in their place."""
    images, manifest = read_images(path)
    made = manifest.get("provenance", {}).get("stage")
    want(made == "prepare_digits", path, f"holds what {made} made, not the digits")
    return {"images": len(images)}


def read_annotations(path: Path) -> dict:
    """Read the digits' captions: {part: number of captions}."""
    with open_zip(path) as archive:
        names = archive.namelist()
        want(len(names) == 2 and all("captions" in name for name in names), path, "holds something else than captions")
        return {name: len(parse_json(archive.read(name))["annotations"]) for name in names}


def read_reference(path: Path) -> references.Reference:
    """Read a sealed reference, and check that its statistics are finite."""
    open_zip(path).close()
    reference = references.read_reference(path)
    arrays = {name: getattr(reference, name) for name in ("mu", "sigma", "features")}
    finite(path, {name: values for name, values in arrays.items() if values is not None})
    return reference


def read_reference_record(path: Path) -> dict:
    """Read a reference's record, and check the reference against its checksum."""
    record = read_record(path)
    want(list(record.get("files", ())) == ["reference.npz"], path, "is the record of something else")
    return record


def read_shard(path: Path) -> trajectories.Shard:
    """Read a shard and check it against its settings. Keeps only the shape of its pairs, to save memory."""
    shard = trajectories.read(path)
    want(shard.provenance["stage"] == "sample_trajectories", path, "holds no trajectories of agd")
    chosen, n = shard.provenance["settings"], len(shard.index)
    steps, low, high = (chosen[name] for name in ("num_inference_steps", "guidance_min", "guidance_max"))
    want(shard.pairs.dtype == chosen["storage_dtype"], path, f"holds {shard.pairs.dtype}, not its settings' dtype")
    want(shard.pairs.shape[1] == len(shard.timesteps) == steps, path, f"does not hold its settings' {steps} steps")
    lengths = {len(values) for values in (shard.guidance_scale, *shard.conditions.values())}
    want(lengths == {n}, path, "has columns of other lengths than its trajectories")
    finite(path, {"guidance_scale": shard.guidance_scale, "timesteps": shard.timesteps, **shard.conditions})
    inside = bool(((low <= shard.guidance_scale) & (shard.guidance_scale <= high)).all())
    want(inside, path, f"has guidance scales outside its settings' {low} to {high}")
    return dataclasses.replace(shard, pairs=np.broadcast_to(np.zeros((), shard.pairs.dtype), shard.pairs.shape))


def read_shard_record(path: Path) -> dict:
    """Read a shard's record. Reading the shard compares the two."""
    record = read_sealed(path)
    want({"shard", "seal"} <= set(record), path, "is the record of something else")
    shard = path.with_suffix(".zip")
    want(record["shard"] == shard.name, path, f"is the record of {record['shard']}")
    there = shard.is_file() or _all_deleted(path.parent, trajectories.SUFFIX)
    want(there, shard, f"missing, while {path.name} is there")
    return record


def read_adapter(path: Path) -> dict:
    """Read an adapter's description, and check it against the weights and training.csv."""
    description = saving.read_description(path.parent)
    of_stage("train")(path)
    cost = path.with_name(training_cost.FILE)
    want(cost.is_file(), cost, f"missing, while {path.name} is there")
    weights = saving.read_weights(path.parent, description)
    fixed = (".frequencies", ".phases")  # drawn once, not trained
    held = sum(values.numel() for name, values in weights.items() if not name.endswith(fixed))
    counted = description["size"]["parameters"]
    want(held == counted, path.with_name(saving.WEIGHTS), f"holds {held} parameters, not {counted}")
    if "training.csv" in description["files"]:
        table = path.with_name("training.csv")
        rows = list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))
        said = {name: [float(row[name]) for row in rows if row[name] != ""] for name in rows[0]}
        finite(table, {name: np.array(values) for name, values in said.items()})
        steps = description["provenance"]["settings"]["steps"]
        want(int(rows[-1]["step"]) == steps, table, f"ends at step {rows[-1]['step']} of its settings' {steps}")
    return description


def read_base_record(path: Path) -> dict:
    """Read the record of a base that was not trained here."""
    record = read_record(path)
    want({"name", "revision", "weights"} <= set(record), path, "is the record of something else")
    return record


def read_table(path: Path) -> dict:
    """Read the record of a table, or of a study's page, and check that it is that of its path."""
    record = read_record(path)
    right = "sentences" in record if path.stem == "index" else record.get("table") == path.stem
    want(right, path, "is the record of something else")
    return record


def read_samples(path: Path) -> dict:
    """Read the manifest of a sample file, and add the number of images as `number`."""
    images, manifest = read_images(path)
    made = manifest.get("provenance", {}).get("stage")
    want("subjects" in manifest and made == "sample", path, "not a file of samples")
    want(len(images) == len(manifest["subjects"]), path, "does not hold the images that its manifest lists")
    want(len({image.size for image in images.values()}) == 1, path, "holds images of several sizes")
    return {**manifest, "number": len(images)}


def read_checkpoint(path: Path) -> None:
    """Read and check a training checkpoint. The last one stays after training."""
    tensors, _ = checkpoints.read(path)
    finite(path, tensors)


def read_download(path: Path) -> None:
    """Check a downloaded file against its known checksum."""
    known = {downloads.file_name(url): expected for url, expected in downloads.KNOWN.items()}
    if path.name in known:
        kind, expected = known[path.name].split(":")
        want(downloads.checksum(path, kind) == expected, path, f"damaged (its {kind} is not {expected})")


# The kinds of artifacts: the end of their paths; the function that reads and checks one; and the files that must be
# beside it, which may use groups of the pattern.
_METHOD = r"(?P<method>[^/]+)/w(?P<w>[^/]+)/n(?P<n>\d+)"
KINDS: list[tuple[str, Callable | None, list[str]]] = [
    (r"digits(-slanted)?/images\.zip", read_digits, ["annotations.zip"]),
    (r"digits(-slanted)?/annotations\.zip", read_annotations, ["images.zip"]),
    (r"digits/classifier\.json", of_stage("train_classifier"), []),
    (r"digits/classifier\.safetensors", None, ["classifier.json"]),
    (rf"base/{RECORD}", read_base, []),
    (r"base\.json", read_base_record, []),
    (r"base/model_index\.json", None, [RECORD]),
    (rf"prompts/{RECORD}", of_stage("prepare_prompts"), []),
    (r"prompts/\w+\.txt", None, [RECORD]),
    (r"reference\.npz", read_reference, ["reference.json"]),
    (r"reference\.json", read_reference_record, []),
    (r"trajectories/[^/]+/(?P<chunk>\d+)\.zarr\.zip", read_shard, ["{chunk}.zarr.json"]),
    (r"trajectories/[^/]+/\d+\.zarr\.json", read_shard_record, []),
    (r"adapters/[^/]+/config\.json", read_adapter, []),
    (r"adapters/[^/]+/(adapter\.safetensors|training\.csv)", None, ["config.json"]),
    (r"adapters/[^/]+/cost\.json", read_cost, []),
    (r"adapters/[^/]+/checkpoint\.safetensors", read_checkpoint, []),
    (rf"samples/{_METHOD}/(?P<chunk>\d+)\.zip", read_samples, ["{chunk}.json"]),
    (rf"samples/{_METHOD}/\d+\.json", read_cost, []),
    (rf"metrics/{_METHOD}\.json", of_stage("calculate_metrics"), ["../../../../reference.npz"]),
    (r"fidelity/[^/]+\.json", of_stage("measure_fidelity"), []),
    (r"speed/[^/]+\.json", of_stage("measure_speed"), []),
    (r"fid\.json", of_stage("tabulate"), []),
    (r"curve\.json", of_stage("draw_curve"), []),
    (r"fid\.txt", None, ["fid.json"]),
    (r"curve\.png", None, ["curve.json"]),
    (r"tables/[^/]+/[^/]+\.json", read_table, []),
    (r"tables/[^/]+/(?P<table>[^/]+)(?<!-grid)\.(csv|md|tex|html|svg|png)", None, ["{table}.json"]),
    (r"downloads/[^/]+(?<!\.part)", read_download, []),
]


def read(path: Path) -> Iterator[tuple[Path, object]]:
    """Yield (path, contents) of a good artifact, and nothing for other files.

    Raises UserError if the artifact is bad.
    """
    for place in (*reversed(path.parents), path):
        aside = place.name.startswith(".") and place.name.endswith(PART)
        want(not aside, place, "left by a job that was killed, unless one is at it")
    for pattern, reader, beside in KINDS:
        if match := re.search(rf"/{pattern}$", str(path)):
            want(path.is_file(), path, "is no file")
            for name in beside:
                file = Path(os.path.normpath(path.parent / name.format(**match.groupdict())))
                want(file.is_file(), file, f"missing, while {path.name} is there")
            if reader:
                yield path, reader(path)
