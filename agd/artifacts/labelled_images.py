"""Real images with their classes, to add noise to: a folder per class, or names that end with the class."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from agd.artifacts.images import centre_crop, iterate_images, list_images
from agd.artifacts.provenance import digest
from agd.runtime.errors import UserError


class LabelledImages:
    """The images of a folder or zip that show given classes. identity: of the images in use, for provenance.

    Classes are the folders in alphabetical order, as torchvision's ImageFolder counts them, or, without folders, the
    numbers at the end of names such as 0012-7.png. Raises UserError if images have neither, or none shows the classes.
    """

    def __init__(self, source: str | Path, classes: Sequence[int]):
        self.source, wanted = source, set(classes)
        names = list_images(source)
        folders = sorted({Path(name).parts[0] for name in names if len(Path(name).parts) > 1})
        number = {folder: i for i, folder in enumerate(folders)}
        labels = {name: number.get(Path(name).parts[0], _label_at_end(name)) for name in names}
        if None in labels.values():
            odd = next(name for name, label in labels.items() if label is None)
            raise UserError(f"{source}: {odd} says no class; give a folder for each class, or names such as 0012-7.png")
        self.labels = {name: label for name, label in labels.items() if label in wanted}
        if not self.labels:
            raise UserError(f"{source}: shows none of the classes asked for (class_labels); give images of them")
        self.names = list(self.labels)
        self.identity = digest(f"{name} {label}" for name, label in self.labels.items())

    def drawn(self, draw: Sequence[torch.Generator]) -> tuple[list[Image.Image], list[int]]:
        """Draw an image per generator. Returns the images and their classes."""
        names = [self.names[torch.randint(len(self.names), (), generator=g)] for g in draw]
        return list(iterate_images(self.source, names)), [self.labels[name] for name in names]


def pixels(images: Sequence[Image.Image], side: int, channels: int) -> torch.Tensor:
    """Crop images at their centre to side x side pixels: (B, 1 or 3, side, side) float32 in [-1, 1]."""
    mode = "L" if channels == 1 else "RGB"
    arrays = [np.asarray(centre_crop(image, side).convert(mode), dtype=np.float32) for image in images]
    stacked = torch.from_numpy(np.stack(arrays)) / 127.5 - 1
    return stacked[:, None] if channels == 1 else stacked.permute(0, 3, 1, 2)


def _label_at_end(name: str) -> int | None:
    found = re.search(r"-(\d+)$", Path(name).stem)
    return int(found[1]) if found else None
