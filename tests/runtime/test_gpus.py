"""Each job has GPUs of its own: what jobs at the same time see in CUDA_VISIBLE_DEVICES."""

import os
import re
import signal
import subprocess
import sys

import pytest
from studies import ROOT

from agd.runtime import gpus

LISTED = """GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-aaaa-0)
  MIG 1g.10gb     Device  0: (UUID: MIG-cccc)
GPU 1: NVIDIA H100 80GB HBM3 (UUID: GPU-bbbb-1)
"""
SHOW_AND_WAIT = "import os, sys; print(os.environ.get('CUDA_VISIBLE_DEVICES'), flush=True); sys.stdin.read()"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine with two GPUs, as far as `nvidia-smi` says."""
    fake = tmp_path / "nvidia-smi"
    fake.write_text(f"#!/bin/sh\ncat <<'END'\n{LISTED}END\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setattr(gpus, "_SECONDS_TO_WAIT", 0)
    started = []

    def start(number: int) -> subprocess.Popen:
        quick = "from agd.runtime import gpus; gpus._SECONDS_TO_WAIT = 1; gpus.main()"
        words = [sys.executable, "-c", quick, str(number), sys.executable, "-c", SHOW_AND_WAIT]
        pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        started.append(subprocess.Popen(words, **pipes))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def sees(process: subprocess.Popen) -> str:
    return process.stdout.readline().strip()


def test_jobs_at_once_have_a_gpu_each(machine):
    first, second = machine(1), machine(1)
    assert {sees(first), sees(second)} == {"GPU-aaaa-0", "GPU-bbbb-1"}
    third = machine(1)
    assert third.wait() == 1
    assert third.stderr.read() == (
        "agd.runtime.gpus: error: gpu: 1 wanted, 0 of 2 free, other jobs hold the rest; "
        "run fewer at once, `--resources gpu=2`\n"
    )


def test_a_killed_job_gives_its_gpu_back(machine):
    first, second = machine(1), machine(1)
    freed, _ = sees(first), sees(second)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert sees(machine(1)) == freed


def test_a_training_takes_as_many_as_it_asks_for(machine):
    assert sees(machine(2)) == "GPU-aaaa-0,GPU-bbbb-1"
    assert machine(1).wait() == 1


def test_more_than_there_are_is_refused(machine):
    refused = machine(3)
    assert refused.wait() == 1
    assert refused.stderr.read() == "agd.runtime.gpus: error: gpu: 3 wanted, there are 2; set a smaller number\n"
    assert sees(machine(2)) == "GPU-aaaa-0,GPU-bbbb-1"


def test_the_users_choice_is_respected(machine, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, 5")
    assert {sees(machine(1)), sees(machine(1))} == {"3", "5"}


@pytest.mark.parametrize(("name", "value"), [("SLURM_JOB_ID", "7"), ("CUDA_VISIBLE_DEVICES", "")])
def test_a_schedulers_job_and_a_machine_without_gpus_go_on_as_they_are(machine, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    expected = os.environ.get("CUDA_VISIBLE_DEVICES", "None")
    assert [sees(machine(1)), sees(machine(1))] == [expected, expected]


def test_one_gpu_under_two_names_is_one(machine, monkeypatch):
    first = machine(1)
    assert sees(first) == "GPU-aaaa-0"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,GPU-aaaa-0,GPU-aaaa")
    assert machine(1).wait() == 1
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,0,1,-1,7")
    assert sees(machine(1)) == "1"


@pytest.mark.parametrize("words", [(), ("1",), ("0", "true"), ("-1", "true"), ("x", "true"), ("1", "no-such-command")])
def test_a_wrong_command_line_is_one_line(words):
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-m", "agd.runtime.gpus", *words], capture_output=True, text=True, env=environment, cwd=ROOT
    )
    assert done.returncode == 1
    assert re.fullmatch(r"agd.runtime.gpus: error: (usage: .*|'no-such-command' can't be run .*)\n", done.stderr)


@pytest.mark.parametrize("spoil", ["file", "link"])
def test_locks_lie_in_a_folder_of_the_users_own(machine, tmp_path, spoil):
    folder = tmp_path / f"agd-gpus-{os.getuid()}"
    if spoil == "file":
        folder.write_text("")
    else:
        (tmp_path / "elsewhere").mkdir()
        folder.symlink_to(tmp_path / "elsewhere")
    refused = machine(1)
    assert refused.wait() == 1
    assert "no folder of this user's for locks" in refused.stderr.read()


def test_without_the_driver_there_is_nothing_to_choose(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpus.visible() == {}
