"""Errors of other libraries become one line; a file is not blamed for what the machine lacks."""

import errno

import pytest
import torch

from agd.runtime.errors import UserError, errors_say, machine_limit
from agd.settings.entry_points import entry_point

LIMITS = {
    "memory": (MemoryError(), "not enough memory"),
    "memory for a tensor": (None, "not enough memory"),
    "memory of a GPU": (torch.OutOfMemoryError("CUDA out of memory."), "not enough memory"),
    "open files": (OSError(errno.EMFILE, "Too many open files"), "Too many open files"),
    "disk": (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
}


def stopped_by(error: Exception | None) -> None:
    if error is not None:
        raise error
    torch.empty(2**60, dtype=torch.int8)  # the CPU's allocator raises a RuntimeError


@pytest.mark.parametrize(("error", "limit"), LIMITS.values(), ids=LIMITS)
def test_a_file_is_not_blamed_for_the_machine(error, limit):
    with pytest.raises(UserError) as said, errors_say("model", lambda error: "model: damaged; fetch it again"):
        stopped_by(error)
    assert str(said.value) == f"model: {limit}; free some, or take a larger machine"


def test_any_other_error_is_the_files():
    for error in (ValueError("x"), OSError(errno.ENOENT, "No such file"), RuntimeError("odd"), ZeroDivisionError()):
        assert machine_limit(error) is None
        with pytest.raises(UserError, match="^damaged$"), errors_say("model", lambda error: "damaged"):
            raise error
    with pytest.raises(UserError, match="^own line$"), errors_say("model", lambda error: "damaged"):
        raise UserError("own line")


@pytest.mark.parametrize("kind", ["memory", "memory for a tensor", "memory of a GPU"])
def test_a_stage_without_memory_ends_with_one_line(kind, monkeypatch, tmp_path, capsys):
    error, limit = LIMITS[kind]
    monkeypatch.setattr("agd.settings.entry_points._run", lambda *_: stopped_by(error))
    (tmp_path / "lines.txt").write_text("a cat\n")
    with pytest.raises(SystemExit) as end:
        entry_point("prepare_prompts")(
            ["--captions", str(tmp_path / "lines.txt"), "--output-dir", str(tmp_path / "out")]
        )
    said = capsys.readouterr().err
    assert end.value.code == 2
    assert said.count("\n") == 1
    assert limit in said
