"""A study on SLURM, a real one that tests/slurm/start starts: the bytes of the local run, GPUs, and what goes wrong."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
import yaml
from failures import FAILING_TARGET, failing_command
from studies import ROOT, snakemake_command, study

from agd import train
from agd.artifacts import checkpoints

pytestmark = pytest.mark.long

LAB = ROOT / "tests" / "slurm"
MODEL = "digits-tiny"  # by this name the profile knows it for a small one
TARGET = f"results/{MODEL}/seed0/samples/agd/w1.5/n3/000000.zip"  # after two chunks of trajectories and training
# The lab answers at once; only patience is overridden, all else is the profile's.
# Long the first time, then not.
SLOW = """
def seconds(wildcards, attempt):
    return 600 if attempt == 1 else 0

rule slow:
    output: "done"
    resources: seconds=seconds
    shell: "sleep {resources.seconds}; touch {output}"
"""
IMPATIENT = ("--slurm-init-seconds-before-status-checks", "3", "--latency-wait", "5")


@pytest.fixture(scope="module", autouse=True)
def lab() -> Iterator[None]:
    """SLURM's daemons; stopped again only if they were started here."""
    if shutil.which("squeue") is None and (os.geteuid() or shutil.which("apt-get") is None):
        pytest.skip("no SLURM here, and it can't be installed: not root, or no apt-get")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("SLURM_CONF")  # conftest.py hides SLURM from all other tests
        answer = ["timeout", "3", "squeue"]  # by itself it asks for ten seconds
        there = shutil.which("squeue") is not None and subprocess.run(answer, capture_output=True).returncode == 0
        done = subprocess.run([LAB / "start"], capture_output=True, text=True, timeout=200)
        if done.returncode:
            pytest.skip(done.stderr.strip())
        yield
        for run in Study.runs:
            if run.poll() is None:  # a test has failed
                run.terminate()
                run.wait(60)
        if not there:
            subprocess.run([LAB / "stop"], check=True, timeout=60)


def slurm(*words: str) -> str:
    """What one of SLURM's commands prints."""
    return subprocess.run(words, capture_output=True, text=True, check=True, timeout=30).stdout


def jobs(folder: Path, states: str = "all") -> list[dict[str, str]]:
    """SLURM's own account of the jobs of a study, oldest first, ended ones too."""
    names = ("id", "state", "rule", "memory", "minutes", "partition", "folder")
    lines = slurm(
        "squeue", "--noheader", f"--states={states}", "--sort=i", "--format=%i|%T|%k|%m|%l|%P|%Z"
    ).splitlines()
    every = [dict(zip(names, line.split("|"), strict=True)) for line in lines]
    return [job for job in every if job["folder"] == str(folder)]


def asked(job: dict[str, str]) -> str:
    """What a job asked SLURM for, and what it was given."""
    return slurm("scontrol", "show", "--details", "job", job["id"])


def wait(condition, seconds: float = 60):
    """What `condition` gives as soon as it gives something."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.2)
    return found


class Study:
    """A tiny study in a folder of its own."""

    runs: ClassVar[list[subprocess.Popen]] = []

    def __init__(self, folder: Path, base: str, classifier: Path, name: str = MODEL, **changes):
        folder.mkdir(parents=True)
        self.folder = folder
        models = {name: study(base, classifier, **changes)["models"]["tiny"]}
        (folder / "study.yaml").write_text(yaml.safe_dump({"models": models}))

    def start(self, *words: str, targets: tuple = (TARGET,), snakefile: Path = ROOT / "Snakefile") -> subprocess.Popen:
        """Start Snakemake; `timeout` ends it, because the executor can wait for ever. In the foreground it hands a signal on
        once, and not to its group as well: a second Ctrl-C would break off the cancelling."""
        words = ("--configfile", self.folder / "study.yaml", *words, "--snakefile", snakefile)
        command, environment = snakemake_command(self.folder, *words, targets=targets)
        command = ["timeout", "--foreground", "--kill-after=10", "240", *command]
        with open(self.folder / "output.txt", "a") as output:
            run = subprocess.Popen(command, stdout=output, stderr=output, cwd=self.folder.parent, env=environment)
        self.runs.append(run)
        return run

    def submit(self, *words: str, **more) -> subprocess.Popen:
        return self.start("--profile", ROOT / "profiles" / "slurm", *IMPATIENT, *words, **more)

    def output(self) -> str:
        return (self.folder / "output.txt").read_text()

    def end(self, run: subprocess.Popen) -> int:
        """Wait for Snakemake; its exit status."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return run.wait(260)
        run.kill()
        return run.wait()

    def finish(self, run: subprocess.Popen):
        assert self.end(run) == 0, self.output()

    def bytes(self) -> dict[str, bytes]:
        """What the study has made, without the timings."""
        results = self.folder / "results" / MODEL
        wanted = [*results.rglob("*.zip"), *results.rglob("*.safetensors"), *results.rglob("training.csv")]
        return {str(file.relative_to(results)): file.read_bytes() for file in wanted}


@pytest.fixture(scope="module")
def overrun(tmp_path_factory, base, classifier) -> tuple[Study, subprocess.Popen]:
    """A job that is past its time, in the background: SLURM needs more than a minute to see it."""
    made = Study(tmp_path_factory.mktemp("overrun") / "study", base, classifier)
    snakefile = made.folder / "Snakefile"
    snakefile.write_text(SLOW)
    run = made.submit(snakefile=snakefile, targets=("done",))
    job = wait(lambda: jobs(made.folder, "running"))[0]
    slurm("scontrol", "update", f"JobId={job['id']}", "TimeLimit=1")
    return made, run


