"""Loads the 1,797 handwritten digits (8 x 8, ten classes) of scikit-learn, and adds captions. Needs no download.

E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998.
"""

import torch
from sklearn.datasets import load_digits

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
PHRASINGS = (
    "a handwritten {}",
    "the digit {}",
    "the number {} written by hand",
    "a small grey {}",
    "a picture of the digit {}",
    "somebody wrote the figure {}",
)


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """Return images (1797, 1, 8, 8) in [0, 1] (17 grey levels) and labels (1797,) int64."""
    data = load_digits()
    return torch.from_numpy(data.images).float()[:, None] / 16, torch.from_numpy(data.target).long()


def caption(label: int, phrasing_index: int) -> str:
    """Return a sentence for a digit 0..9; phrasings repeat in order with the index."""
    return PHRASINGS[phrasing_index % len(PHRASINGS)].format(WORDS[label])


def captions() -> list[str]:
    """Return one caption per image, in the order of `digits`."""
    # Many digits were written in the order 0 to 9: with the index alone, even digits would get even phrasings.
    return [caption(label, i + i // 10) for i, label in enumerate(load_digits().target.tolist())]
