"""Stage `prepare_digits`: the digits as a zip of PNG files and their captions as COCO lays them out, so that they are a
reference and a source of prompts like any other.

`python -m agd.digits.prepare_digits --output ZIP --annotations ZIP`
"""

import dataclasses
from collections.abc import Sequence

import torch

from agd.artifacts import can_write, write_zip
from agd.cli import door
from agd.digits.data import captions, digits
from agd.images import write_images
from agd.provenance import json_bytes, provenance

STAGE = "prepare_digits"
_VALIDATION = 5  # every fifth ten of images: most tens hold each digit once


@dataclasses.dataclass(frozen=True)
class Settings:
    """There is nothing to set."""


def annotations(names: list[str], sentences: list[str], indices: Sequence[int]) -> dict:
    """Some of the images and their captions, in the layout of COCO's captions_{train,val}2017.json."""
    return {
        "images": [{"id": i, "file_name": f"{names[i]}.png"} for i in indices],
        "annotations": [{"id": i, "image_id": i, "caption": sentences[i]} for i in indices],
    }


def run(files, settings: Settings) -> None:
    """Write `{index}-{label}.png`, all of them, and the captions in two parts, for training and for validation."""
    for file in (files.output, files.annotations):
        can_write(file)  # or one would be left without the other
    images, labels = digits()
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


main = door(STAGE, family=None)

if __name__ == "__main__":
    main()
