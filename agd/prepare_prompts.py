"""Stage `prepare_prompts`: draw prompts from COCO's captions, for trajectories and for samples.

Captions are ranked by a hash of the seed and their id. So the draw does not depend on the file's order, and a larger
draw begins with the same prompts.

`python -m agd.prepare_prompts --captions ZIP_OR_FOLDER --output-dir D`
"""

import dataclasses
import zipfile
from pathlib import Path
from typing import NamedTuple

from agd.artifacts.files import writing
from agd.artifacts.provenance import provenance
from agd.artifacts.sealed_json import RECORD, checksums, parse_json, write_sealed
from agd.artifacts.zips import check_if_sealed, read_entry
from agd.runtime.errors import UserError, errors_say
from agd.runtime.seeds import seed_of
from agd.settings import configuration
from agd.settings.entry_points import entry_point

STAGE = "prepare_prompts"
TRAINING, VALIDATION = "captions_train2017.json", "captions_val2017.json"
_WANTED = f"give COCO's annotations_trainval2017.zip, or a folder that holds {TRAINING} and {VALIDATION}"


@dataclasses.dataclass(frozen=True)
class Settings:
    """config/schema.yaml describes each field."""

    num_prompts: int
    seed: int


class Caption(NamedTuple):
    """One of several captions of an image."""

    id: int
    image_id: int
    text: str


def read_captions(source: Path, name: str) -> list[Caption]:
    """Read the captions of one COCO file, sorted by id, each on one line. Empty captions are left out.

    Raises UserError if the file is missing, damaged, of another layout, or has no captions.
    """
    data = _read(source, name)
    try:
        listed = parse_json(data)["annotations"]
        found = [Caption(each["id"], each["image_id"], " ".join(each["caption"].split())) for each in listed]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{source}: its {name} is not a file of COCO captions; {_WANTED}") from None
    captions = sorted(caption for caption in found if caption.text)
    if not captions:
        raise UserError(f"{source}: its {name} holds no captions; {_WANTED}")
    return captions


def _read(source: Path, name: str) -> bytes:
    """Read a file from the top of a folder or zip, or from its annotations/."""
    places = (name, f"annotations/{name}")
    missing = UserError(f"{source}: holds no {name}, neither at its top nor in annotations/; {_WANTED}")
    if source.is_dir():
        found = [source / place for place in places if (source / place).is_file()]
        if not found:
            raise missing
        return found[0].read_bytes()
    if not source.exists():
        raise UserError(f"{source}: no such file or folder; {_WANTED}")
    check_if_sealed(source)
    with (
        errors_say(str(source), lambda _: f"{source}: no zip, or a damaged one; {_WANTED}"),
        zipfile.ZipFile(source) as archive,
    ):
        found = [place for place in places if place in archive.namelist()]
        if not found:
            raise missing
        return read_entry(archive, found[0])


def draw(captions: list[Caption], number: int, seed: int) -> list[str]:
    """Draw captions at random, without repeats. (Different captions may have the same text.)"""
    ranked = sorted(captions, key=lambda caption: seed_of(seed, "trajectories", caption.id))
    return [caption.text for caption in ranked[:number]]


def draw_per_image(captions: list[Caption], seed: int) -> list[str]:
    """Draw one caption of each image at random, sorted by image id."""
    chosen: dict[int, Caption] = {}
    for caption in sorted(captions, key=lambda caption: seed_of(seed, "samples", caption.id)):
        chosen.setdefault(caption.image_id, caption)
    return [chosen[image].text for image in sorted(chosen)]


def run(files, settings: Settings) -> None:
    """Write trajectories.txt and samples.txt, one prompt per line, and provenance.json with their checksums."""
    source = Path(files.captions)
    training, validation = read_captions(source, TRAINING), read_captions(source, VALIDATION)
    if len(training) < settings.num_prompts:
        raise UserError(
            f"num_prompts: {settings.num_prompts} is more than the {len(training)} captions for training in {source}; lower it"
        )
    drawn = {
        "trajectories": draw(training, settings.num_prompts, settings.seed),
        "samples": draw_per_image(validation, settings.seed),
    }
    folder = Path(files.output_dir)
    for name, prompts in drawn.items():
        with writing(folder / f"{name}.txt") as aside:
            aside.write_text("".join(f"{prompt}\n" for prompt in prompts), encoding="utf-8")
    made = provenance(STAGE, configuration.recorded(STAGE, settings), "cpu")
    write_sealed(folder / RECORD, {"provenance": made, "files": checksums(folder, [f"{name}.txt" for name in drawn])})


main = entry_point(STAGE)

if __name__ == "__main__":
    main()
