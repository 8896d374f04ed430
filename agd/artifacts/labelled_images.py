"""Real images with their classes, to add noise to: a folder per class, or names that end with the class."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from agd.artifacts.files import sha256
from agd.artifacts.images import centre_crop, iterate_images, list_images
from agd.artifacts.provenance import digest
from agd.runtime.errors import UserError


class LabelledImages:
    """The images of a folder or zip that show given classes. identity: of the images in use, for provenance.

    Classes are the numbers at the end of names such as 0012-7.png, if all images have one. If not, they are the folders, of one
    level: their names if all are numbers, or their places in alphabetical order, as torchvision's ImageFolder counts them.
    classes: which to keep. total: how many classes the model has; ordered folders must be as many.
    Raises UserError if the images say no classes, or none shows those asked for.
    """

    def __init__(self, source: str | Path, classes: Sequence[int], total: int):
        self.source, wanted = source, set(classes)
        names = list_images(source)
        labels = {name: _label_at_end(name) for name in names}
        if None in labels.values():
            labels = _labels_of_folders(source, names, total)
        self.labels = {name: label for name, label in labels.items() if label in wanted}
        if not self.labels:
            raise UserError(f"{source}: shows none of the classes asked for (class_labels); give images of them")
        self.names = list(self.labels)

    @property
    def identity(self) -> str:
        """The sha256 of a zip; of a folder, over names, classes and sizes, for its images may be many gigabytes."""
        folder = Path(self.source)
        if folder.is_file():
            return sha256(folder)
        return digest(f"{name} {label} {(folder / name).stat().st_size}" for name, label in self.labels.items())

    def drawn(self, draw: Sequence[torch.Generator]) -> tuple[list[Image.Image], list[int]]:
        """Draw an image per generator. Returns the images and their classes."""
        names = [self.names[torch.randint(len(self.names), (), generator=g)] for g in draw]
        return list(iterate_images(self.source, names)), [self.labels[name] for name in names]


def _labels_of_folders(source: str | Path, names: list[str], total: int) -> dict[str, int]:
    """Return name -> class, of images in a folder per class."""
    parts = [Path(name).parts for name in names]
    while len({one[0] for one in parts}) == 1 and min(map(len, parts)) > 2:  # one folder around all the others
        parts = [one[1:] for one in parts]
    if {len(one) for one in parts} != {2}:
        odd = next(name for name, one in zip(names, parts, strict=True) if len(one) != 2)
        raise UserError(
            f"{source}: {odd} says no class; give a folder for each class and nothing else, or names such as 0012-7.png"
        )
    folders = sorted({one[0] for one in parts})
    if all(folder.isdecimal() for folder in folders):
        return {name: int(one[0]) for name, one in zip(names, parts, strict=True)}
    if len(folders) != total:
        raise UserError(
            f"{source}: has {len(folders)} folders, and the model {total} classes; give a folder for each class"
        )
    place = {folder: i for i, folder in enumerate(folders)}
    return {name: place[one[0]] for name, one in zip(names, parts, strict=True)}


def pixels(images: Sequence[Image.Image], side: int, channels: int) -> torch.Tensor:
    """Crop images at their centre to side x side pixels: (B, 1 or 3, side, side) float32 in [-1, 1]."""
    mode = "L" if channels == 1 else "RGB"
    arrays = [np.asarray(centre_crop(image, side).convert(mode), dtype=np.float32) for image in images]
    stacked = torch.from_numpy(np.stack(arrays)) / 127.5 - 1
    return stacked[:, None] if channels == 1 else stacked.permute(0, 3, 1, 2)


def _label_at_end(name: str) -> int | None:
    found = re.search(r"-(\d+)$", Path(name).stem)
    return int(found[1]) if found else None