@pytest.fixture(scope="module")
def local(overrun, tmp_path_factory, base, classifier) -> Study:
    made = Study(tmp_path_factory.mktemp("local") / "study", base, classifier, sample__chunk_size=12)
    made.finish(made.start("--cores", "2"))
    return made


def test_a_study_on_slurm_is_the_local_one(tmp_path, base, classifier, local):
    """Byte for byte; on the way slurmctld is restarted and a running job cancelled, and a second run does the rest."""
    there = Study(tmp_path / "study", base, classifier, sample__chunk_size=12)
    run = there.submit("--retries", "0")
    wait(lambda: jobs(there.folder, "running"))
    slurm("scontrol", "shutdown", "slurmctld")
    wait(lambda: subprocess.run(["timeout", "3", "squeue"], capture_output=True).returncode)
    slurm(str(LAB / "start"))
    running = wait(lambda: [job for job in jobs(there.folder, "running") if "trajectories" in job["rule"]])
    slurm("scancel", running[0]["id"])
    assert there.end(run) != 0, there.output()
    assert "CANCELLED" in there.output()
    assert not (there.folder / TARGET).exists()

    there.finish(there.submit())
    states = [job["state"] for job in jobs(there.folder)]
    assert states.count("CANCELLED") == 1
    assert set(states) == {"CANCELLED", "COMPLETED"}
    assert len(local.bytes()) == 2 + 2 + 1 + 1  # shards, adapter and checkpoint, table, images
    assert there.bytes() == local.bytes()


def test_a_cancelled_training_keeps_its_state(tmp_path, base, classifier):
    """SIGTERM comes to every process of the job, and SIGKILL five seconds later."""
    there = Study(tmp_path / "study", base, classifier, train__steps=1_000_000, train__checkpoint_interval=1_000_000)
    folder, log = f"results/{MODEL}/seed0/adapters/agd", there.folder / f"results/logs/train/{MODEL}/seed0/agd.log"
    run = there.submit("--retries", "0", targets=(f"{folder}/adapter.safetensors",))
    wait(lambda: log.exists() and re.search(r"train: [1-9]\d*/", log.read_text()), seconds=150)  # steps are being made
    (training,) = (job for job in jobs(there.folder, "running") if "train" in job["rule"])
    slurm("scancel", training["id"])
    assert there.end(run) != 0
    assert "stopped by SIGTERM; the same command goes on" in log.read_text()
    _, state = checkpoints.read(there.folder / folder / train.CHECKPOINT)
    assert state["progress"]["step"] > 0


def test_gpus_are_asked_for_and_given(tmp_path, base, classifier):
    """A model that isn't for the CPU: each of its jobs gets a GPU, several at a time, and Ctrl-C cancels them."""
    there = Study(tmp_path / "study", base, classifier, name="large", sample_trajectories__device="auto")
    folder = "results/large/seed0/trajectories/guided"
    run = there.submit(targets=(f"{folder}/000000.zarr.zip", f"{folder}/000006.zarr.zip"))
    wait(lambda: len(jobs(there.folder, "running")) == 2)
    both = jobs(there.folder)
    assert {(job["partition"], job["memory"], job["minutes"]) for job in both} == {("gpu", "32000M", "1:00:00")}
    for job in both:
        assert "JOB_GRES=gpu:fake:1\n" in asked(job)
    run.send_signal(signal.SIGINT)
    assert there.end(run) != 0
    assert wait(lambda: {job["state"] for job in jobs(there.folder)} == {"CANCELLED"})
    assert not list(there.folder.rglob("*.zarr.zip"))


def test_a_job_past_its_time_gets_more(overrun):
    there, run = overrun
    there.finish(run)
    first, second = jobs(there.folder)
    assert (first["state"], first["memory"]) == ("TIMEOUT", "2000M")
    assert (second["state"], second["memory"], second["minutes"]) == ("COMPLETED", "4000M", "30:00")


def test_a_job_for_the_cpu_asks_for_no_gpu(overrun):
    there, _ = overrun
    assert "gpu" not in asked(jobs(there.folder)[0])


def test_a_stage_that_fails_fails_its_job(tmp_path):
    """Whatever it has written, and however it ends: SLURM says FAILED, and Snakemake at once."""
    runs = {}
    for ends_with in ("1", "2", "143", "KILL"):
        folder = tmp_path / ends_with
        folder.mkdir()
        command, environment = failing_command(folder, ends_with, "--profile", ROOT / "profiles" / "slurm", *IMPATIENT)
        with open(folder / "output.txt", "w") as output:
            run = subprocess.Popen(
                ["timeout", "--kill-after=10", "240", *command, "--retries", "0"],
                **{"stdout": output, "stderr": output, "cwd": folder, "env": environment},
            )
        Study.runs.append(run)
        runs[folder] = run
    for folder, run in runs.items():
        assert run.wait(260) == 1
        said = (folder / "output.txt").read_text()
        assert "Error in rule prepare_digits" in said
        assert [job["state"] for job in jobs(folder / "study")] == ["FAILED"]
        for words in ("filesystem latency", "Waiting at most", "completed successfully"):
            assert words not in said
        assert not (folder / "study" / FAILING_TARGET).exists()
