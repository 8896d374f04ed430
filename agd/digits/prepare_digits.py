"""Stage `prepare_digits`: write the digits as a zip of PNG files, and their captions in COCO's layout.

They then serve as a reference and a source of prompts, like external data.

`python -m agd.digits.prepare_digits --output ZIP --annotations ZIP`
"""

import dataclasses
from collections.abc import Sequence

import torch

from agd.artifacts.files import can_write
from agd.artifacts.images import write_images
from agd.artifacts.provenance import provenance
from agd.artifacts.sealed_json import json_bytes
from agd.artifacts.zips import write_zip
from agd.digits.data import captions, digits
from agd.settings.entry_points import entry_point

STAGE = "prepare_digits"
_VALIDATION = 5  # every fifth group of ten images: most groups hold each digit once


@dataclasses.dataclass(frozen=True)
class Settings:
    """This stage has no settings."""


def annotations(names: list[str], sentences: list[str], indices: Sequence[int]) -> dict:
    """Return these images and captions in the layout of COCO's captions_{train,val}2017.json."""
    return {
        "images": [{"id": i, "file_name": f"{names[i]}.png"} for i in indices],
        "annotations": [{"id": i, "image_id": i, "caption": sentences[i]} for i in indices],
    }


def run(files, settings: Settings) -> None:
    """Write all images as `{index}-{label}.png`, and the captions in a training and a validation part."""
    for file in (files.output, files.annotations):
        can_write(file)  # check both first, or one could be written without the other
    images, labels = digits(files.slanted)
    names = [f"{i:04d}-{label}" for i, label in enumerate(labels.tolist())]
    as_bytes = (images * 255).round().to(torch.uint8).numpy()
    validation = [i for i in range(len(names)) if i // 10 % _VALIDATION == 0]
    training = [i for i in range(len(names)) if i // 10 % _VALIDATION]
    parts, sentences = {"train": training, "val": validation}, captions()
    entries = [
        (f"annotations/captions_{part}2017.json", json_bytes(annotations(names, sentences, indices)))
        for part, indices in parts.items()
    ]
    write_zip(files.annotations, entries)
    write_images(files.output, as_bytes, names, {"provenance": provenance(STAGE, {}, "cpu")})


main = entry_point(STAGE, family=None)

if __name__ == "__main__":
    main()
