"""Checks the user's files before any job starts. A known URL is downloaded to a file.

Imports nothing heavy: Snakemake's input functions call this module at every start.
"""

import os
import time
from collections.abc import Collection, Sequence
from pathlib import Path

from agd.artifacts import downloads
from agd.artifacts.files import files_below
from agd.runtime.errors import UserError

_CLOCKS_DIFFER = 60  # seconds between the clocks of well-kept machines


def local(path: str | None) -> str | None:
    """Return the local path of a file. A known URL is downloaded into results/downloads/."""
    return f"results/downloads/{downloads.file_name(path)}" if path in downloads.KNOWN else path


def given(key: str, path: str | None, give: str, made_here: Collection[str] = ()) -> str:
    """Return the local path of the file that the user set `key` to. Checks that it exists or can be made or downloaded.

    give: what the user should give, for errors. made_here: files that a rule makes. Raises UserError that names the
    key.
    """
    if path is None:
        raise UserError(f"{key}: not set; give {give}")
    if path in downloads.KNOWN and not Path(local(path)).exists():
        downloads.reachable(path, key)
    if path not in [*downloads.KNOWN, *made_here] and not Path(path).exists():
        raise UserError(f"{key}: {path} is not there; give {give}")
    if Path(path).is_file() and path not in made_here:
        check_dates(key, [path])
    return local(path)


def check_dates(key: str, files: Sequence[str]) -> Sequence[str]:
    """Return the same files.

    Raises UserError if one is dated in the future: Snakemake would delete outputs made from it.
    """
    for file in files:
        if (when := Path(file).stat().st_mtime) > time.time() + _CLOCKS_DIFFER:
            raise UserError(f"{key}: {file} is dated {time.ctime(when)}, in the future; mend the clock, or `touch` it")
    return files


def date_as_of_now(folder: str | os.PathLike) -> list[Path]:
    """Set the date of files dated in the future to now, in a folder and its subfolders. Returns these files.

    Such a date comes from a wrong clock, here or on a file server. Snakemake would delete outputs made from such a
    file. It compares contents, so a new date alone causes no new job.
    """
    late = [file for file in files_below(folder) if file.stat().st_mtime > time.time()]
    for file in late:
        os.utime(file)
    return late
