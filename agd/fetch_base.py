"""Stage `fetch_base`: fetch a base model from the hub into its local cache, whole and checked, before any job needs a GPU.

`python -m agd.fetch_base --base-model OWNER/NAME[@REVISION] --output FILE`
"""

import dataclasses
import hashlib
from pathlib import Path

from agd.artifacts.files import sha256
from agd.artifacts.sealed_json import write_sealed
from agd.diffusion import base_models
from agd.runtime.errors import UserError
from agd.runtime.progress import progress_bar
from agd.settings.entry_points import entry_point
from agd.settings.versions import VERSIONS

STAGE = "fetch_base"
_SHA256, _SHA1 = 64, 40  # hexadecimal digits


@dataclasses.dataclass(frozen=True)
class Settings:
    """This stage has no settings."""


def checked_sum(file: Path) -> str:
    """Return a file's sha256. In the hub's cache, a file is a link to one that is named by its checksum; Raises UserError if
    it is another's: the sha256 of a large file, and git's sha1 of a small one."""
    found, name = sha256(file), file.resolve().name
    right = {_SHA256: found, _SHA1: _git_sum(file) if len(name) == _SHA1 else ""}.get(len(name), name)
    if name != file.name and right != name:
        raise UserError(f"{file}: damaged (its bytes don't match its checksum); delete {file.resolve()} and run again")
    return found


def _git_sum(file: Path) -> str:
    content = file.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def run(files, settings: Settings) -> None:
    """Write the record of the base: its name, its revision, and the sha256 of every file that is read.

    It names no date and no machine: the same base gives the same bytes.
    """
    if Path(files.base_model).exists():
        raise UserError(f"--base-model: {files.base_model} is a folder here; only models on the hub are fetched")
    folder = base_models.locate(files.base_model)
    with progress_bar(base_models.files(folder), STAGE) as bar:
        sums = {str(Path(file).relative_to(folder)): checked_sum(Path(file)) for file in bar}
    made = {"stage": STAGE, "stage_version": VERSIONS[STAGE]}
    named = {"name": files.base_model, "revision": base_models.revision(folder)}
    write_sealed(files.output, {"provenance": made, **named, "weights": sums})


main = entry_point(STAGE)

if __name__ == "__main__":
    main()
