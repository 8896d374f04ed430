"""Writes and reads sealed zips, which carry their own checksum, and safely reads external zips."""

import hashlib
import os
import zipfile
from collections.abc import Iterable
from pathlib import Path

from agd.artifacts.files import writing
from agd.artifacts.sealed_json import absent, with_its_record
from agd.runtime.errors import UserError

_EPOCH = (1980, 1, 1, 0, 0, 0)  # a zip entry carries a date; a fixed date keeps equal contents equal in bytes
_SEAL_LENGTH = 64  # hexadecimal sha256
_LARGEST_ENTRY = 1 << 30  # bytes; the largest entry in use, COCO's captions, has 0.1 GiB
_END_RECORD = 22  # bytes of a zip's last record without the comment; it ends with the comment's length


def write_zip(path: str | os.PathLike, entries: Iterable[tuple[str, bytes]]) -> None:
    """Write a sealed zip: uncompressed entries in the given order. Equal entries give equal bytes.

    The archive's comment is the sha256 of everything before it, so `open_zip` notices any changed byte.
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
    """Return the sha256 of a file's first `length` bytes, as 64 hexadecimal digits. Leaves the file at `length`."""
    hasher = hashlib.sha256()
    file.seek(0)
    while file.tell() < length:
        hasher.update(file.read(min(1 << 20, length - file.tell())))
    return hasher.hexdigest().encode()


def open_zip(path: str | os.PathLike) -> zipfile.ZipFile:
    """Open a sealed zip for reading, after checking every byte.

    Raises UserError, naming the file, if it is missing, truncated or changed.
    """
    path = Path(path)
    if not path.is_file():
        raise absent(path)
    with open(path, "rb") as file:
        size = path.stat().st_size
        whole = size > _SEAL_LENGTH and _digest(file, size - _SEAL_LENGTH) == file.read(_SEAL_LENGTH)
    if not whole:
        what = with_its_record(path)
        raise UserError(f"{path}: damaged (its bytes don't match its checksum); delete {what} and run again")
    return zipfile.ZipFile(path)


def read_entry(archive: zipfile.ZipFile, name: str) -> bytes:
    """Read an entry of an external zip into memory. Raises UserError, naming it, if it unpacks to more than 1 GiB."""
    size = archive.getinfo(name).file_size  # zipfile unpacks no more bytes than this
    if size > _LARGEST_ENTRY:
        raise UserError(
            f"{archive.filename}/{name}: unpacks to {size} bytes, more than {_LARGEST_ENTRY}; unpack it yourself"
        )
    return archive.read(name)


def check_if_sealed(path: str | os.PathLike) -> None:
    """Check every byte of a zip if it is sealed. External zips have no seal and pass; the same readers open both.

    Raises UserError, naming the file, if it was changed.
    """
    with open(path, "rb") as file:
        file.seek(max(0, os.path.getsize(path) - _END_RECORD - _SEAL_LENGTH))
        tail = file.read()
    end = tail[tail.rfind(b"PK\x05\x06") :]
    # Sealed if 64 bytes follow the end record, or if the record says so: either of the two may be damaged.
    if _SEAL_LENGTH in (len(end) - _END_RECORD, int.from_bytes(end[20:22], "little")):
        open_zip(path).close()


def seal_of(path: str | os.PathLike) -> str:
    """Return the sha256 in a sealed zip. It identifies the contents without reading them."""
    with open(path, "rb") as file:
        file.seek(max(0, os.path.getsize(path) - _SEAL_LENGTH))
        return file.read().decode("ascii", "replace")
