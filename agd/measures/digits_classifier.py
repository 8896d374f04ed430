"""The small classifier whose features compare handwritten digits."""

import numpy as np
import torch
from PIL import Image
from torch import nn

DIGIT_FEATURES = 64


class DigitsClassifier(nn.Module):
    """A small convolutional network for 8 x 8 digits. Its 64 activations before the last layer are the features."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(),
            nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(256, DIGIT_FEATURES), nn.ReLU(),
        )  # fmt: skip
        self.classes = nn.Linear(DIGIT_FEATURES, 10)

    def forward(self, x_B1HW: torch.Tensor) -> torch.Tensor:
        """Images (B, 1, 8, 8) in [0, 1] -> features (B, 64)."""
        return self.features(x_B1HW)


def digit_tensor(image: Image.Image) -> torch.Tensor:
    """Convert a picture of a digit to a tensor (1, 8, 8) in [0, 1]."""
    small = image.convert("L")
    small = small if small.size == (8, 8) else small.resize((8, 8), Image.Resampling.BOX)
    return torch.from_numpy(np.asarray(small, dtype=np.float32) / 255)[None]
