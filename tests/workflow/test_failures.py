"""A stage that fails fails its job, though it has written its outputs: status, words and files say so, at once."""

import contextlib
import os
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from failures import FAILING_TARGET, failing_command
from studies import ROOT, snakemake_command


def run(folder: Path, ends_with: str) -> subprocess.CompletedProcess:
    """Snakemake on one job, whose stage writes its outputs and then ends with a status, or by SIGKILL."""
    command, environment = failing_command(folder, ends_with, "--cores", "1")
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)


@pytest.mark.parametrize("ends_with", ["1", "2", "143", "KILL"])
def test_a_stage_that_fails_fails_its_job(tmp_path, ends_with):
    done = run(tmp_path, ends_with)
    said = done.stdout + done.stderr
    assert done.returncode == 1
    assert "Error in rule prepare_digits" in said
    assert "(command exited with non-zero exit code)" in said
    assert "results/logs/prepare_digits.log" in said
    for words in ("latency", "completed successfully", "Waiting at most", "1 of 1 steps"):
        assert words not in said
    assert not (tmp_path / "study" / FAILING_TARGET).exists()  # as good as unfinished: the next run makes it
    again = run(tmp_path, "0")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "1 of 1 steps (100%) done" in again.stdout + again.stderr
    assert (tmp_path / "study" / FAILING_TARGET).is_file()


def test_jobs_get_the_python_of_snakemake_and_threads_that_wait_quietly(tmp_path):
    """Without an activated environment, and with another `python` first on PATH."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").write_text("#!/bin/sh\nexit 7\n")
    (tmp_path / "bin" / "python").chmod(0o755)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(
        "import os, sys\n"
        "if 'agd.digits.prepare_digits' in sys.orig_argv:\n"
        "    open('environment', 'w').write(os.environ['OMP_WAIT_POLICY'] + ' ' + sys.executable)\n"
    )
    (tmp_path / "study").mkdir()
    command, environment = snakemake_command(tmp_path / "study", "--cores", "1", targets=(FAILING_TARGET,))
    environment |= {"PYTHONPATH": str(tmp_path / "site"), "PATH": f"{tmp_path / 'bin'}:{os.defpath}"}
    environment.pop("OMP_WAIT_POLICY", None)
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    policy, python = (tmp_path / "study" / "environment").read_text().split()
    assert policy == "PASSIVE"
    assert Path(python).parent == Path(command[0]).parent


def test_another_agd_in_the_working_folder_is_not_run(tmp_path):
    """As where results/ lies in an older checkout: what was planned here is run from here."""
    (tmp_path / "study" / "agd" / "digits").mkdir(parents=True)
    for folder in ("agd", "agd/digits"):
        (tmp_path / "study" / folder / "__init__.py").write_text("")
    (tmp_path / "study" / "agd" / "digits" / "prepare_digits.py").write_text("raise SystemExit('another one')")
    done = run(tmp_path, "0")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "study" / FAILING_TARGET).is_file()


def test_sigterm_reaches_the_stage_and_its_words_the_log(tmp_path):
    """As a scheduler sends it: to all processes of a job, at once."""
    (tmp_path / "study").mkdir()
    target = "results/digits/classifier.safetensors"
    command, environment = snakemake_command(tmp_path / "study", "--cores", "1", targets=(target,))
    log = tmp_path / "study" / "results/logs/train_classifier.log"
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as run:
        end = time.monotonic() + 60
        while time.monotonic() < end and not (log.is_file() and "train_classifier: " in log.read_text()):
            time.sleep(0.1)
        for process in psutil.Process(run.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.terminate()
        said = run.stderr.read().decode()
    assert run.returncode == 1
    assert "Error in rule train_classifier" in said
    assert "agd.digits.train_classifier: stopped by SIGTERM; the same command goes on" in log.read_text()


def test_a_checkout_whose_path_has_braces_is_named(tmp_path):
    for name in ("Snakefile", "rules", "agd", "config", "profiles", "envs", "report"):
        (tmp_path / "a {b}").mkdir(exist_ok=True)
        (tmp_path / "a {b}" / name).symlink_to(ROOT / name)
    command, environment = snakemake_command(tmp_path, "--cores", "1", targets=(FAILING_TARGET,))
    command[command.index("--snakefile") + 1] = str(tmp_path / "a {b}" / "Snakefile")
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode != 0
    assert "braces in the path of the checkout" in done.stderr
    assert "Traceback" not in done.stderr
