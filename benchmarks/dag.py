"""Times Snakemake on studies of many chunks: `python -m benchmarks.dag`.

For a study of sdxl with 10, 100, 1,000 and 10,000 chunks of trajectories: seconds of a dry run over a study of which
nothing is there, and of one that is finished (of empty files, which Snakemake takes over by `--touch`): nothing is to be
done. No internet is used, and no job runs.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from benchmarks import record

ROOT = Path(__file__).resolve().parent.parent
TARGET = "results/sdxl/fid.json"
NOTHING = "Nothing to be done"


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chunks", nargs="+", type=record.positive, default=[10, 100, 1000, 10000])
    parser.add_argument("--rounds", type=record.positive, default=3)
    parser.add_argument("--output-dir", type=Path, default=record.RESULTS)
    return parser.parse_args()


def snakemake(folder: Path, *words: str) -> tuple[float, str]:
    """Run Snakemake on the study in a folder. Returns seconds, and what it said."""
    command = [
        sys.executable,
        "-m",
        "snakemake",
        TARGET,
        "--snakefile",
        str(ROOT / "Snakefile"),
        "--directory",
        str(folder),
    ]
    started = time.perf_counter()
    command += ["--configfile", str(folder / "study.yaml"), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}:\n{done.stderr[-2000:]}")
    return time.perf_counter() - started, done.stdout + done.stderr


def finish(folder: Path) -> None:
    """Make an empty file for each output of the study, and let Snakemake take them for good ones."""
    _, said = snakemake(folder, "--dry-run")
    for line in re.findall(r"^    output: (.*)$", said, re.M):
        for name in line.split(", "):
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            if not file.exists():  # the base's record is there
                file.write_text("")
    snakemake(folder, "--touch", "--cores", "1")


def measure(folder: Path, chunks: int, rounds: int) -> dict:
    """Return the seconds of a dry run and of nothing to be done, for a study of so many chunks."""
    base = folder / "base"
    (base / "unet").mkdir(parents=True)
    (base / "model_index.json").write_text("{}")
    given = {"base_model": str(base)}
    for name in ("captions", "reference"):
        given[name] = str(folder / f"{name}.zip")
        Path(given[name]).write_text("")
    section = {**given, "sample_trajectories": {"num_trajectories": chunks, "chunk_size": 1}}
    (folder / "study.yaml").write_text(yaml.safe_dump({"models": {"sdxl": section}}))
    planned = [snakemake(folder, "--dry-run", "--quiet", "all")[0] for _ in range(rounds)]
    finish(folder)
    seconds, said = zip(*(snakemake(folder, "--dry-run") for _ in range(rounds)), strict=True)
    if not all(NOTHING in words for words in said):
        sys.exit(f"a finished study is not finished:\n{said[0][-2000:]}")
    return {"chunks": chunks, "dry_run": record.spread(planned), "finished": record.spread(seconds)}


def main() -> None:
    asked, found = options(), []
    for chunks in asked.chunks:
        with tempfile.TemporaryDirectory() as folder:
            found.append(measure(Path(folder), chunks, asked.rounds))
        print(json.dumps(found[-1]), file=sys.stderr, flush=True)
    record.write("dag", found, folder=asked.output_dir)


if __name__ == "__main__":
    main()
