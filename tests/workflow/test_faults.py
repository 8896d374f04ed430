"""Whatever dies: kills at random moments, full and read-only disks, two Snakemakes at once, a clock that is wrong."""

import contextlib
import importlib
import os
import random
import re
import resource
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import faults
import pytest
import torch
from faults import STAGES, Job, Study, differences, disturb, jobs_in

from agd import verify

PAGE = 4096  # bytes; disks give room by pages
PLACES = int(os.environ.get("AGD_PLACES", "4"))  # of a stage's writing, at which the disk fills
LIMIT = 300  # bytes: less than what any stage writes first


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Iterator[Study]:
    """A study, run to its end. Tests copy it, and leave it as it is."""
    with faults.serving() as server:
        made = Study(tmp_path_factory.mktemp("faults") / "undisturbed", server)
        made.run()
        yield made


@pytest.fixture
def disk(tmp_path) -> Iterator[Path]:
    """A small disk of its own, in memory. Only root can have one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "none", folder], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"can't mount a disk: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def copy_of(study: Study, folder: Path) -> Study:
    """The same study in another folder; what Snakemake has said there is forgotten."""
    copy = Study(folder, study.server)
    shutil.copytree(study.folder, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("run*.txt"))
    return copy


def without(study: Study, *outputs: str) -> None:
    for output in outputs:
        (study.folder / output).unlink()


def job_of(study: Study, stage: str) -> Job:
    """A stage's last job."""
    return jobs_of(study, stage)[-1]


def jobs_of(study: Study, stage: str) -> list[Job]:
    return [job for job in jobs_in(study.runs[0].read_text())[0].values() if job.rule == stage]


def run(job: Job) -> None:
    """Run a job's stage in this process, by the command line that Snakemake has printed."""
    words = shlex.split(re.sub(r"\$\(dirname (\S+)\)", lambda found: str(Path(found[1]).parent), job.command))
    before = torch.get_num_threads()
    torch.set_num_threads(job.threads)  # as Snakemake does: sums, and so bytes, depend on it
    try:
        importlib.import_module(words[2]).main(words[3 : words.index("2>&1")])
    finally:
        torch.set_num_threads(before)


