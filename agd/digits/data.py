"""Loads the 1,797 handwritten digits (8 x 8, ten classes) of scikit-learn, and adds captions. Needs no download.

E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
PHRASINGS = (
    "a handwritten {}",
    "the digit {}",
    "the number {} written by hand",
    "a small grey {}",
    "a picture of the digit {}",
    "somebody wrote the figure {}",
)


_SLANT = 0.35  # pixels to the right for each row up


def digits(slanted: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images (1797, 1, 8, 8) in [0, 1] (17 grey levels, if not slanted) and labels (1797,) int64."""
    data = load_digits()
    images = torch.from_numpy(data.images).float()[:, None] / 16
    if slanted:
        shear = torch.tensor([[[1.0, _SLANT, 0.0], [0.0, 1.0, 0.0]]]).expand(len(images), -1, -1)
        grid = nn.functional.affine_grid(shear, images.shape, align_corners=False)
        images = nn.functional.grid_sample(images, grid, align_corners=False).clamp(0, 1)
    return images, torch.from_numpy(data.target).long()


def caption(label: int, phrasing_index: int) -> str:
    """Return a sentence for a digit 0..9; phrasings repeat in order with the index."""
    return PHRASINGS[phrasing_index % len(PHRASINGS)].format(WORDS[label])


def captions() -> list[str]:
    """Return one caption per image, in the order of `digits`."""
    # Many digits were written in the order 0 to 9: with the index alone, even digits would get even phrasings.
    return [caption(label, i + i // 10) for i, label in enumerate(load_digits().target.tolist())]
