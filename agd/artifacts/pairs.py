"""The (trajectory, step) pairs of a study's shards, for training, and whether shards belong together."""

import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from agd.artifacts.trajectories import Shard, again, damage_named, open_pairs, read, shard_name
from agd.runtime.errors import UserError


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
        self.bytes_each = math.prod(self.shards[0].pairs.shape[2:]) * self.shards[0].pairs.dtype.itemsize
        self._opened: dict = {}
        self._starts = np.cumsum([0] + [len(shard.index) for shard in self.shards])

    def __len__(self) -> int:
        return self._starts[-1] * self.steps

    def __getitem__(self, i: int) -> dict[str, np.ndarray]:
        """Return pair i: x and target (C, H, W), timestep and guidance_scale (), and its trajectory (), for `conditions`."""
        trajectory, step = divmod(int(i), self.steps)
        number, row = self._place(trajectory)
        shard = self.shards[number]
        with damage_named(self.paths[number]):
            x, target = np.asarray(self._array(number)[row, step])
        if not np.isfinite(target).all():
            raise UserError(
                f"{self.paths[number]}: trajectory {shard.index[row]} is incomplete; {again(self.paths[number])}"
            )
        return {
            "x": x,
            "target": target,
            "timestep": shard.timesteps[step],
            "guidance_scale": shard.guidance_scale[row],
            "trajectory": np.int64(trajectory),
        }

    def conditions(self, trajectories: Sequence[int]) -> dict[str, np.ndarray]:
        """Return the conditions of these trajectories, by name. Not part of the pairs: prompts' embeddings are larger than
        pairs, and would go through the workers' shared memory with each."""
        places = [self._place(trajectory) for trajectory in trajectories]
        names = self.shards[0].conditions
        return {name: np.stack([self.shards[n].conditions[name][row] for n, row in places]) for name in names}

    def _place(self, trajectory: int) -> tuple[int, int]:
        """Return the shard of a trajectory, and the row in it."""
        number = int(np.searchsorted(self._starts, trajectory, side="right")) - 1
        return number, trajectory - self._starts[number]

    def _array(self, number: int) -> np.ndarray:
        """Return the pairs of one shard: in memory, or through a file handle of this process alone."""
        if isinstance(self.shards[number].pairs, np.ndarray):
            return self.shards[number].pairs
        key = (os.getpid(), number)
        if key not in self._opened:
            self._opened[key] = open_pairs(self.paths[number])
        return self._opened[key]


def check_together(paths: Sequence[Path], shards: Sequence[Shard]) -> None:
    """Raise UserError, naming the file, unless all shards are of one study, named by their first trajectories, and hold each
    trajectory exactly once."""
    first, seen = shards[0], {}
    for path, shard in zip(paths, shards, strict=True):
        if path.name != shard_name(shard.index[0]):
            raise UserError(
                f"{path}: begins with trajectory {shard.index[0]}, unlike its name; name it {shard_name(shard.index[0])}"
            )
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