def error_of(job: Job, capsys) -> str:
    """The one line with which a job's stage ends, run in this process."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        run(job)
    assert end.value.code == 2
    printed = capsys.readouterr().err
    assert "Traceback" not in printed
    (line,) = (line for line in printed.splitlines() if "error: " in line)
    return line


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_kills_in_every_stage_change_nothing(undisturbed, tmp_path):
    """PYTHONPATH=. python tests/faults.py --help: the same, for as long as one likes."""
    disturbed = Study(tmp_path / "disturbed", undisturbed.server)
    kills = disturb(disturbed, undisturbed.seconds(), kills_per_stage=1, chance=random.Random(0))
    assert [stage for stage, _ in kills] == list(STAGES)
    assert differences(disturbed, undisturbed) == []


def test_the_harness_sees_what_is_wrong(undisturbed, tmp_path):
    made = copy_of(undisturbed, tmp_path / "copy")
    assert differences(made, undisturbed) == []
    images = "results/tiny/seed0/samples/agd/w1.5/n3/000008.zip"
    said = undisturbed.runs[0].read_text()
    for number in range(2):
        (made.folder / f"run{number}.txt").write_text(said)
        made.runs.insert(number, made.folder / f"run{number}.txt")
    assert f"{images}: had finished, and was made again" in differences(made, undisturbed)
    del made.runs[:2]
    shutil.copy(made.folder / images.replace("agd", "cfg"), made.folder / images)
    assert "tiny/seed0/samples/agd/w1.5/n3/000008.zip: other contents" in differences(made, undisturbed)
    without(made, "results/tiny/seed0/adapters/agd/checkpoint.safetensors")
    assert "tiny/seed0/adapters/agd/checkpoint.safetensors: only in one of them" in differences(made, undisturbed)


@pytest.mark.parametrize("stage", STAGES[1:])
def test_no_room_is_one_line_and_nothing_is_half_written(undisturbed, tmp_path, monkeypatch, capsys, stage):
    """A limit on the size of files stands for a quota; then the same command does the work."""
    made = copy_of(undisturbed, tmp_path / "copy")
    job = job_of(undisturbed, stage)
    without(made, *job.outputs)
    monkeypatch.chdir(made.folder)
    before, theirs = made.artifacts(), undisturbed.artifacts()
    whole = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, whole[1]))
    try:
        line = error_of(job, capsys)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, whole)
    assert re.search(r"results/\S+: can't be written \(File too large\); make room, or choose another folder", line)
    assert before.items() <= made.artifacts().items() <= theirs.items()  # a small output may have been made, whole
    assert not list(made.folder.rglob(f".*{faults.PART}"))  # what was downloaded stays, for the same command to go on
    run(job)
    assert made.artifacts() == theirs


@pytest.mark.parametrize("stage", ["sample_trajectories", "train", "sample"])
def test_a_full_disk(undisturbed, disk, monkeypatch, capsys, stage):
    """Full in the middle of a file."""
    made = copy_of(undisturbed, disk / "study")
    job = job_of(undisturbed, stage)
    size = max((made.folder / output).stat().st_size for output in job.outputs)
    if stage == "train":
        without(made, "results/tiny/seed0/adapters/agd/checkpoint.safetensors")
    without(made, *job.outputs)
    monkeypatch.chdir(made.folder)
    fill(disk, leave=size // 2)
    line = error_of(job, capsys)
    assert "can't be written (No space left on device); make room" in line
    assert not any((made.folder / output).exists() for output in job.outputs)
    (disk / "filler").unlink()
    run(job)
    assert made.artifacts() == undisturbed.artifacts()


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("stage", STAGES[1:])
def test_a_disk_that_fills_anywhere(undisturbed, disk, monkeypatch, capsys, stage):
    """Room for more pages each time, until the stage ends well. All pages, or 25 of them, are tried with AGD_PLACES=25."""
    made = copy_of(undisturbed, disk / "study")
    job, theirs = job_of(undisturbed, stage), undisturbed.artifacts()
    if stage == "train":
        without(made, "results/tiny/seed0/adapters/agd/checkpoint.safetensors")
    outputs = [made.folder / output for output in job.outputs]
    pages = sum(-(-output.stat().st_size // PAGE) for output in outputs) + 2
    monkeypatch.chdir(made.folder)
    without(made, *job.outputs)
    kept, failed = made.artifacts(), 0
    for room in (*range(0, pages, max(1, pages // PLACES)), 16 * pages + 4096):
        fill(disk, leave=room * PAGE)
        capsys.readouterr()
        try:
            run(job)
            ended = 0
        except SystemExit as end:
            ended = end.code
        said = capsys.readouterr().err
        (disk / "filler").unlink()
        assert "Traceback" not in said
        found = made.artifacts()
        assert kept.items() <= found.items() <= theirs.items()  # what is there is whole
        if not ended:
            assert found == theirs
            break
        assert ended == 2
        assert re.search(r"(No space left on device|not enough memory)", said.splitlines()[-1])
        failed += 1
        leftovers = [path for path in made.folder.rglob(f".*{faults.PART}") if path.is_file()]
        assert not leftovers
    assert failed
    assert not ended


def fill(disk: Path, leave: int) -> None:
    with open(disk / "filler", "wb") as file, contextlib.suppress(OSError):
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(disk).free - leave)


@pytest.mark.parametrize("stage", ["sample_trajectories", "train", "tabulate"])
def test_results_that_can_only_be_read(undisturbed, disk, monkeypatch, capsys, stage):
    made = copy_of(undisturbed, disk / "study")
    job = job_of(undisturbed, stage)
    without(made, *job.outputs)
    monkeypatch.chdir(made.folder)
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    line = error_of(job, capsys)
    assert "can't write here (Read-only file system); choose a folder that you may write to" in line


@pytest.mark.parametrize("left", [0, 40_000], ids=["for nothing", "for Snakemake alone"])
def test_a_full_disk_under_snakemake(undisturbed, disk, left):
    made = copy_of(undisturbed, disk / "study")
    without(made, *job_of(undisturbed, "train_classifier").outputs, *job_of(undisturbed, "prepare_reference").outputs)
    without(made, *(output for job in jobs_of(undisturbed, "calculate_metrics") for output in job.outputs))
    without(made, "results/tiny/fid.json")
    fill(disk, leave=left)
    assert made.start().wait() != 0
    (disk / "filler").unlink()
    made.unlock()  # it may have ended before or after it took the lock
    made.run()
    assert differences(made, undisturbed) == []


@contextlib.contextmanager
def paused(processes: list[int]) -> Iterator[None]:
    for pid in processes:
        os.kill(pid, signal.SIGSTOP)
    yield
    for pid in processes:
        os.kill(pid, signal.SIGCONT)


def test_two_snakemakes_at_once(undisturbed, tmp_path):
    made = copy_of(undisturbed, tmp_path / "copy")
    without(made, "results/tiny/fid.json", "results/tiny/seed0/metrics/agd/w1.5/n3.json")
    first = made.start()
    while not (jobs := made.jobs()):
        assert first.poll() is None
        time.sleep(0.01)
    with paused(jobs):  # or they might be over before the second comes
        status = made.start().wait()
    assert status != 0
    assert "Directory cannot be locked" in made.runs[1].read_text()
    assert first.wait() == 0, made.runs[0].read_text()
    assert differences(made, undisturbed) == []


def test_a_clock_that_is_wrong(undisturbed, tmp_path):
    made = copy_of(undisturbed, tmp_path / "copy")
    made.skew(random.Random(0))
    assert "Nothing to be done" in made.run("--dry-run")
    without(made, "results/tiny/fid.json")
    said = made.run()
    assert re.search(r"agd: \d+ files of results/ were dated in the future, as results/\S+; a clock is wrong", said)
    assert differences(made, undisturbed) == []


def test_what_a_killed_job_leaves_is_named(undisturbed, tmp_path):
    made = copy_of(undisturbed, tmp_path / "copy")
    file, folder = (
        made.folder / "results" / "tiny" / f".{name}.abc{faults.PART}" for name in ("reference.npz", "base")
    )
    file.write_bytes(b"half")
    folder.mkdir()
    (folder / "model_index.json").write_bytes(b"half")
    _, lines = verify.bad(made.folder / "results")
    what = "left by a job that was killed, unless one is at it; delete it when no job runs"
    assert lines == {str(left): f"{left}: {what}" for left in (file, folder)}
