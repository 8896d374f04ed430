"""Reads every artifact of a results folder whole, and names the bad ones, each in one line with what mends it.

    python -m agd.verify results/

Each is checked against its checksum and its settings, for values that are not finite, and against its neighbours: what
was made of it, or from it. Exit status 1 if anything is bad.
"""

import argparse
import csv
import dataclasses
import json
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from agd import checkpoint, downloads, features, store, trajectories
from agd.artifacts import PART, open_zip
from agd.errors import UserError
from agd.images import read_images
from agd.neighbours import neighbours, want
from agd.progress import progress
from agd.provenance import model_fingerprint
from agd.records import RECORD, check_files, read_sealed


def read_record(path: Path) -> dict:
    """A JSON record, and every file that it vouches for."""
    record = read_sealed(path)
    if "files" in record:
        check_files(path, record)
        for file in (path.parent / name for name in record["files"] if name.endswith(".safetensors")):
            finite(file, load_file(file))
    return record


def finite(path: Path, arrays: dict) -> None:
    """Raise a UserError that names the file and the array, unless all values are finite."""
    for name, values in arrays.items():
        want(bool(np.isfinite(np.asarray(values)).all()), path, f"{name} has values that are not finite")


def read_base(path: Path) -> dict:
    """The record of a base trained here, with the fingerprint of its denoiser as `fingerprint`."""
    denoiser = next(path.parent / name for name in ("transformer", "unet") if (path.parent / name).is_dir())
    return {**read_record(path), "fingerprint": model_fingerprint(denoiser)}


def read_digits(path: Path) -> dict:
    """The digits' images; any other zip of images is no artifact of this name."""
    images, manifest = read_images(path)
    made = manifest.get("provenance", {}).get("stage")
    want(made == "prepare_digits", path, f"holds what {made} made, not the digits")
    return {"images": len(images)}


def read_annotations(path: Path) -> dict:
    """The digits' captions: {part: number of captions}."""
    with open_zip(path) as archive:
        names = archive.namelist()
        want(len(names) == 2 and all("captions" in name for name in names), path, "holds something else than captions")
        return {name: len(json.loads(archive.read(name))["annotations"]) for name in names}


def read_reference(path: Path) -> features.Reference:
    """A reference, sealed, with finite statistics."""
    open_zip(path).close()
    reference = features.read_reference(path)
    arrays = {name: getattr(reference, name) for name in ("mu", "sigma", "features")}
    finite(path, {name: values for name, values in arrays.items() if values is not None})
    return reference


def read_shard(path: Path) -> trajectories.Shard:
    """A shard against its settings; what comes back has lost all of its pairs but their shape."""
    shard = trajectories.read(path)
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


def read_adapter(path: Path) -> dict:
    """An adapter's description, against its weights and its training.csv."""
    description = store.read_description(path.parent)
    read_record(path)
    weights = store.read_weights(path.parent, description)
    fixed = (".frequencies", ".phases")  # drawn once, not trained
    held = sum(values.numel() for name, values in weights.items() if not name.endswith(fixed))
    counted = description["size"]["parameters"]
    want(held == counted, path.with_name(store.WEIGHTS), f"holds {held} parameters, not {counted}")
    if "training.csv" in description["files"]:
        table = path.with_name("training.csv")
        rows = list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))
        finite(table, {name: np.array([float(row[name]) for row in rows]) for name in rows[0]})
        steps = description["provenance"]["settings"]["steps"]
        want(int(rows[-1]["step"]) == steps, table, f"ends at step {rows[-1]['step']} of its settings' {steps}")
    return description


def read_samples(path: Path) -> dict:
    """The manifest of a file of samples, with the number of images as `number`."""
    images, manifest = read_images(path)
    want("subjects" in manifest, path, "not a file of samples")
    want(len(images) == len(manifest["subjects"]), path, "does not hold the images that its manifest lists")
    want(len({image.size for image in images.values()}) == 1, path, "holds images of several sizes")
    return {**manifest, "number": len(images)}


def read_checkpoint(path: Path) -> None:
    """A checkpoint of a training: its last one stays."""
    tensors, _ = checkpoint.read(path)
    finite(path, tensors)


