"""Kill studies at random moments, stage by stage, until they are finished, and hold them to one that nobody disturbed.

    PYTHONPATH=. python tests/faults.py --studies 10 --kills-per-stage 2 --seed 0

The victim is a job's process, Snakemake (whose jobs then go on as orphans), or all of them, by SIGKILL; the moment is drawn
from the time that such a job took in the undisturbed run. Between two runs a file server's clock may go wrong: the times of
all files are moved by up to two days. In the end the artifacts must be the undisturbed ones, byte for byte but for measured
times, agd.verify must find nothing, Snakemake nothing to do, and no job that had finished may have been started again.
"""

import argparse
import collections
import contextlib
import copy
import csv
import dataclasses
import hashlib
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import yaml
from server import Server
from studies import BY_CLASS, ROOT, snakemake_command, study

from agd import prepare_prompts, verify
from agd.artifacts import downloads
from agd.artifacts.files import PART
from agd.digits import data, prepare_digits

START = "start"  # Snakemake by itself, before any job
# In the order of the study, so that each can be killed before the next begins.
STAGES = (
    *(START, "prepare_digits", "download", "prepare_prompts", "train_classifier", "train_base", "prepare_reference"),
    *("sample_trajectories", "train", "sample", "measure_fidelity", "measure_speed", "calculate_metrics"),
    "tabulate",
)
VICTIMS = ("stage", "snakemake", "tree")
TARGETS = ("results/tiny/fid.json", "results/text/prompts/samples.txt")
SECONDS_TO_START = 3.0
SECONDS_TO_DOWNLOAD = 2.0
PADDING = 4 << 20  # bytes: with fewer, a download is one piece
SKEW = 2 * 24 * 3600
MEASURED = {"seconds", "seconds_per_image", "seconds_per_step", "speedup_over_cfg"}  # what no two runs share


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    """A server of captions, in COCO's layout, that takes its time; its address is known as COCO's own is, in this process."""
    sentences, made = data.captions(), io.BytesIO()
    parts = {prepare_prompts.TRAINING: range(1000), prepare_prompts.VALIDATION: range(1000, len(sentences))}
    with zipfile.ZipFile(made, "w") as archive:
        for name, part in parts.items():
            described = prepare_digits.annotations([str(i) for i in range(len(sentences))], sentences, part)
            archive.writestr(f"annotations/{name}", json.dumps(described))
        archive.writestr("padding", random.Random(0).randbytes(PADDING))
    with Server(made.getvalue(), "annotations.zip", SECONDS_TO_DOWNLOAD) as server:
        downloads.KNOWN[server.url] = f"md5:{hashlib.md5(server.content).hexdigest()}"
        yield server
        del downloads.KNOWN[server.url]


def configuration(captions: str) -> dict:
    """A tiny study that makes all it needs, and the prompts of a text-to-image model, from captions at an address: every
    stage."""
    tiny = study("results/tiny/base", Path("results/digits/classifier.safetensors"), adapters={"agd": {}})["models"][
        "tiny"
    ]
    tiny["train_base"] = {"architecture": "dit", "vae_steps": 2, "steps": 2, "batch_size": 8}
    text = copy.deepcopy(tiny) | {"family": "sd", "captions": captions}
    text |= {"base_model": "results/text/base", "prepare_prompts": {"num_prompts": 20}}
    text["train_base"]["architecture"] = "sd"
    for stage in BY_CLASS:
        del text[stage]["class_labels"]
    return {"defaults": {"train_classifier": {"steps": 50}}, "models": {"tiny": tiny, "text": text}}


