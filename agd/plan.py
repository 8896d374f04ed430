"""Says what a study would cost, before anything runs: jobs, hours, disk and downloads.

    python -m agd.plan results/tables/paper/all
    python -m agd.plan results/sdxl/fid.json --configfile mine.yaml

Options after the target are Snakemake options; give those of the run. Starts a Snakemake dry run, and counts what is not
there yet. Hours are those of benchmarks in results/, where there are some of the same stage and model. For others, operations
of the denoiser are counted, and a speed is assumed (--teraflops). Each line says which.
"""

import argparse
import csv
import json
import math
import re
import shlex
import statistics
import sys
from pathlib import Path

from agd.explain import dry_run
from agd.measures.operations import Denoiser, denoiser
from agd.runtime.errors import UserError
from agd.runtime.output import any_encoding
from agd.settings import families

_BYTES = {"float16": 2, "float32": 4}
_PASSES = {"none": 1, "adapter": 1, "cfg": 2}


class Job:
    """A job of a dry run: rule, model (or `-`), number of GPUs, output, and the options of its command."""

    def __init__(self, rule: str, fields: dict[str, str], command: str):
        self.rule, self.output = rule, fields.get("output", "").split(", ")[0]
        wildcards = dict(re.findall(r"(\w+)=([^,\s]+)", fields.get("wildcards", "")))
        self.model = wildcards.get("model", "-")
        self.steps = wildcards.get("steps", "")
        self.gpu = int((re.findall(r"\bgpu=(\d+)", fields.get("resources", "")) or ["0"])[0])
        self.module = (re.findall(r"-m +(agd\.[\w.]+)", command) or [""])[-1]
        self.options = _options(command)

    @property
    def stage(self) -> str:
        return self.module.rsplit(".", 1)[-1]

    @property
    def family(self) -> str | None:
        """The family of the job's model, from the package of its command line."""
        packages = {package: family for family, package in families.PACKAGES.items()}
        return packages.get(self.module.rpartition(".")[0])

    def number(self, name: str) -> float:
        return float(self.options[name])

    def evaluations(self) -> float:
        """Return how many evaluations of the denoiser for one sample the job asks for; a backward pass counts as two."""
        if self.stage == "sample_trajectories":
            unguided = self.options["source"] == "diffusion" and "images" not in self.options
            return self.number("count") * self.number("num-inference-steps") * (2 + unguided)
        if self.stage == "train":
            again = 1 if "gradient-checkpointing" in self.options else 0
            return self.number("steps") * self.number("batch-size") * (3 + again)
        if self.stage == "sample":
            passes = _PASSES[self.options["guidance"]] - (1 - float(self.options.get("guided-share", 1)))
            return self.number("count") * self.number("num-inference-steps") * passes
        if self.stage == "measure_fidelity":
            scales = len(self.options["guidance-scales"].split(",")) if self.options["guidance-scales"] != "auto" else 5
            method = 1 if self.options["guidance"] == "adapter" else 1 + float(self.options.get("guided-share", 1))
            each = 1 + scales * (2 + 2 * method)  # without guidance; then at each w: guided, and the method twice
            return self.number("num-trajectories") * self.number("num-inference-steps") * each
        if self.stage == "measure_speed":
            others = json.loads(self.options.get("methods", "{}")).values()
            more = sum(1 if isinstance(one, str) else 1 + one.get("guided_share", 1) for one in others)
            # cfg once; then in each round none, cfg, half of cfg, the adapter, and other methods
            each = 2 + (5 + more) * (self.number("rounds") + 1)
            return self.number("batch-size") * self.number("num-inference-steps") * each
        return 0

    def disk(self, found: Denoiser | None) -> float:
        """Return the bytes that the job writes, where they are many: trajectories, and images at most."""
        if found is None or self.stage not in ("sample_trajectories", "sample"):
            return 0
        if self.stage == "sample":
            return self.number("count") * found.pixels
        pair = 2 * found.latent_values * _BYTES[self.options["storage-dtype"]]
        return self.number("count") * self.number("num-inference-steps") * pair


def _options(command: str) -> dict[str, str]:
    words, found = shlex.split(command.split(" 2>&1 |")[0]), {}
    for i, word in enumerate(words):
        if word.startswith("--"):
            following = words[i + 1] if i + 1 < len(words) else ""
            found[word[2:]] = "" if following.startswith("--") else following
    return found


def jobs(text: str) -> list[Job]:
    """Return the jobs of a dry run that prints their commands."""
    found = []
    pattern = r"^(?:local)?rule (\w+):\n((?:    .*\n)+)(?:Shell command: (.*)\n)?"
    for rule, block, command in re.findall(pattern, text, re.M):
        fields = dict(re.findall(r"^    (\w+): (.*)$", block, re.M))
        found.append(Job(rule, fields, command))
    return found


