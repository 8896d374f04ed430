"""Writes files whole or not at all: write a temporary file, flush it, then rename it."""

import contextlib
import errno
import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from agd.runtime import claims
from agd.runtime.errors import UserError

# The disk is full, a quota or file limit is reached, or the disk became read-only.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
PART = ".part"  # suffix of a file that is being written


@contextlib.contextmanager
def writing(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path. When the block ends, the file is renamed to `path`; if the block fails, it is deleted.

    Raises UserError if the folder can't be made or written to, if `path` is a folder, or if the disk or a quota is
    full.
    """
    path = can_write(path)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=PART, dir=path.parent)
    os.close(handle)
    aside = Path(name)
    try:
        with room_for(path):
            yield aside
            os.chmod(aside, 0o666 & ~_umask())
            settle(aside, path)
    finally:
        with contextlib.suppress(OSError):  # on a read-only disk the file stays; agd.verify reports it
            aside.unlink(missing_ok=True)


@contextlib.contextmanager
def folder_aside(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary folder beside `path`, deleted when the block ends. `settle` moves files out of it.

    Raises UserError if the folder can't be made or written to, or if the disk or a quota is full.
    """
    path = Path(path)
    make_folder(path.parent)
    names = {"dir": path.parent, "prefix": f".{path.name}.", "suffix": PART}
    with room_for(path), tempfile.TemporaryDirectory(**names, ignore_cleanup_errors=True) as aside:
        yield Path(aside)


def settle(aside: Path, path: Path) -> None:
    """Flush a complete file to the disk, then rename it to its final name.

    Raises UserError if a job that began later makes the same.
    """
    claims.check(path)
    with open(aside, "rb") as file:
        os.fsync(file.fileno())
    claims.check(path)  # again: the disk may have taken long
    os.replace(aside, path)
    claims.settled()
    _flush_folder(path.parent)


@contextlib.contextmanager
def room_for(path: str | os.PathLike) -> Iterator[None]:
    """Convert errors of a full or read-only disk within the block into a UserError that names `path`."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        said = re.search(r"os error (\d+)", str(error))  # safetensors gives the error number only in its message
        number = int(said[1]) if said else getattr(error, "errno", None)
        if number not in _NO_ROOM:
            raise
        raise UserError(
            f"{path}: can't be written ({os.strerror(number)}); make room, or choose another folder, and run again"
        ) from None


def can_write(path: str | os.PathLike) -> Path:
    """Make the file's folder. Raises UserError, naming the obstacle, if the file can't be written."""
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path}: a folder is there; give the name of a file to write")
    if path.exists() and not path.is_file():
        raise UserError(f"{path}: no ordinary file, and would be replaced by one; give the name of a file to write")
    make_folder(path.parent)
    return path


def files_below(folder: str | os.PathLike) -> list[Path]:
    """Return the files in a folder and its subfolders, sorted. Subfolders may be links, for example to a larger disk."""
    return [path for path in all_below(folder) if path.is_file()]


def all_below(folder: str | os.PathLike) -> list[Path]:
    """Return all that is in a folder and its subfolders, sorted: files, folders, pipes, links to nothing ..."""
    found, seen = [], set()
    for place, folders, names in os.walk(folder, followlinks=True):
        status = os.stat(place)
        if (status.st_dev, status.st_ino) in seen:  # a link to a folder that contains it
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        found += [Path(place, name) for name in (*folders, *names)]
    return sorted(found)


def make_folder(path: str | os.PathLike) -> Path:
    """Make a folder and its parents, and check that files can be written there.

    Raises UserError that names the folder.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise UserError(f"{path}: can't write here ({error.strerror}); choose a folder that you may write to") from None
    return path


def sha256(path: str | os.PathLike) -> str:
    """Return the hexadecimal sha256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _flush_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