class Study:
    """A study in a folder of its own, and the processes that work on it."""

    def __init__(self, folder: Path, server: Server):
        (folder / "site").mkdir(parents=True)
        self.folder, self.server = folder.resolve(), server
        self.runs: list[Path] = []  # what each run of Snakemake has said
        (folder / "study.yaml").write_text(yaml.safe_dump(configuration(server.url)))
        # Python reads it as it starts: the server's file is known in every process.
        known = (
            f"from agd.artifacts import downloads; downloads.KNOWN[{server.url!r}] = {downloads.KNOWN[server.url]!r}\n"
        )
        (folder / "site" / "sitecustomize.py").write_text(known)

    def start(self, *words: str) -> subprocess.Popen:
        """Start Snakemake in a process group of its own."""
        output = self.folder / f"run{len(self.runs)}.txt"
        self.runs.append(output)
        command, environment = snakemake_command(
            self.folder, "--cores", "2", "--configfile", self.folder / "study.yaml", *words, targets=TARGETS
        )
        environment |= {"PYTHONPATH": f"{self.folder / 'site'}:{ROOT}", "NO_PROXY": "127.0.0.1"}
        with open(output, "w") as file:
            return subprocess.Popen(
                command, stdout=file, stderr=file, cwd=self.folder, env=environment, start_new_session=True
            )

    def run(self, *words: str) -> str:
        """Run Snakemake to its end, which must be a good one; what it said."""
        status = self.start(*words).wait()
        said = self.runs[-1].read_text()
        assert status == 0, said
        return said

    def unlock(self) -> None:
        """What the documentation says to do after a Snakemake was killed."""
        self.run("--unlock")

    def processes(self) -> Iterator[tuple[int, list[str]]]:
        """Process id and command line of all that works in the folder."""
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and os.readlink(entry / "cwd") == str(self.folder):
                    yield int(entry.name), (entry / "cmdline").read_text().split("\0")

    def jobs(self, stage: str | None = None) -> list[int]:
        """Process ids of the running jobs, of one stage or of all."""
        modules = ((pid, words[2]) for pid, words in self.processes() if words[1:2] == ["-m"] and len(words) > 2)
        return [pid for pid, name in modules if name.startswith("agd.") and stage in (None, name.rsplit(".", 1)[1])]

    def kill_all(self) -> None:
        """SIGKILL to everything that works in the folder."""
        while found := [pid for pid, words in self.processes() if words != [""]]:
            for pid in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)

    def wait_for_orphans(self) -> None:
        """Until no job runs."""
        while self.jobs():
            time.sleep(0.05)

    def seconds(self) -> dict[str, float]:
        """How long a job of each stage took, as Snakemake measured it."""
        longest = collections.defaultdict(float, {START: SECONDS_TO_START})
        for file in self.folder.glob("results/benchmarks/**/*.tsv"):
            stage = file.relative_to(self.folder / "results" / "benchmarks").parts[0].removesuffix(".tsv")
            with open(file, newline="") as table:
                (row,) = csv.DictReader(table, delimiter="\t")
            longest[stage] = max(longest[stage], float(row["s"]))
        return longest

    def artifacts(self) -> dict[str, bytes]:
        """Path -> contents of all artifacts, less measured times."""
        results = self.folder / "results"
        names = {str(file.relative_to(results)): file for file in results.rglob("*") if file.is_file()}
        names = {name: file for name, file in names.items() if f"{PART}/" not in f"{name}/"}  # left by killed jobs
        return {name: _timeless(file) for name, file in names.items() if not name.startswith(("logs/", "benchmarks/"))}

    def skew(self, chance: random.Random) -> None:
        """Give every file another time, each its own."""
        now = time.time()
        for file in self.folder.glob("results/**/*"):
            moved = now + chance.uniform(-SKEW, SKEW)
            with contextlib.suppress(FileNotFoundError):  # an orphan may be at work
                os.utime(file, (moved, moved))

    def redone(self) -> list[str]:
        """The outputs of finished jobs that a later run began to make again."""
        finished, again = set(), []
        for file in self.runs:
            started, done = jobs_in(file.read_text())
            again += sorted(finished & {output for job in started.values() for output in job.outputs})
            finished |= {output for number in done for output in started[number].outputs}
        return again


@dataclasses.dataclass(frozen=True)
class Job:
    """A job that a run of Snakemake has started."""

    rule: str
    outputs: tuple[str, ...]
    threads: int
    command: str


def jobs_in(said: str) -> tuple[dict[str, Job], list[str]]:
    """What a run of Snakemake said -> (job id -> the job, ids of those that it knew to be finished)."""
    started = {}
    for rule, block, command in re.findall(
        r"^(?:local)?rule (\w+):\n((?:    .*\n)+)(?:Shell command: (.*)\n)?", said, re.M
    ):
        found = dict(re.findall(r"^    (output|jobid|threads): (.*)$", block, re.M))
        if "jobid" in found:
            outputs = tuple(found.get("output", "").split(", "))
            started[found["jobid"]] = Job(rule, outputs, int(found.get("threads", 1)), command)
    return started, re.findall(r"Finished jobid: (\d+)", said)


