"""Processes that read a training's data fit into the machine's shared memory."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from agd.runtime import processes


@pytest.mark.parametrize(
    ("megabytes", "trainings", "number"), [(1000, 1, 4), (64, 1, 1), (64, 2, 0), (40, 1, 0)], ids=str
)
def test_as_many_workers_as_shared_memory_holds(megabytes, trainings, number, monkeypatch, capsys):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=megabytes * 1_000_000))
    assert processes.workers(4, 17_000_000, trainings, Path("/")) == number
    said = capsys.readouterr().out
    want = 4 * 3 * 17 * trainings
    line = f"num_workers: 4 want {want} MB in /, which has {megabytes}; going on with {number} "
    what_to_do = f"(`docker run --shm-size {want}m` or the like gives more)\n"
    assert said == ("" if number == 4 else line + what_to_do)


def test_where_there_is_no_such_memory_all_work(tmp_path):
    assert processes.workers(4, 1 << 40, 1, tmp_path / "nothing") == 4
