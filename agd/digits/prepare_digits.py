"""Stage `prepare_digits`: the digits as a zip of PNG files, so that they are a reference like any other.

`python -m agd.digits.prepare_digits --output ZIP`
"""

import dataclasses

import torch

from agd.cli import door
from agd.digits.data import digits
from agd.images import write_images
from agd.provenance import provenance

STAGE = "prepare_digits"


@dataclasses.dataclass(frozen=True)
class Settings:
    """There is nothing to set."""


def run(files, settings: Settings) -> None:
    """Write `{index}-{label}.png`, all of them."""
    images, labels = digits()
    names = [f"{i:04d}-{label}" for i, label in enumerate(labels.tolist())]
    as_bytes = (images * 255).round().to(torch.uint8).numpy()
    write_images(files.output, as_bytes, names, {"provenance": provenance(STAGE, {}, "cpu")})


main = door(STAGE, family=None)

if __name__ == "__main__":
    main()