def _timeless(file: Path) -> bytes:
    """Contents of a file; of a JSON record and its table, without what was measured, and seals over that."""

    def without(value):
        if isinstance(value, dict):
            return {k: without(v) for k, v in value.items() if k not in (*MEASURED, "sha256", "files")}
        return [without(v) for v in value] if isinstance(value, list) else value

    if file.suffix == ".json":
        return json.dumps(without(json.loads(file.read_bytes()))).encode()
    return file.read_bytes() if file.name != "fid.txt" else b""


def kill_once(study: Study, stage: str, victim: str, after: float) -> str | None:
    """Run Snakemake as far as a stage and kill `after` seconds of its first job, or as it ends, should that be sooner; then
    the victim is Snakemake. Returns the victim, or None if the run ended without such a job."""
    run, job, began = study.start(*(() if stage == START else ("--until", stage))), None, 0.0
    while run.poll() is None:
        if job is None:
            job = next(iter([run.pid] if stage == START else study.jobs(stage)), None)
            began = time.monotonic()
        over = job is not None and not Path(f"/proc/{job}").exists()
        if over or (job is not None and time.monotonic() - began >= after):
            victim = "snakemake" if over and victim == "stage" else victim
            with contextlib.suppress(ProcessLookupError):
                if victim == "tree":
                    study.kill_all()
                else:
                    os.kill(job if victim == "stage" else run.pid, signal.SIGKILL)
            run.wait()
            return victim
        time.sleep(0.01)
    return None


def disturb(
    study: Study, usual: dict[str, float], kills_per_stage: int, chance: random.Random
) -> list[tuple[str, str]]:
    """Run a study to its end, killed on the way; the (stage, victim) of each kill."""
    kills = []
    for stage in STAGES:
        for _ in range(kills_per_stage):
            victim = "snakemake" if stage == START else chance.choice(VICTIMS)
            victim = kill_once(study, stage, victim, chance.uniform(0, usual[stage]))
            if victim is None:
                break  # all of the stage's jobs had finished before they could be killed
            kills.append((stage, victim))
            print(f"{len(kills):4} {victim} killed during {stage}", flush=True)
            if chance.random() < 0.5:
                study.wait_for_orphans()
            if chance.random() < 0.3:
                study.skew(chance)
            if victim != "stage":
                study.unlock()
    study.run()
    study.wait_for_orphans()
    return kills


def differences(study: Study, undisturbed: Study) -> list[str]:
    """What is wrong with a study that was disturbed; empty if all is well."""
    mine, theirs = study.artifacts(), undisturbed.artifacts()
    wrong = [f"{name}: only in one of them" for name in sorted(mine.keys() ^ theirs.keys())]
    wrong += [f"{name}: other contents" for name in sorted(mine.keys() & theirs.keys()) if mine[name] != theirs[name]]
    wrong += [f"{name}: had finished, and was made again" for name in study.redone()]
    wrong += [line for name, line in verify.bad(study.folder / "results")[1].items() if not name.endswith(PART)]
    if "Nothing to be done" not in study.run("--dry-run"):
        wrong.append("Snakemake has still something to do")
    return wrong


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--studies", type=int, default=1, help="studies to kill (default: 1)")
    parser.add_argument(
        "--kills-per-stage", type=int, default=1, help="kills in each of the stages of a study (default: 1)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of victims and moments (default: 0)")
    parser.add_argument("--folder", type=Path, help="where the studies go (default: a new folder)")
    chosen = parser.parse_args()
    folder = chosen.folder or Path(tempfile.mkdtemp(prefix="faults-"))
    print(f"studies in {folder}", flush=True)
    kills, wrong = [], []
    with serving() as server:
        undisturbed = Study(folder / "undisturbed", server)
        undisturbed.run()
        for number in range(chosen.studies):
            made = Study(folder / f"disturbed{number}", server)
            chance = random.Random(f"{chosen.seed} {number}")
            kills += disturb(made, undisturbed.seconds(), chosen.kills_per_stage, chance)
            found = differences(made, undisturbed)
            wrong += [f"study {number}: {line}" for line in found]
            print(f"study {number}: {len(found)} things wrong", *found, sep="\n", flush=True)
    counted = collections.Counter(kills)
    print(f"\n{'':20}" + "".join(f"{victim:>12}" for victim in VICTIMS))
    for stage in STAGES:
        print(f"{stage:20}" + "".join(f"{counted[stage, victim]:12}" for victim in VICTIMS))
    print(f"{len(kills)} kills, {len(wrong)} things wrong")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
