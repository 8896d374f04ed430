"""The lines of `--logger brief`: what a newcomer sees of a run."""

import importlib
import logging
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from snakemake_interface_logger_plugins.common import LogEvent
from studies import ROOT

PLUGINS = ROOT / "plugins"
WORKFLOW = """
shell.prefix("set -euo pipefail; ")

rule tabulate:
    input: expand("results/{model}/seed0/samples/w2/{chunk}.zip", model="tiny", chunk=["000000", "001000"])
    output: "results/table.txt"
    log: "results/logs/tabulate.log"
    localrule: True
    shell: "touch {output} 2>&1 | tee {log}"

rule sample:
    output: "results/{model}/seed{seed}/samples/w{scale}/{chunk}.zip"
    log: "results/logs/sample/{model}/seed{seed}/w{scale}/{chunk}.log"
    shell: "(echo 'sample: 1/2 (50%) 00:10<00:10'; cp source{wildcards.chunk} {output}) 2>&1 | tee {log}"
"""


@pytest.fixture
def brief(monkeypatch):
    monkeypatch.syspath_prepend(PLUGINS)
    return importlib.import_module("snakemake_logger_plugin_brief")


@pytest.fixture
def handler(brief):
    made = brief.LogHandler(common_settings=None, settings=None)
    yield made
    made.close()


def record(text="", event=None, level=logging.INFO, **fields):
    return logging.makeLogRecord({"msg": text, "levelno": level, **({"event": event} if event else {}), **fields})


def started(**fields):
    wildcards = {"model": "digits-dit", "seed": "0", "scale": "2", "steps": "25"}
    job = {"jobid": 5, "rule_name": "sample", "wildcards": wildcards, "log": [], "created": 0.0}
    return record(event=LogEvent.JOB_INFO, **(job | fields))


PLAN = record("Job stats:\n...", LogEvent.RUN_INFO, stats={"sample": 1, "sample_trajectories": 11, "total": 12})


def test_the_plan_then_a_line_per_job(handler, capsys):
    handler.handle(PLAN)
    handler.handle(record("Select jobs to execute..."))
    handler.handle(started())
    handler.handle(record("Shell command: x", LogEvent.SHELLCMD))
    handler.handle(started(jobid=6, rule_name="sample_trajectories", wildcards={}))
    handler.handle(record(event=LogEvent.JOB_FINISHED, job_id=5, created=41.2))
    handler.handle(record(event=LogEvent.JOB_FINISHED, job_id=6, created=601.0))
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "Job stats:",
        "...",
        "[ 1/12] sample              digits-dit seed0 w2 n25               0:41",
        "[ 2/12] sample_trajectories                                      10:01",
    ]


def test_a_failed_job_is_one_block(handler, tmp_path, capsys):
    log = tmp_path / "sample.log"
    log.write_text("".join(f"line {number}\nsample: 1/9 (11%) 00:10<01:20\n" for number in range(12)))
    handler.handle(started())
    command = "RuleException:\nCalledProcessError in file x, line 3:\nCommand 'x' returned non-zero exit status 1."
    handler.handle(record(command, LogEvent.ERROR, logging.ERROR))
    handler.handle(record("Error in rule", LogEvent.JOB_ERROR, logging.ERROR, jobid=5, log=[str(log)], created=2.0))
    handler.handle(record("Exiting because a job execution failed. Look above ...", level=logging.ERROR))
    handler.handle(record("WorkflowError:\nAt least one job did not complete", LogEvent.ERROR, logging.ERROR))
    first, *lines = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"FAILED +sample digits-dit seed0 w2 n25 +0:02", first)
    assert lines == [*(f"        line {number}" for number in range(2, 12)), f"        log: {log}"]


def test_a_job_that_ctrl_c_ends_did_not_fail(handler, capsys):
    handler.handle(started())
    handler.handle(record("Terminating processes on user request, this might take some time."))
    handler.handle(record("Error in rule", LogEvent.JOB_ERROR, logging.ERROR, jobid=5, log=[], created=2.0))
    assert re.fullmatch(r"Terminating .*\nstopped +sample digits-dit seed0 w2 n25 +0:02\n", capsys.readouterr().err)


