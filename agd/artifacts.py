"""Files that are either whole or not there: written aside, flushed, renamed; zip files that vouch for every byte."""

import contextlib
import errno
import hashlib
import os
import re
import tempfile
import time
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from safetensors import SafetensorError

from agd.errors import UserError

_EPOCH = (1980, 1, 1, 0, 0, 0)  # a zip entry carries a date; a fixed one keeps equal contents equal bytes
_SEAL_LENGTH = 64  # hexadecimal sha256
_LARGEST_ENTRY = 1 << 30  # bytes; COCO's captions, the largest that are read, are 0.1 GiB
_END_RECORD = 22  # bytes of a zip's last record, which ends with the length of the comment
# A full disk, a quota, a limit on files, a disk that was made read-only.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
PART = ".part"  # how the name of a file that is being written ends


@contextlib.contextmanager
def writing(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a path to write to; it takes the name `path` when the block ends, and vanishes when the block fails.

    Raises UserError if the folder can't be made or written to, `path` is itself one, or the disk or a quota is full.
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
        with contextlib.suppress(OSError):  # on a disk that was made read-only it stays; agd.verify names it
            aside.unlink(missing_ok=True)


@contextlib.contextmanager
def folder_aside(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a folder beside `path` in which to make what `settle` then gives its name; it vanishes when the block ends.

    Raises UserError if the folder can't be made or written to, or if the disk or a quota is full.
    """
    path = Path(path)
    make_folder(path.parent)
    names = {"dir": path.parent, "prefix": f".{path.name}.", "suffix": PART}
    with room_for(path), tempfile.TemporaryDirectory(**names, ignore_cleanup_errors=True) as aside:
        yield Path(aside)


def settle(aside: Path, path: Path) -> None:
    """Give a file that is whole its final name, with all its bytes on the disk."""
    with open(aside, "rb") as file:
        os.fsync(file.fileno())
    os.replace(aside, path)
    _flush_folder(path.parent)


@contextlib.contextmanager
def room_for(path: str | os.PathLike) -> Iterator[None]:
    """Turn the errors of a disk that takes no more, within the block, into a UserError that names `path`."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        said = re.search(r"os error (\d+)", str(error))  # safetensors has the system's number only in its words
        number = int(said[1]) if said else getattr(error, "errno", None)
        if number not in _NO_ROOM:
            raise
        raise UserError(
            f"{path}: can't be written ({os.strerror(number)}); make room, or choose another folder, and run again"
        ) from None


def to_the_present(folder: str | os.PathLike) -> list[Path]:
    """Date the files of a folder (in depth) that are dated in the future as of now, and return them.

    A clock that was wrong, here or on a file server, is enough for Snakemake to throw away what is made from such a file. It
    compares contents, so that a new date alone makes nothing anew.
    """
    late = [file for file in Path(folder).rglob("*") if file.is_file() and file.stat().st_mtime > time.time()]
    for file in late:
        os.utime(file)
    return late


def can_write(path: str | os.PathLike) -> Path:
    """Make a file's folder, or raise a UserError that names what is in the way of writing the file."""
    path = Path(path)
    make_folder(path.parent)
    if path.is_dir():
        raise UserError(f"{path}: a folder is there; give the name of a file to write")
    return path


def make_folder(path: str | os.PathLike) -> Path:
    """Make a folder (and its parents) and prove that files can be written in it, or raise a UserError that names it."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise UserError(f"{path}: can't write here ({error.strerror}); choose a folder that you may write to") from None
    return path


def sha256(path: str | os.PathLike) -> str:
    """Hexadecimal sha256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_zip(path: str | os.PathLike, entries: Iterable[tuple[str, bytes]]) -> None:
    """Write a sealed zip: entries stored as they are, in the order given, the same bytes for the same entries.

    The archive's comment is the sha256 of everything before it, so that `open_zip` notices any change of any byte.
    """
    with writing(path) as aside:
        with zipfile.ZipFile(aside, "w", zipfile.ZIP_STORED) as archive:
            for name, data in entries:
                archive.writestr(zipfile.ZipInfo(name, _EPOCH), data)
            archive.comment = b"0" * _SEAL_LENGTH
        _seal(aside)


def _seal(path: Path) -> None:
    with open(path, "r+b") as file:
        digest = _digest(file, path.stat().st_size - _SEAL_LENGTH)
        file.write(digest)


def _digest(file, length: int) -> bytes:
    """sha256 of a file's first `length` bytes, as 64 hexadecimal digits; leaves the file at `length`."""
    hasher = hashlib.sha256()
    file.seek(0)
    while file.tell() < length:
        hasher.update(file.read(min(1 << 20, length - file.tell())))
    return hasher.hexdigest().encode()


def open_zip(path: str | os.PathLike) -> zipfile.ZipFile:
    """Open a sealed zip for reading after checking every byte of it.

    Raises UserError, naming the file, if it is missing, truncated or changed.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; make it first, or check the path")
    with open(path, "rb") as file:
        size = path.stat().st_size
        whole = size > _SEAL_LENGTH and _digest(file, size - _SEAL_LENGTH) == file.read(_SEAL_LENGTH)
    if not whole:
        raise UserError(f"{path}: damaged (its bytes don't match its checksum); delete it and run again")
    return zipfile.ZipFile(path)


def read_entry(archive: zipfile.ZipFile, name: str) -> bytes:
    """An entry of other people's zip, in memory. Raises UserError, naming it, if it would unpack to more than 1 GiB."""
    size = archive.getinfo(name).file_size  # no more than this is unpacked, whatever there is
    if size > _LARGEST_ENTRY:
        raise UserError(
            f"{archive.filename}/{name}: unpacks to {size} bytes, more than {_LARGEST_ENTRY}; unpack it yourself"
        )
    return archive.read(name)


def check_if_sealed(path: str | os.PathLike) -> None:
    """Check every byte of a zip if it is one of ours, which other people's readers open too; theirs carry no seal.

    Raises UserError, naming the file, if it was changed.
    """
    with open(path, "rb") as file:
        file.seek(max(0, os.path.getsize(path) - _END_RECORD - _SEAL_LENGTH))
        tail = file.read()
    end = tail[tail.rfind(b"PK\x05\x06") :]
    # Ours if 64 bytes follow the end record or if it says so: either alone may be what was damaged.
    if _SEAL_LENGTH in (len(end) - _END_RECORD, int.from_bytes(end[20:22], "little")):
        open_zip(path).close()


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


def seal_of(path: str | os.PathLike) -> str:
    """The sha256 that a sealed zip carries: the identity of its contents, without reading them."""
    with open(path, "rb") as file:
        file.seek(-_SEAL_LENGTH, os.SEEK_END)
        return file.read().decode()
