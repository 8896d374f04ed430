"""Reads and writes trajectories. One shard per chunk is written once, and read in batches. Only this module uses zarr.

A shard is a sealed zip (agd/artifacts/zips.py) that holds a zarr v3 group:

    pairs            (n, steps, 2, C, H, W)  float16 or float32; role 0 the denoiser's input, role 1 the guided output
    timesteps        (steps,)                float32
    guidance_scale   (n,)                    float32, w of each trajectory
    index            (n,)                    int64, number of the trajectory in its study
    conditions/{name} (n, ...)               what the family's denoiser is conditioned on, such as class_label

The group's attributes hold the provenance. A small record beside the shard has the checksum that the shard carries: jobs
depend on records, which are quick to read. See docs/artifacts.md.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import zarr
from zarr.core.buffer import Buffer
from zarr.storage import MemoryStore, ZipStore

from agd.artifacts.sealed_json import absent, read_sealed, record_beside, with_its_record, write_sealed
from agd.artifacts.zips import open_zip, seal_of, write_zip
from agd.runtime.errors import UserError, errors_say, one_line

SUFFIX = ".zarr.zip"
_CHUNK_BYTES = 1 << 16  # a trajectory's steps are read together up to this size; SDXL's pairs are larger: one by one


@dataclasses.dataclass(frozen=True)
class Shard:
    """The contents of one shard: arrays (shapes above) and provenance."""

    pairs: np.ndarray
    timesteps: np.ndarray
    guidance_scale: np.ndarray
    index: np.ndarray
    conditions: dict[str, np.ndarray]
    provenance: dict


def shard_name(first: int) -> str:
    """Return the file name of the shard that starts at this trajectory. Names sort by index."""
    return f"{first:06d}{SUFFIX}"


def write(path: str | Path, shard: Shard) -> None:
    """Write a shard, whole or not at all, then its record. Raises UserError if a value is not finite: it can't be a
    training target."""
    if not np.isfinite(shard.pairs).all():
        bad = np.flatnonzero(~np.isfinite(shard.pairs).all(axis=(1, 2, 3, 4, 5)))
        raise UserError(
            f"{path}: trajectory {shard.index[bad[0]]} has values that are not finite; sample with --dtype bfloat16 or "
            f"float32, or store with --storage-dtype float32"
        )
    n, steps = shard.pairs.shape[:2]
    per_chunk = max(1, min(steps, _CHUNK_BYTES // shard.pairs[0, 0].nbytes))
    files: dict[str, Buffer] = {}
    group = zarr.open_group(
        MemoryStore(files), mode="w", attributes={"trajectories": n, "provenance": shard.provenance}
    )
    chunks = (1, per_chunk, *shard.pairs.shape[2:])
    # Compression saves only a few per cent on half-precision latents, and costs more than that.
    array = group.create_array(
        "pairs",
        shape=shard.pairs.shape,
        chunks=chunks,
        dtype=shard.pairs.dtype,
        fill_value=np.nan,
        compressors=None,
    )
    array[:] = shard.pairs
    for name, values in _columns(shard).items():
        group.create_array(name, data=values, chunks=values.shape, compressors=None)
    write_zip(path, ((name, files[name].to_bytes()) for name in sorted(files, key=PurePosixPath)))
    write_sealed(record_beside(path), {"shard": Path(path).name, "trajectories": n, **_said(path)})


def _said(path: str | Path) -> dict:
    """Return what a shard's record says of it: quick to read, however large the shard is."""
    return {"bytes": Path(path).stat().st_size, "seal": seal_of(path)}


def _check_record(path: str | Path) -> bool:
    """Check a shard against its record. Returns whether there is one beside it. Raises UserError if it is of another shard."""
    record = record_beside(path)
    said = read_sealed(record) if record.is_file() else {}
    if "seal" not in said:
        return False
    if {name: said.get(name) for name in ("bytes", "seal")} != _said(path):
        raise UserError(f"{path}: damaged, or not what {record.name} tells of; delete both, and run again")
    return True


def _columns(shard: Shard) -> dict[str, np.ndarray]:
    columns = {"timesteps": shard.timesteps, "guidance_scale": shard.guidance_scale, "index": shard.index}
    return columns | {f"conditions/{name}": values for name, values in shard.conditions.items()}


def open_pairs(path: str | Path) -> zarr.Array:
    """Open the pairs of a shard for reading, by a file handle of its own."""
    return _open(path)["pairs"]


def _open(path: str | Path) -> zarr.Group:
    return zarr.open_group(ZipStore(path, mode="r"), mode="r", zarr_format=3)  # version 2 allows pickled arrays


def read(path: str | Path, pairs: bool = True) -> Shard:
    """Read a shard and check every byte. `pairs=False` returns the large array as a lazy zarr array; where the shard has a
    record, its bytes are then checked as they are read, against the zip's own checksums (CRC-32).

    Raises UserError, naming the file, if it is missing, damaged or incomplete.
    """
    lazily = not pairs and Path(path).is_file() and _check_record(path)
    if not lazily:
        open_zip(path).close()
        _check_record(path)
    with damage_named(path):
        return _read(path, pairs)


def damage_named(path: str | Path):
    """Convert the errors of a zip or an array that was damaged, within the block, into a UserError."""
    return errors_say(str(path), lambda error: f"{path}: damaged ({one_line(error)}); {again(path)}")


def again(path: str | Path) -> str:
    """Return what to do about a bad shard."""
    return f"delete {with_its_record(path)}, and sample the trajectories again"


def _read(path: str | Path, pairs: bool) -> Shard:
    try:
        group = _open(path)
        array = group["pairs"]
        names = list(group["conditions"].array_keys())
        columns = [column for part in (group, group["conditions"]) for _, column in part.arrays()]
        if sum(column.nbytes for column in columns) > Path(path).stat().st_size:  # nothing in a shard is compressed
            raise UserError(f"{path}: holds less than it says; {again(path)}")
        shard = Shard(
            pairs=array[:] if pairs else array,
            timesteps=group["timesteps"][:],
            guidance_scale=group["guidance_scale"][:],
            index=group["index"][:],
            conditions={name: group[f"conditions/{name}"][:] for name in sorted(names)},
            provenance=dict(group.attrs["provenance"]),
        )
        complete = len(shard.index) == group.attrs["trajectories"] == array.shape[0]
    except (KeyError, FileNotFoundError):
        raise UserError(f"{path}: not a trajectory shard; give what sample_trajectories wrote") from None
    if not complete or (pairs and not np.isfinite(shard.pairs).all()):
        raise UserError(f"{path}: holds less than it says; {again(path)}")
    return shard


def find(paths: Sequence[str | Path]) -> list[Path]:
    """List the shards of these files and folders, in the order of their indices. Raises UserError if there are none."""
    files = []
    for path in map(Path, paths):
        if path.is_dir():
            here = {*path.glob(f"*{SUFFIX}"), *(record.with_suffix(".zip") for record in path.glob("*.zarr.json"))}
            if not here:
                raise UserError(f"{path}: holds no trajectories (*{SUFFIX}); run sample_trajectories first")
            files += sorted(here)
        elif path.suffix == ".json":
            raise UserError(f"{path}: the record of a shard, at most; give {path.with_suffix('.zip').name}")
        else:
            files.append(path)
    if missing := [path for path in files if not path.is_file()]:
        otherwise = "no such file or folder; run sample_trajectories first, or check the path"
        raise absent(missing[0], otherwise, more=len(missing) - 1)
    return sorted(files, key=lambda file: file.name)
