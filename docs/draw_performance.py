"""Puts what the benchmarks found into docs/performance.md. The sentences between the tables are written by hand.

PYTHONPATH=. python docs/draw_performance.py     (`make bench` does it)
"""

import json
from collections.abc import Callable
from pathlib import Path

from renew_results import filled

from agd.artifacts.figures import COLOURS, figure
from benchmarks import jobs
from benchmarks.record import RESULTS

PAGE = Path(__file__).resolve().parent / "performance.md"
IMAGES = PAGE.parent / "images"


def read(name: str) -> dict | None:
    """Return a benchmark's record, or None if it was not run."""
    file = RESULTS / f"{name}.json"
    return json.loads(file.read_text()) if file.is_file() else None


def ratio(found: dict | None) -> str:
    """Return a spread as `1.01 (1.00 to 1.02)`."""
    return "-" if found is None else f"{found['median']:.3g} ({found['lowest']:.3g} to {found['highest']:.3g})"


def table(head: list[str], rows: list[list]) -> str:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return "\n".join(lines + [f"| {' | '.join(map(str, row))} |" for row in rows])


def made_by(record: dict) -> str:
    """Return a sentence about the command and the machine of a record."""
    about = record["machine"]
    where = about.get("gpu") or f"{about['cores']} cores of an {about['processor']}"
    return f"`{record['command']}`, on {where}; torch {about['torch']}, diffusers {about['diffusers']}."


def cost(record: dict) -> str:
    rows = []
    for row in record["figures"]:
        merged = ["-", "-"]
        if row["operations, merged"] is not None:
            merged = [
                f"{1 + row['operations, merged']:.4f}",
                f"{row['operators, merged'] / row['operators of the base']:.1%}",
            ]
        rows.append([
            row["model"], row["kind"], f"{row['of the base']:.2%}", f"{1 + row['operations']:.4f}",
            f"{row['operators'] / row['operators of the base']:.0%}", *merged, f"{1 + row['operations, training']:.4f}",
        ])  # fmt: skip
    head = [
        "model",
        "kind",
        "parameters",
        "operations",
        "more operators",
        "operations, merged",
        "more operators, merged",
    ]
    return f"{table([*head, 'operations, training'], rows)}\n\n{made_by(record)}"


def one_pass(record: dict) -> str:
    names = list(record["figures"][0]["ratios"])
    rows = [[name, *(ratio(found["ratios"].get(name)) for found in record["figures"])] for name in names]
    head = ["over one plain pass", *(f"{found['model']}, batch {found['batch_size']}" for found in record["figures"])]
    return f"{table(head, rows)}\n\n{made_by(record)}"


def overhead(record: dict) -> str:
    digits = {name: found for name, found in record["figures"].items() if "bytes_per_pair" in found}
    shapes = {name: found for name, found in record["figures"].items() if name not in digits}
    rows = [
        [
            "trajectories, over the denoiser's calls in them",
            *(ratio(f["trajectories_over_denoiser"]) for f in digits.values()),
        ],
        ["training step, over the plain passes", *(ratio(f["step_over_plain_passes"]) for f in digits.values())],
        ["share of training that waits for data", *(ratio(f["share_waiting_for_data"]) for f in digits.values())],
        ["bytes of a pair", *(f["bytes_per_pair"] for f in digits.values())],
    ]
    read_at = [
        ["shards written (MB/s)", *(ratio(f["write_mb_per_second"]) for f in shapes.values())],
        ["pairs read by a training (per second)", *(ratio(f["pairs_per_second"]) for f in shapes.values())],
    ]
    return "\n\n".join(
        [table(["", *digits], rows), table(["shards of the shape of", *shapes], read_at), made_by(record)]
    )


def dag(record: dict) -> str:
    found = record["figures"]
    rows = [[f"{at['chunks']:,}", ratio(at["dry_run"]), ratio(at["finished"])] for at in found]
    with figure(IMAGES / "performance-dag.png", width=6) as (_, (axis,)):
        chunks = [at["chunks"] for at in found]
        for colour, key, label in ((COLOURS[0], "dry_run", "dry run"), (COLOURS[1], "finished", "nothing to be done")):
            spreads = [at[key] for at in found]
            axis.plot(chunks, [s["median"] for s in spreads], marker="o", color=colour, label=label)
            extremes = ([s[end] for s in spreads] for end in ("lowest", "highest"))
            axis.fill_between(chunks, *extremes, color=colour, alpha=0.2)
        axis.set(xscale="log", yscale="log", xlabel="chunks of trajectories", ylabel="seconds")
        axis.legend()
    picture = "![Seconds against chunks](images/performance-dag.png)"
    return "\n\n".join([table(["chunks", "dry run (s)", "nothing to be done (s)"], rows), picture, made_by(record)])


def jobs_of_a_model(record: dict) -> str:
    parts = [f"{model}:\n\n{jobs.table(rows)}" for model, rows in record["figures"].items()]
    return "\n\n".join([*parts, made_by(record)])


# Mark in the page -> the record's name, and what makes its text.
PARTS: dict[str, tuple[str, Callable[[dict], str]]] = {
    "cost": ("adapter_cost", cost),
    "host": ("one_pass-thin-cpu", one_pass),
    "gpu": ("one_pass-full-gpu", one_pass),
    "overhead": ("overhead", overhead),
    "dag": ("dag", dag),
    "jobs": ("jobs", jobs_of_a_model),
}


def drawn(page: str) -> str:
    """Return the page with what stands between its marks made again."""
    for mark, (name, make) in PARTS.items():
        record = read(name)
        page = filled(page, mark, f"{make(record) if record else 'Not measured.'}\n")
    return page


if __name__ == "__main__":
    PAGE.write_text(drawn(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
