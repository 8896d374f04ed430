"""Names and paths in results/ that rules and tools share."""

from agd.runtime.errors import UserError

GUIDED = "guided"  # {source} in the paths of trajectories that adapters learn from
TRAINED_BASE = "results/{model}/base"
BASE_RECORD = "results/{model}/base.json"  # the record of a base that is not trained here
BUILT_IN = ("none", "cfg")  # {method} in paths, beside the configuration's adapters and methods
HALF = "cfg-half"  # in fid.json: cfg with half the steps, as many evaluations as an adapter with all of them


def half(steps: int) -> int:
    """Return half the number of steps, rounded up in favour of cfg."""
    return (steps + 1) // 2


def scale_name(w: float) -> str:
    """Return a guidance scale as paths spell it: 2 and 2.0 are `2`."""
    return f"{w:.12g}"


def total(stage: str, chosen: dict) -> int:
    """Return how many trajectories (`sample_trajectories`) or images (`sample`) the settings ask for."""
    return chosen["num_samples" if stage == "sample" else "num_trajectories"]


def chunk_names(stage: str, chosen: dict) -> list[str]:
    """Return the names of a stage's chunks: the index of their first trajectory or image."""
    return [f"{first:06d}" for first in range(0, total(stage, chosen), chosen["chunk_size"])]


def chunk_options(stage: str, chosen: dict, name: str) -> str:
    """Return the options for the trajectories or images of the chunk with this name."""
    first = int(name)
    return f"--first {first} --count {min(chosen['chunk_size'], total(stage, chosen) - first)}"


def part(first: int, count: int | None, in_all: int, one: str) -> range:
    """Return the indices that a stage is to make: `count` from `first` on, or all from there on. one: what it makes, in errors.

    With a count, the number in all plays no part: jobs aren't told it, for else one more would make all of them anew. Raises
    UserError if nothing is left to make.
    """
    if count is None and first >= in_all:
        raise UserError(f"--first: {first} is beyond the last {one}, {in_all - 1}; give --count, or more in all")
    return range(first, first + count if count else in_all)
