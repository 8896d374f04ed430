"""Says why an artifact would be made again, and what it was made with.

    python -m agd.explain results/digits-dit/fid.json
    python -m agd.explain results/x/seed0/adapters/agd/config.json --configfile mine.yaml

Options after the artifact are Snakemake options; give those of the run. Starts a Snakemake dry run in its own process,
and reads its reasons.
"""

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

from agd.adapters import saving
from agd.artifacts import trajectories
from agd.artifacts.images import read_images
from agd.artifacts.sealed_json import RECORD, read_sealed, record_beside
from agd.measures.references import read_reference
from agd.runtime.errors import UserError
from agd.runtime.output import any_encoding

SNAKEFILE = Path(__file__).resolve().parent.parent / "Snakefile"
_OPTION = re.compile(r"--([a-z][a-z-]*)(?: ('[^']*'|[^\s',\"-][^\s',\"]*))?")
_CHANGED = re.compile(r"Params have changed since last execution: .*?before: (.*) now: (.*)")


def dry_run(artifact: str, words: list[str]) -> str:
    """Return the output of a Snakemake dry run.

    Raises UserError if Snakemake fails, or if the workflow is not installed.
    """
    if not SNAKEFILE.is_file():
        raise UserError(f"{artifact}: the workflow isn't here (no {SNAKEFILE}); run this in a checkout of agd")
    command = [sys.executable, "-m", "snakemake", artifact, "--snakefile", str(SNAKEFILE), "--dry-run", *words]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        said = next((line for line in lines if re.search("rror: |^No rule to produce", line)), " ".join(lines[-2:]))
        raise UserError(f"{artifact}: Snakemake can't plan it ({said.removeprefix('agd: error: ')}); mend that first")
    return done.stdout + done.stderr


def jobs(text: str) -> list[dict[str, str]]:
    """Return the jobs of a dry run in order of execution: {"rule", "output", "reason"}, once each."""
    found = []
    for rule, block in re.findall(r"^(?:local)?rule (\w+):\n((?:    .*\n)+)", text, re.M):
        fields = dict(re.findall(r"^    (\w+): (.*)$", block, re.M))
        found.append({"rule": rule, "output": fields["output"], "reason": fields["reason"]})
    return found


def sentences(reason: str) -> list[str]:
    """Put Snakemake's reason for a job in plain words, a sentence for each cause."""
    said = []
    if match := re.search(r"Missing output files: ([^;]*)", reason):
        said.append(f"it is missing: {match[1]}")
    if match := re.search(r"Updated input files: ([^;]*)", reason):
        said.append(f"contents of input files changed: {match[1]}")
    if match := re.search(r"Input files updated by another job: ([^;]*)", reason):
        said.append(f"what it is made from will be made again: {match[1]}")
    if match := _CHANGED.search(reason):
        said += changes(match[1], match[2].strip())
    if "Set of input files has changed" in reason:
        said.append("other files go into it than before, such as more chunks")
    return said or [reason]


def changes(before: str, now: str) -> list[str]:
    """Return a sentence for each change of params. before, now: as Snakemake lists them.

    They hold options with names, and one number alone: the stage's version.
    """
    old, new = (dict(_OPTION.findall(text)) for text in (before, now))
    said = [
        f"setting {name.replace('-', '_')} was {old.get(name) or 'not given'} and is now {new.get(name) or 'not given'}"
        for name in sorted(old | new)
        if old.get(name) != new.get(name)
    ]
    versions = [re.search(r"(?:^|,)(\d+)(?:,|$)", text) for text in (before, now)]
    if all(versions):
        said.append(f"the stage's version was {versions[0][1]} and is now {versions[1][1]}: its results changed")
    return said or [f"what it is told changed: {before} before, {now} now"]


def made_with(path: Path) -> dict | None:
    """Return the provenance in an artifact or in its record, or None if there is none."""
    if path.suffix == ".json":  # the record of a large file
        path = next((file for file in map(path.with_suffix, (".zip", ".npz")) if file.is_file()), path)
    if path.name.endswith(trajectories.SUFFIX):
        return trajectories.read(path, pairs=False).provenance
    if path.suffix == ".zip":
        return read_images(path)[1].get("provenance")
    if path.suffix == ".npz":
        reference = read_reference(path)
        return {"settings": {name: getattr(reference, name) for name in ("source", "n", "extractor", "weights_sha256")}}
    record = _record(path)
    return read_sealed(record).get("provenance") if record else None


def _record(path: Path) -> Path | None:
    """Return the record that covers a file: its folder's, the parent folder's, the file itself, or one beside it."""
    beside = [path.with_suffix(".json"), path.with_name(saving.CONFIG), path.with_name("fid.json")]
    above = [folder / RECORD for folder in list(path.parents)[:2]]
    return next((file for file in [above[0], above[1], *beside] if file.is_file()), None)


def description(made: dict) -> list[str]:
    """Describe a provenance in a few lines."""
    lines = [f"made by {made['stage']}, version {made['stage_version']}"] if "stage" in made else []
    chosen = ", ".join(f"{name} {value}" for name, value in sorted(made["settings"].items()))
    lines += [f"settings: {chosen}"] if chosen else []
    if "base" in made:
        base = made["base"]
        lines.append(f"base: {base['name']}, revision {base['revision'] or 'none'}, {base['fingerprint'][:12]}")
    for name in ("seed", "guidance", "device", "commit", "python"):
        lines += [f"{name}: {made[name]}"] if name in made else []
    if "packages" in made:
        lines.append("packages: " + ", ".join(f"{name} {version}" for name, version in made["packages"].items()))
    return lines


def _file_of(folder: Path) -> str:
    """Return the name of the file that stands for a folder: of trajectories, samples, an adapter, a base, a model or tables."""
    first = record_beside(trajectories.shard_name(0)).name
    kinds = {"adapters": saving.CONFIG, "tables": "index.json", "trajectories": first}
    if len(folder.parts) > 3 and folder.parts[-4] == "samples":
        return "000000.json"
    return kinds.get(folder.parent.name, RECORD if folder.name in ("base", "prompts") else "fid.json")


def explain(artifact: str, words: list[str]) -> list[str]:
    """Return lines that say why an artifact would be made again, and what it was made with."""
    if not artifact:
        raise UserError("artifact: empty; give a file below results/, or a folder")
    path = Path(os.path.relpath(artifact))  # Snakemake knows its files only by relative paths
    path = path if path.suffix else path / _file_of(path)
    planned = jobs(dry_run(str(path), words))
    lines = [f"{artifact}: {'would be made again' if planned else 'is up to date'}" + (", because" if planned else "")]
    for job in planned:
        files = job["output"].split(", ")
        what = files[0] + (f" and {len(files) - 1} more" if len(files) > 1 else "")
        lines += [f"  {job['rule']} ({what}): {sentence}" for sentence in sentences(job["reason"])]
    made = made_with(path) if path.exists() else None
    lines += ["it was made with", *(f"  {line}" for line in description(made))] if made else []
    return lines


def main(argv: list[str] | None = None) -> None:
    """Run the command line. On a user's mistake: exit status 2 and one line."""
    parser = argparse.ArgumentParser(
        "python -m agd.explain",
        usage="%(prog)s [-h] artifact [options of the Snakemake run, such as --configfile F]",
        description=__doc__.split("\n")[0],
    )
    parser.add_argument("artifact", help="a file below results/, or a folder of one kind: a model, an adapter, samples")
    known, words = parser.parse_known_args(argv)
    any_encoding()
    try:
        print(*explain(known.artifact, words), sep="\n")
    except UserError as error:
        print(f"agd.explain: error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
