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
_PARTS = ("transformer", "unet", "vae", "text_encoder", "text_encoder_2")  # those with weights that a family opens


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
    folder = safe_weights.converted(snapshot)
    names = ", ".join(str(file.relative_to(snapshot)) for file in pickles)
    print(f"{STAGE}: {names}: pickles, now safetensors in {folder}")
    return folder


def check_parts(folder: Path) -> None:
    """Raise UserError, naming the part, if weights that are read are missing."""
    for name in _PARTS:
        part = folder / name
        if not part.is_dir():
            continue
        plain = [file for file in part.glob("*.safetensors") if "." not in file.stem]
        if base_models.revision(folder) and not plain:  # in a folder of the user's, the next line says how to convert
            raise UserError(
                f"{part}: holds no weights that are read (*.safetensors with no variant in the name); give another model"
            )
        base_models.check_weights(part, of=folder)


def _git_sum(file: Path) -> str:
    content = file.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def run(files, settings: Settings) -> None:
    """Write the record of the base: its name, its revision, and the sha256 of every file that is read.

    It names no date and no machine: the same base gives the same bytes.
    """
    folder = base_models.locate(files.base_model, pickled=True)
    if base_models.revision(folder) and base_models.pickles(folder):
        folder = with_safe_weights(folder)
    check_parts(folder)
    with progress_bar(base_models.files(folder), STAGE) as bar:
        sums = {str(Path(file).relative_to(folder)): checked_sum(Path(file)) for file in bar}
    made = {"stage": STAGE, "stage_version": VERSIONS[STAGE]}
    named = {"name": files.base_model, "revision": base_models.revision(folder)}
    write_sealed(files.output, {"provenance": made, **named, "weights": sums})


main = entry_point(STAGE)

if __name__ == "__main__":
    main()
