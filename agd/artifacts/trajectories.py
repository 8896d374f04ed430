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
import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import zarr
from zarr.core.buffer import Buffer
from zarr.storage import MemoryStore, ZipStore

from agd.artifacts.sealed_json import absent, read_sealed, record_beside, write_sealed
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
    """Check a shard against the record beside it. Returns whether there is one. Raises UserError if it is of another."""
    record = record_beside(path)
    if not record.is_file():
        return False
    said = read_sealed(record)
    if {name: said.get(name) for name in ("bytes", "seal")} != _said(path):
        raise UserError(f"{path}: damaged, or not what {record.name} tells of; delete both, and run again")
    return True


def _columns(shard: Shard) -> dict[str, np.ndarray]:
    columns = {"timesteps": shard.timesteps, "guidance_scale": shard.guidance_scale, "index": shard.index}
    return columns | {f"conditions/{name}": values for name, values in shard.conditions.items()}


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
    with _damage_named(path):
        return _read(path, pairs)


def _damage_named(path: str | Path):
    """Convert the errors of a zip or an array that was damaged, within the block, into a UserError."""
    return errors_say(str(path), lambda error: f"{path}: damaged ({one_line(error)}); {_again(path)}")


def _again(path: str | Path) -> str:
    """Return what to do about a bad shard."""
    what = f"it and {record_beside(path).name}" if record_beside(path).is_file() else "it"
    return f"delete {what}, and sample the trajectories again"


def _read(path: str | Path, pairs: bool) -> Shard:
    try:
        group = _open(path)
        array = group["pairs"]
        names = list(group["conditions"].array_keys())
        columns = [column for part in (group, group["conditions"]) for _, column in part.arrays()]
        if sum(column.nbytes for column in columns) > Path(path).stat().st_size:  # nothing in a shard is compressed
            raise UserError(f"{path}: holds less than it says; {_again(path)}")
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
        raise UserError(f"{path}: not a trajectory shard; {_again(path)}") from None
    if not complete or (pairs and not np.isfinite(shard.pairs).all()):
        raise UserError(f"{path}: holds less than it says; {_again(path)}")
    return shard


def find(paths: Sequence[str | Path]) -> list[Path]:
    """List the shards of these files and folders, in the order of their indices. Raises UserError if there are none."""
    files = []
    for path in map(Path, paths):
        if path.is_dir():
            here = sorted(path.glob(f"*{SUFFIX}"))
            if not here:
                raise UserError(f"{path}: holds no trajectories (*{SUFFIX}); run sample_trajectories first")
            files += here
        elif path.is_file():
            files.append(path)
        else:
            raise absent(path, "no such file or folder; run sample_trajectories first, or check the path")
    return sorted(files, key=lambda file: file.name)


class Pairs:
    """All (trajectory, step) pairs of several shards of one study: `len(pairs)`, and `pairs[i]` for training.

    Sets of up to `memory_bytes` are read into memory at once. Larger sets are read, and checked, pair by pair; each process
    opens its own file handles. Raises UserError, naming the file, if shards don't belong together.
    """

    def __init__(self, paths: Sequence[Path], memory_bytes: int = 4 << 30):
        self.paths = list(paths)
        in_memory = sum(path.stat().st_size for path in self.paths) <= memory_bytes
        self.shards = [read(path, pairs=in_memory) for path in self.paths]
        self.provenance = self.shards[0].provenance
        check_together(self.paths, self.shards)
        self.index = np.concatenate([shard.index for shard in self.shards])
        self.steps = self.shards[0].pairs.shape[1]
        self._opened: dict[tuple[int, int], zarr.Array] = {}
        self._starts = np.cumsum([0] + [len(shard.index) for shard in self.shards])

    def __len__(self) -> int:
        return self._starts[-1] * self.steps

    def __getitem__(self, i: int) -> dict[str, np.ndarray]:
        """Return pair i: x and target (C, H, W), timestep and guidance_scale (), conditions by name."""
        trajectory, step = divmod(int(i), self.steps)
        number = int(np.searchsorted(self._starts, trajectory, side="right")) - 1
        shard, row = self.shards[number], trajectory - self._starts[number]
        with _damage_named(self.paths[number]):
            x, target = np.asarray(self._array(number)[row, step])
        if not np.isfinite(target).all():
            raise UserError(
                f"{self.paths[number]}: trajectory {shard.index[row]} is incomplete; {_again(self.paths[number])}"
            )
        item = {
            "x": x,
            "target": target,
            "timestep": shard.timesteps[step],
            "guidance_scale": shard.guidance_scale[row],
        }
        return item | {f"conditions/{name}": values[row] for name, values in shard.conditions.items()}

    def _array(self, number: int) -> np.ndarray | zarr.Array:
        """Return the pairs of one shard: in memory, or through a file handle of this process alone."""
        if isinstance(self.shards[number].pairs, np.ndarray):
            return self.shards[number].pairs
        key = (os.getpid(), number)
        if key not in self._opened:
            self._opened[key] = _open(self.paths[number])["pairs"]
        return self._opened[key]


def check_together(paths: Sequence[Path], shards: Sequence[Shard]) -> None:
    """Raise UserError, naming the file, unless all shards are of one study and hold each trajectory exactly once."""
    first, seen = shards[0], {}
    for path, shard in zip(paths, shards, strict=True):
        if shard.provenance["base"]["fingerprint"] != first.provenance["base"]["fingerprint"]:
            raise UserError(f"{path}: sampled from another base model than {paths[0]}; train on shards of one base")
        ours, theirs = (_comparable(s.provenance) for s in (first, shard))
        if ours != theirs or shard.pairs.shape[1:] != first.pairs.shape[1:]:
            keys = sorted(k for k in ours | theirs if ours.get(k) != theirs.get(k))
            raise UserError(f"{path}: sampled with other settings ({', '.join(keys)}) than {paths[0]}; sample it again")
        for index in shard.index.tolist():
            if index in seen:
                raise UserError(
                    f"{path}: trajectory {index} is in {seen[index]} too; delete the file that is left over"
                )
            seen[index] = path
    missing = sorted(set(range(min(seen), max(seen) + 1)) - set(seen))
    if missing:
        raise UserError(
            f"{paths[0].parent / shard_name(missing[0])}: missing (no shard holds trajectory {missing[0]}); "
            f"sample it again with --first {missing[0]}"
        )


def _comparable(provenance: dict) -> dict:
    settings = dict(provenance["settings"])
    others = {name: provenance.get(name) for name in ("stage_version", "seed", "subjects")}
    return settings | others
