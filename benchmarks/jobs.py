"""Gathers what the jobs of a model took: `python -m benchmarks.jobs --results results --models digits-dit`.

From the files that Snakemake leaves in results/benchmarks: for each stage the number of jobs, their seconds together and of
the longest, seconds of CPU, and the most memory. Of trainings, also the most GPU memory, from cost.json. Prints a table for
each model, and writes benchmarks/results/jobs.json.
"""

import argparse
import csv
import json
import sys
from pathlib import Path

from benchmarks import record

COLUMNS = ("jobs", "seconds", "longest", "CPU seconds", "memory (GB)", "GPU memory (GB)")


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--models", nargs="+", required=True)
    parser.add_argument("--output-dir", type=Path, default=record.RESULTS)
    return parser.parse_args()


def jobs_of(results: Path, model: str) -> dict[str, list[dict]]:
    """Return stage -> its jobs' rows, of a model and of what all models share."""
    found = {}
    for file in sorted((results / "benchmarks").rglob("*.tsv")):
        stage, *place = file.relative_to(results / "benchmarks").with_suffix("").parts
        if place and place[0] != model:
            continue
        with open(file, newline="") as table:
            found.setdefault(stage, []).extend(csv.DictReader(table, delimiter="\t"))
    return found


def number(text: str) -> float:
    """Read a cell. A job of less than a second has no measured memory."""
    return 0.0 if text in ("-", "NA", "") else float(text)


def figures(results: Path, model: str) -> dict[str, dict]:
    """Return stage -> its figures, by the name of their column. Ends the program if no job has run."""
    found = {}
    for stage, rows in jobs_of(results, model).items():
        seconds = [number(row["s"]) for row in rows]
        cpu, memory = ([number(row[name]) for row in rows] for name in ("cpu_time", "max_rss"))
        values = (len(rows), sum(seconds), max(seconds), sum(cpu), max(memory) / 1024, None)
        found[stage] = dict(zip(COLUMNS, values, strict=True))
    if not any((results / "benchmarks" / stage).is_dir() for stage in found):
        sys.exit(f"{results}/benchmarks: holds no jobs of {model}; give the folder of its results")
    costs = [json.loads(file.read_text()) for file in (results / model).glob("seed*/adapters/*/cost.json")]
    if peaks := [cost["peak_gpu_bytes"] / 1e9 for cost in costs if cost.get("peak_gpu_bytes")]:
        found["train"]["GPU memory (GB)"] = max(peaks)
    return dict(sorted(found.items(), key=lambda item: -item[1]["seconds"]))


def table(found: dict[str, dict]) -> str:
    """Return the figures as Markdown."""
    lines = [f"| stage | {' | '.join(COLUMNS)} |", f"|{'---|' * (len(COLUMNS) + 1)}"]
    for stage, row in found.items():
        cells = ["-" if value is None else f"{value:.3g}" if value < 10 else f"{value:.0f}" for value in row.values()]
        lines.append(f"| {stage} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    asked = options()
    found = {model: figures(asked.results, model) for model in asked.models}
    for model, rows in found.items():
        print(f"{model}\n\n{table(rows)}\n")
    record.write("jobs", found, folder=asked.output_dir, say=False)


if __name__ == "__main__":
    main()
