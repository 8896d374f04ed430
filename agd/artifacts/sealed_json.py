"""Reads and writes JSON: external files, and sealed records. A sealed record carries its own checksum; its `files`
(name -> sha256) holds checksums of files beside it."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from agd.artifacts.files import sha256, writing
from agd.runtime.errors import UserError

RECORD = "provenance.json"  # the record in a folder of files in external formats


def parse_json(text: str | bytes) -> dict:
    """Parse a JSON object of a stranger's. Raises ValueError for everything else, and where it is nested too deep."""
    try:
        found = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deep") from None
    if not isinstance(found, dict):
        raise ValueError("no JSON object")
    return found


def read_json(path: Path, *keys: str) -> dict:
    """Read a JSON object that has these keys. Raises UserError, naming the file, if it is something else."""
    try:
        found = parse_json(Path(path).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path}: no such file; make it first, or check the path") from None
    except (ValueError, IsADirectoryError):
        raise UserError(f"{path}: not a JSON file; delete it and run again") from None
    if missing := [key for key in keys if found.get(key) is None]:
        raise UserError(f"{path}: says nothing of {missing[0]}; fetch the model again")
    return found


def json_bytes(record: dict) -> bytes:
    """Return JSON with sorted keys and a final newline: equal records give equal bytes."""
    return (json.dumps(record, indent=2, sort_keys=True, allow_nan=False) + "\n").encode()


def sealed_json(record: dict) -> bytes:
    """Return a record as JSON with one more field, `sha256`, over the rest: `read_sealed` notices any changed byte."""
    return json_bytes({**record, "sha256": hashlib.sha256(json_bytes(record)).hexdigest()})


def write_sealed(path: str | Path, record: dict) -> None:
    """Write a sealed record, whole or not at all."""
    with writing(path) as aside:
        aside.write_bytes(sealed_json(record))


def read_sealed(path: str | Path) -> dict:
    """Read a sealed record, without its `sha256`. Raises UserError, naming the file, if it is missing or changed."""
    record = read_json(path)
    record.pop("sha256", None)
    try:
        whole = Path(path).read_bytes() == sealed_json(record)
    except ValueError:  # a number beyond all numbers, which no record of ours holds
        whole = False
    if not whole:
        raise UserError(f"{path}: damaged (its bytes don't match its checksum); delete it and run again")
    return record


def record_beside(path: str | Path) -> Path:
    """Return where the small record of a large file is, if it has one: `000000.zarr.json` of `000000.zarr.zip`."""
    return Path(path).with_suffix(".json")


def with_its_record(path: str | Path) -> str:
    """Return what to delete with a bad file, in words: `it`, and its record if there is one."""
    return f"it and {record_beside(path).name}" if is_recorded(path) else "it"


def absent(
    path: str | Path, otherwise: str = "no such file; make it first, or check the path", more: int = 0
) -> UserError:
    """Return the error for a file that is not there. otherwise: what it says if there is no record of the file either.
    more: how many others are missing likewise."""
    return _lost(path, record_beside(path), more) if is_recorded(path) else UserError(f"{path}: {otherwise}")


def _lost(path: str | Path, record: Path, more: int = 0) -> UserError:
    others, what = (f", and so are {more} more", "their records") if more else ("", "that")
    return UserError(f"{path}: missing, while {record.name} tells of it{others}; delete {what} too, and run again")


def is_recorded(path: str | Path) -> bool:
    """Return whether a file, which need not be there, has a record beside it: not somebody else's JSON of that name."""
    try:
        record = parse_json(record_beside(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return Path(path).name in (record.get("shard"), *(record.get("files") or ()))


def checksums(folder: str | Path, names: Iterable[str]) -> dict[str, str]:
    """Return name -> sha256 of files in a folder, for the field `files` of a record beside them."""
    return {name: sha256(Path(folder) / name) for name in names}


def check_files(record_path: str | Path, record: dict, *names: str) -> None:
    """Check the named files of a record, or all. Raises UserError, naming the first file that is missing, damaged, or
    not the one recorded."""
    for name in names or record["files"]:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise UserError(f"{record_path}: lists {name}, which is outside of its folder; make it again")
        file = Path(record_path).parent / name
        if not file.is_file():
            raise _lost(file, Path(record_path))
        if sha256(file) != record.get("files", {}).get(name):
            raise UserError(
                f"{file}: damaged, or another's (its checksum is not that in {Path(record_path).name}); "
                f"delete both, and run again"
            )


def check_folder(folder: str | Path, name: str | None = None) -> None:
    """Check a folder's files, or one of them, against the folder's record. Bases and prompts made here have a record.
    External folders have none, and files that are not in the record are not checked."""
    path = Path(folder) / RECORD
    if path.is_file():
        record = read_sealed(path)
        if name is None or name in record["files"]:
            check_files(path, record, *([name] if name else []))
