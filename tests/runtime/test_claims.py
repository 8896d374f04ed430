"""The job that began last puts its result in place, whichever ends last."""

import argparse
import os
import socket
import subprocess
import sys

import pytest
from coco import coco, write_captions
from studies import ROOT

from agd.artifacts.files import writing
from agd.runtime import claims
from agd.runtime.errors import UserError
from agd.settings import entry_points


def words(source, folder):
    return ["--captions", str(source), "--output-dir", str(folder)]


def captions(folder, word):
    folder.mkdir()
    made = coco({image: [f"{word} sentence {image}-{i}" for i in range(5)] for image in range(300)})
    return write_captions(folder, made, made)


def test_an_orphan_leaves_a_newer_result_alone(tmp_path, monkeypatch, capsys):
    old, new, folder = captions(tmp_path / "old", "old"), captions(tmp_path / "new", "new"), tmp_path / "results" / "p"
    run = entry_points._run

    def slow(*arguments):  # while the first job is at work, a second one begins and ends
        command = [sys.executable, "-m", "agd.prepare_prompts", *words(new, folder)]
        subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
        run(*arguments)

    monkeypatch.setattr(entry_points, "_run", slow)
    with pytest.raises(SystemExit) as end:
        entry_points.entry_point("prepare_prompts")(words(old, folder))
    said = capsys.readouterr().err
    assert end.value.code == 2
    assert "a job that began later makes this" in said
    assert said.count("\n") == 1
    assert (folder / "samples.txt").read_text().startswith("new")
    assert not [file for file in folder.iterdir() if file.name.startswith(".")]

    monkeypatch.setattr(entry_points, "_run", run)  # by itself it is obeyed
    entry_points.entry_point("prepare_prompts")(words(old, folder))
    assert (folder / "samples.txt").read_text().startswith("old")


def test_a_newer_job_that_made_nothing_does_not_count(tmp_path, monkeypatch, capsys):
    """It fails at once, or is killed: the earlier job goes on, and puts its result in place."""
    old, folder = captions(tmp_path / "old", "old"), tmp_path / "results" / "p"
    run = entry_points._run

    def other(code):
        return subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False)

    def slow(*arguments):
        command = [sys.executable, "-m", "agd.prepare_prompts", *words(tmp_path / "nosuch.zip", folder)]
        assert subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False).returncode == 2
        place = folder / ".prepare_prompts.claim.part"
        killed = f"import os, pathlib\nfrom agd.runtime import claims\nwith claims.claimed(pathlib.Path({str(place)!r})): os._exit(9)"
        assert other(killed).returncode == 9
        run(*arguments)

    monkeypatch.setattr(entry_points, "_run", slow)
    entry_points.entry_point("prepare_prompts")(words(old, folder))
    assert (folder / "samples.txt").read_text().startswith("old")
    assert not [file for file in folder.iterdir() if file.name.startswith(".")]


def test_a_disk_that_takes_long_is_no_way_around(tmp_path, monkeypatch):
    """A newer job begins and ends while the older one's file goes to the disk."""
    path, place, real = tmp_path / "x", tmp_path / ".x.claim.part", os.fsync

    def slow(handle):
        real(handle)
        place.unlink(missing_ok=True)  # it has come and gone
        path.write_text("new")

    with claims.claimed(place):
        monkeypatch.setattr(os, "fsync", slow)
        with (
            pytest.raises(UserError, match="a job that began later makes this, or has made it"),
            writing(path) as aside,
        ):
            aside.write_text("old")
    assert path.read_text() == "new"


def test_a_killed_jobs_claim_is_taken_over(tmp_path):
    path = tmp_path / ".x.claim.part"
    killed = subprocess.Popen([sys.executable, "-c", ""])
    killed.wait()
    path.write_text(f"{socket.gethostname()} {killed.pid} 0")
    with claims.claimed(path):
        claims.check(tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_a_link_in_the_claims_place_is_not_followed(tmp_path):
    (tmp_path / "precious").write_text("mine")
    (tmp_path / ".x.claim.part").symlink_to(tmp_path / "precious")
    with claims.claimed(tmp_path / ".x.claim.part"):
        claims.check(tmp_path / "x")
    assert (tmp_path / "precious").read_text() == "mine"


def test_folders_that_stay_empty_are_taken_away(tmp_path):
    with claims.claimed(tmp_path / "a" / "b" / ".x.claim.part"):
        assert (tmp_path / "a" / "b").is_dir()
    assert list(tmp_path.iterdir()) == []
    with claims.claimed(tmp_path / "a" / "b" / ".x.claim.part"):
        (tmp_path / "a" / "kept").touch()
    assert [file.name for file in tmp_path.rglob("*")] == ["a", "kept"]


@pytest.mark.parametrize("path", [None, "/proc/nowhere/.x.claim.part"])
def test_without_a_claim_nothing_is_checked(path, tmp_path):
    with claims.claimed(path and claims.Path(path)):
        claims.check(tmp_path / "x")


PARTS = {
    "a file": (("prepare_reference", dict(output="r/ref.npz")), "r/.ref.npz.claim.part"),
    "a chunk": (("sample_trajectories", dict(output_dir="t", first=50)), "t/.sample_trajectories-50.claim.part"),
    "a table": (("tabulate_runs", dict(output_dir="t", table="main")), "t/.tabulate_runs-main.claim.part"),
    "a figure": (("draw_runs", dict(output_dir="t", table="t/main.json")), "t/.draw_runs-main.claim.part"),
    "a training": (("train", dict(dir="r")), "r/.train.claim.part"),
    "samples": (("sample", dict(dir="r", output_dir="s", first=0)), "s/.sample-0.claim.part"),
    "nothing yet": (("calculate_metrics", dict(output=None)), None),
}


@pytest.mark.parametrize(("job", "place"), PARTS.values(), ids=PARTS)
def test_jobs_for_other_files_have_other_claims(job, place):
    stage, files = job
    found = claims.place(stage, argparse.Namespace(**files))
    assert (found and str(found)) == place