def test_other_errors_and_what_ends_a_run_are_said_once(handler, capsys):
    handler.handle(record("MissingRuleException:\nNo rule to produce x", LogEvent.ERROR, logging.ERROR))
    handler.handle(record("a warning", level=logging.WARNING))
    for _ in range(2):
        handler.handle(record("Will exit after finishing currently running jobs (scheduler)."))
    handler.handle(record("Building DAG of jobs..."))
    handler.handle(record("Complete log(s): y"))
    assert capsys.readouterr().err.splitlines() == [
        "MissingRuleException:",
        "No rule to produce x",
        "a warning",
        "Will exit after finishing currently running jobs (scheduler).",
        "Complete log(s): y",
    ]


def test_silence_is_broken_while_jobs_run(brief, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(brief, "_SECONDS_OF_SILENCE", 0.05)
    handler, log, err = brief.LogHandler(common_settings=None, settings=None), tmp_path / "sample.log", ""
    log.write_text("sample: 3/9 (33%) 00:10<00:20\nsample (decoding): 6/9 (66%) 00:20<00:10\n")
    handler.handle(started(created=time.time() - 20, log=[str(log)]))
    give_up = time.monotonic() + 10
    while "66%" not in err and time.monotonic() < give_up:
        time.sleep(0.05)
        err += capsys.readouterr().err
    handler.close()
    assert re.match(r" +sample digits-dit seed0 w2 n25 +0:2\d  decoding 66%\n", err)


def test_a_message_that_it_cannot_read_does_not_end_it(handler, capsys):
    handler.handle(record(event=LogEvent.JOB_FINISHED, job_id=99))
    handler.handle(record("Complete log(s): y"))
    assert capsys.readouterr().err.endswith("Complete log(s): y\n")


def run(folder, terminal=False):
    """Exit status and stderr of a run, in a terminal or a pipe."""
    (folder / "Snakefile").write_text(WORKFLOW)
    program = [sys.executable, "-m", "snakemake", "--logger", "brief", "--cores", "1", "--printshellcmds"]
    environment = os.environ | {"PYTHONPATH": str(PLUGINS), "TERM": "xterm"}
    ours, theirs = os.openpty() if terminal else os.pipe()
    with subprocess.Popen(program, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=theirs) as process:
        os.close(theirs)
        said = b""
        try:
            while part := os.read(ours, 65536):
                said += part
        except OSError:  # how a terminal ends
            pass
        os.close(ours)
    return process.returncode, said.decode().replace("\r\n", "\n")


def whole_log(said):
    return Path(re.search(r"^Complete log\(s\): (.+)$", said, re.M)[1]).read_text()


def test_a_run_that_fails_and_is_mended(tmp_path):
    """A failure in a pipe, the rest in a terminal; then there is nothing left to do."""
    (tmp_path / "source000000").touch()
    status, said = run(tmp_path)
    assert status == 1
    failed = r"FAILED  sample   tiny seed0 w2 001000 +\d:\d\d\n {8}cp: .*source001000.*\n {8}log: results/logs/sample/.*001000\.log\n"
    assert re.search(failed, said)
    assert "RuleException" not in said
    assert "RuleException" in whole_log(said)
    (tmp_path / "source001000").touch()
    status, said = run(tmp_path, terminal=True)
    assert status == 0
    assert re.search(r"^\[\d/\d\]   sample   tiny seed0 w2 001000 +\d:\d\d$", said, re.M)
    assert re.search(r"^\[(\d)/\1\]   tabulate +\d:\d\d$", said, re.M)
    assert "\x1b" not in said
    assert "reason: Missing output files" in whole_log(said)
    assert "Shell command: (echo 'sample: 1/2 (50%)" in whole_log(said)
    assert "reason" not in said
    assert "50%" not in said
    status, said = run(tmp_path)
    assert status == 0
    assert said.startswith("Nothing to be done")
