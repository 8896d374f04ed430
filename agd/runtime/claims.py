"""Decides which job may put its result in place: the one that began last.

A job can outlive the Snakemake that started it. If its settings were changed meanwhile, a newer job makes the same files,
and the old one, ending later, would replace them. So a job writes a claim beside its outputs when it begins, and looks
at it before it puts a file in place. A newer job that was killed, or ended before it made anything, does not count.
"""

import contextlib
import os
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path

from agd.runtime.errors import UserError

_PARTS_OF_THE_WORK = ("first", "table", "name")  # jobs that differ in one of these write other files of a folder
_held: tuple[Path, bytes] | None = None  # of this process: the claim's file, and what we wrote there
_settled = False  # whether this process has put a file in place


def place(stage: str, files, suffix: str = ".claim.part") -> Path | None:
    """Return the file of a job's claim: beside its output, or in its output folder. None if it names neither.

    files: the stage's file arguments.
    """
    if output := getattr(files, "output", None):
        return Path(output).with_name(f".{Path(output).name}{suffix}") if Path(output).name else None
    if not (folder := getattr(files, "output_dir", None) or getattr(files, "dir", None)):
        return None
    parts = [str(getattr(files, name)) for name in _PARTS_OF_THE_WORK if getattr(files, name, None) is not None]
    return Path(folder) / f".{'-'.join([stage, *(Path(part).stem for part in parts)])}{suffix}"


@contextlib.contextmanager
def claimed(path: Path | None) -> Iterator[None]:
    """Hold a claim within the block, in place of an older job's. Folders that are made for it and stay empty are deleted.

    Without a claim (path None, or a folder that can't be written to) nothing is held and nothing is checked. Of a
    training's processes only the first writes files.
    """
    global _held, _settled
    first = os.environ.get("RANK", "0") == "0"
    token = f"{socket.gethostname()} {os.getpid()} {secrets.token_hex(16)}".encode()
    earlier = _read(path) if path and first else None
    if path is None or not first or not (made := _begin(path, token)):
        yield
        return
    _held, _settled = (path, token), False
    try:
        yield
    finally:
        _held = None
        with contextlib.suppress(OSError):
            if (now := _read(path)) == token or _is_dead(now):
                path.unlink()
                # An earlier job may go on, if this one has put nothing in place.
                if earlier and not _settled and not _is_dead(earlier):
                    _write(path, earlier)
            for folder in made[1:]:
                folder.rmdir()


def check(path: Path) -> None:
    """Raise UserError if a job that began later has claimed what this process is about to put at `path`."""
    if _held is None:
        return
    now = _read(_held[0])
    if now != _held[1] and not _is_dead(now):
        raise UserError(
            f"{path}: a job that began later makes this, or has made it, and this one leaves it alone; nothing is to be done"
        )


def settled() -> None:
    """Say that this process has put a file in place."""
    global _settled
    _settled = True


def _is_dead(claim: bytes | None) -> bool:
    """Return whether a claim is of a process of this machine that is no more. It was killed: others take theirs away."""
    host, pid, *_ = [*(claim or b"").decode(errors="replace").split(" "), "", ""]
    if host != socket.gethostname() or not pid.isdecimal():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except OSError:  # another user's
        return False
    return False


def _read(path: Path) -> bytes | None:
    with contextlib.suppress(OSError):
        return path.read_bytes() if path.is_file() and not path.is_symlink() else None
    return None


def _begin(path: Path, token: bytes) -> list[Path]:
    """Write the claim. Returns its file and the folders that were made for it, innermost first; empty if it can't be."""
    missing = [folder for folder in path.parents if not folder.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, token)
    except OSError:  # no room, or no right to write
        with contextlib.suppress(OSError):
            path.unlink()
        return []
    return [path, *missing]


def _write(path: Path, token: bytes) -> None:
    path.unlink(missing_ok=True)  # what is there may be a link
    with open(path, "xb") as file:
        file.write(token)