def read_download(path: Path) -> None:
    """A downloaded file, against its known checksum."""
    known = {downloads.file_name(url): expected for url, expected in downloads.KNOWN.items()}
    if path.name in known:
        kind, expected = known[path.name].split(":")
        want(downloads.checksum(path, kind) == expected, path, f"damaged (its {kind} is not {expected})")


# Which files are artifacts, by the end of their paths; what reads one whole, or raises a UserError; and the files (of which
# groups of the pattern may be a part) that must be beside it.
_METHOD = r"(?P<method>[^/]+)/w(?P<w>[^/]+)/n(?P<n>\d+)"
KINDS: list[tuple[str, Callable | None, list[str]]] = [
    (r"digits/images\.zip", read_digits, ["annotations.zip"]),
    (r"digits/annotations\.zip", read_annotations, ["images.zip"]),
    (r"digits/classifier\.json", read_record, []),
    (r"digits/classifier\.safetensors", None, ["classifier.json"]),
    (rf"base/{RECORD}", read_base, []),
    (r"base/model_index\.json", None, [RECORD]),
    (rf"prompts/{RECORD}", read_record, []),
    (r"prompts/\w+\.txt", None, [RECORD]),
    (r"reference\.npz", read_reference, []),
    (r"trajectories/\w+/\d+\.zarr\.zip", read_shard, []),
    (r"adapters/[^/]+/config\.json", read_adapter, []),
    (r"adapters/[^/]+/(adapter\.safetensors|training\.csv)", None, ["config.json"]),
    (r"adapters/[^/]+/checkpoint\.safetensors", read_checkpoint, []),
    (rf"samples/{_METHOD}/(?P<chunk>\d+)\.zip", read_samples, ["{chunk}.json"]),
    (rf"samples/{_METHOD}/\d+\.json", read_record, []),
    (rf"metrics/{_METHOD}\.json", read_record, ["../../../../reference.npz"]),
    (r"fid\.json", read_record, []),
    (r"fid\.txt", None, ["fid.json"]),
    (r"downloads/[^/]+(?<!\.part)", read_download, []),
]


def read(path: Path) -> Iterator[tuple[Path, object]]:
    """(path, what it holds) of an artifact that is whole; nothing for other files. Raises UserError if it is bad."""
    for place in (*reversed(path.parents), path):
        aside = place.name.startswith(".") and place.name.endswith(PART)
        want(not aside, place, "left by a job that was killed, unless one is at it")
    for pattern, reader, beside in KINDS:
        if match := re.search(rf"/{pattern}$", str(path)):
            for name in beside:
                file = Path(os.path.normpath(path.parent / name.format(**match.groupdict())))
                want(file.exists(), file, f"missing, while {path.name} is there")
            if reader:
                yield path, reader(path)


def bad(folder: Path) -> tuple[int, dict[str, str]]:
    """Number of artifacts in a folder (in depth), and bad file -> its line."""
    found, lines = {}, {}

    def note(check: Callable) -> None:
        try:
            found.update(check() or {})
        except UserError as error:
            file, problem = str(error).split(": ", 1)
            file = str(Path(file).parent) if Path(file).parent.is_file() else file  # an image inside a zip
            line = f"{file}: {problem.rsplit('; ', 1)[0]}; {_mend(file)}"
            lines.setdefault(file, line.replace(f"{Path.cwd()}/", ""))

    folder = folder.absolute()
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    with progress(files, "verify") as bar:
        for path in bar:
            note(lambda path=path: dict(read(path)))
    number = len(found) + len(lines)
    for check in neighbours(found, folder):
        note(check)
    return number, lines


def _mend(file: str) -> str:
    if file.endswith("checkpoint.safetensors"):
        return "delete it: training, if not finished, begins anew"
    if file.endswith(PART):
        return "delete it when no job runs"
    there = "delete it, then run" if Path(file).exists() else "run"
    return f"{there}: snakemake {shlex.quote(file)}"


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser("python -m agd.verify", description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="results folder, or a part of one")
    folder = parser.parse_args(argv).folder
    if not folder.is_dir():
        print(f"agd.verify: error: {folder}: no such folder; check the path", file=sys.stderr)
        sys.exit(2)
    number, lines = bad(folder)
    print(*lines.values(), sep="\n", end="\n" if lines else "")
    print(f"{folder}: {number} artifacts, {f'{len(lines)} bad' if lines else 'all whole and in step'}")
    sys.exit(1 if lines else 0)


if __name__ == "__main__":
    main()
