"""JSON records that vouch for their own bytes, and by `files` (name -> sha256) for the files beside them."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from agd.artifacts import sha256
from agd.errors import UserError
from agd.provenance import json_bytes, read_json

RECORD = "provenance.json"  # of a folder whose files are other people's formats


def sealed_json(record: dict) -> bytes:
    """A record as JSON with one more field, `sha256`, over the rest: `read_sealed` notices any change of any byte."""
    return json_bytes({**record, "sha256": hashlib.sha256(json_bytes(record)).hexdigest()})


def read_sealed(path: str | Path) -> dict:
    """Read what `sealed_json` gave, less its `sha256`. Raises UserError, naming the file, if it is missing or changed."""
    record = read_json(path)
    record.pop("sha256", None)
    if Path(path).read_bytes() != sealed_json(record):
        raise UserError(f"{path}: damaged (its bytes don't match its checksum); delete it and run again")
    return record


def vouch(folder: str | Path, names: Iterable[str]) -> dict[str, str]:
    """Name -> sha256 of files in a folder, for the field `files` of a record beside them."""
    return {name: sha256(Path(folder) / name) for name in names}


def check_files(record_path: str | Path, record: dict, *names: str) -> None:
    """Check files that a record vouches for: those named, or all. Raises UserError, naming the first that is missing,
    damaged, or another's."""
    for name in names or record["files"]:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise UserError(f"{record_path}: vouches for {name}, which is outside of its folder; make it again")
        file = Path(record_path).parent / name
        if not file.is_file():
            raise UserError(f"{file}: no such file; make it first, or check the path")
        if sha256(file) != record.get("files", {}).get(name):
            raise UserError(
                f"{file}: damaged, or another's (its checksum is not that in {Path(record_path).name} beside it); "
                f"delete it and run again"
            )


def check_folder(folder: str | Path, name: str | None = None) -> None:
    """Check a folder's files, or one, if it carries a record, as a base or prompts made here do. Other people's folders
    carry none, and a file that the record doesn't know is theirs."""
    path = Path(folder) / RECORD
    if path.is_file():
        record = read_sealed(path)
        if name is None or name in record["files"]:
            check_files(path, record, *([name] if name else []))