def measured(folder: Path, job: Job) -> tuple[float, str] | None:
    """Return the mean seconds of earlier jobs of the same rule, model and number of steps, and the word for it."""
    place = folder / "benchmarks" / (job.stage or job.rule)
    files = [*(place / job.model).rglob("*.tsv"), place / f"{job.model}.tsv", place.with_suffix(".tsv")]
    files = [file for file in files if file.is_file()]
    alike = [file for file in files if not job.steps or {f"n{job.steps}", f"n{job.steps}.tsv"} & set(file.parts)]
    rows = (csv.DictReader(file.read_text(encoding="utf-8").splitlines(), delimiter="\t") for file in alike)
    seconds = [float(row["s"]) for table in rows for row in table]
    return (statistics.fmean(seconds), "benchmarks") if seconds else None


class Plan:
    """Sums up jobs, a line per rule and model."""

    def __init__(self, results: Path, teraflops: float):
        self.results, self.teraflops = results, teraflops
        self.denoisers: dict[str, Denoiser | None] = {}
        self.lines: dict[tuple[str, str], dict] = {}

    def denoiser_of(self, job: Job) -> Denoiser | None:
        name = job.options.get("base-model")
        if job.family is None or name is None:
            return None
        if name not in self.denoisers:
            self.denoisers[name] = denoiser(name, job.family)
        return self.denoisers[name]

    def add(self, job: Job) -> None:
        line = self.lines.setdefault(
            (job.rule, job.model), {"jobs": 0, "unknown": 0, "seconds": 0.0, "gpu": 0.0, "disk": 0.0, "how": set()}
        )
        line["jobs"] += 1
        found, known = self.denoiser_of(job), measured(self.results, job)
        line["disk"] += job.disk(found)
        if known is None and found is not None and job.gpu and job.evaluations():
            known = job.evaluations() * found.operations / (self.teraflops * 1e12), "operations"
        seconds, how = known or (0.0, "not known")
        line["seconds"] += seconds
        line["gpu"] += seconds * job.gpu
        line["unknown"] += known is None
        line["how"].add(how)

    def text(self, target: str) -> list[str]:
        """Return the plan as lines of text."""
        number = sum(line["jobs"] for line in self.lines.values())
        head = f"{'rule':22}{'model':22}{'jobs':>7}{'hours':>9}{'GPU hours':>11}{'disk (GB)':>11}  hours from"
        said = [f"{target}: {number} jobs to run", head]
        for (rule, model), line in self.lines.items():
            said.append(_line(rule, model, line, ", ".join(sorted(line["how"]))))
        names = ("jobs", "unknown", "seconds", "gpu", "disk")
        said.append(_line("all", "", {name: sum(line[name] for line in self.lines.values()) for name in names}, ""))
        said.append(
            f"operations: of the denoiser's passes alone, at {self.teraflops:g} TFLOP/s (--teraflops). Hours are of one job after "
            "the other; > marks sums without jobs that are not known. Disk: of trajectories, and of images if PNG saved nothing."
        )
        return said


def _line(rule: str, model: str, line: dict, how: str) -> str:
    more = "" if not line["unknown"] else "?" if line["unknown"] == line["jobs"] else ">"  # a sum of what is known
    hours, gpu = (more if more == "?" else f"{more}{line[name] / 3600:.2f}" for name in ("seconds", "gpu"))
    return f"{rule:22}{model:22}{line['jobs']:>7}{hours:>9}{gpu:>11}{line['disk'] / 1e9:>11.2f}  {how}".rstrip()


def downloads(listed: list[Job]) -> list[str]:
    """Return what is to be downloaded: files of known addresses, and base models that are no folders here."""
    urls = [job.options["url"] for job in listed if job.rule == "download"]
    bases = {job.options["base-model"] for job in listed if "base-model" in job.options}
    hub = sorted(name for name in bases if not Path(name).exists() and not name.startswith("results/"))
    return [f"to download: {name}" for name in (*urls, *hub)]


def plan(target: str, words: list[str], results: Path, teraflops: float) -> list[str]:
    """Return lines that say what a target would cost. words: Snakemake's options."""
    listed = jobs(dry_run(target, [*words, "--printshellcmds"]))
    found = Plan(results, teraflops)
    for job in listed:
        found.add(job)
    return [*found.text(target), *downloads(listed)]


def main(argv: list[str] | None = None) -> None:
    """Run the command line. On a user's mistake: exit status 2 and one line."""
    parser = argparse.ArgumentParser("python -m agd.plan", description=__doc__.split("\n")[0])
    parser.add_argument("target", help="a file below results/, or results/tables/STUDY/all")
    parser.add_argument("--teraflops", type=float, default=100, help="assumed speed of a GPU (default: 100)")
    parser.add_argument("--results", default="results", help="folder of the benchmarks (default: results)")
    known, words = parser.parse_known_args(argv)
    any_encoding()
    try:
        if not 0 < known.teraflops < math.inf:
            raise UserError(f"--teraflops: {known.teraflops:g} must be a number above 0")
        print(*plan(known.target, words, Path(known.results), known.teraflops), sep="\n")
    except UserError as error:
        print(f"agd.plan: error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
