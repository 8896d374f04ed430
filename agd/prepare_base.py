"""Stage `prepare_base`: read a base model whole, once, and write down its checksums. One on the hub is fetched first.

`python -m agd.prepare_base --base-model M --output FILE`

Weights that are pickles on the hub are converted to safetensors, once, beside the hub's cached files. Every later job depends
on this small record instead of on gigabytes, and needs no internet.
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

STAGE = "prepare_base"
_SHA256 = 64  # hexadecimal digits


@dataclasses.dataclass(frozen=True)
class Settings:
    """This stage has no settings."""


def checked_sum(file: Path) -> str:
    """Return a file's sha256.

    In the hub's cache, a file is a link to one that is named by its checksum: sha256 of large files, git's sha1 of small
    ones. Raises UserError if that is another's.
    """
    found, cached = sha256(file), file.resolve()
    if cached.parent.name != "blobs":  # not the hub's cache
        return found
    if cached.name != (found if len(cached.name) == _SHA256 else _git_sum(file)):
        raise UserError(f"{file}: damaged (its bytes don't match its checksum); delete {cached} and run again")
    return found


def with_safe_weights(snapshot: Path) -> Path:
    """Convert a snapshot's pickles, once they are known to be what the hub has. Returns the folder with safetensors."""
    from agd.diffusion import safe_weights

    pickles = base_models.pickles(snapshot)
    for file in pickles:
        checked_sum(file)
    folder = safe_weights.convert(snapshot)
    print(
        f"{STAGE}: {', '.join(str(file.relative_to(snapshot)) for file in pickles)}: pickles, now safetensors in {folder}"
    )
    return folder


def _git_sum(file: Path) -> str:
    content = file.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def run(files, settings: Settings) -> None:
    """Write the record of the base: its name, its revision, and the sha256 of every file that is read.

    It names no date and no machine: the same base gives the same bytes.
    """
    folder = base_models.locate(files.base_model, pickled=True)
    folder = with_safe_weights(folder) if base_models.pickles(folder) and base_models.revision(folder) else folder
    with progress_bar(base_models.files(folder), STAGE) as bar:
        sums = {str(Path(file).relative_to(folder)): checked_sum(Path(file)) for file in bar}
    made = {"stage": STAGE, "stage_version": VERSIONS[STAGE]}
    named = {"name": files.base_model, "revision": base_models.revision(folder)}
    write_sealed(files.output, {"provenance": made, **named, "weights": sums})


main = entry_point(STAGE)

if __name__ == "__main__":
    main()
