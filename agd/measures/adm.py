"""Inception as ADM's evaluator reads it (Dhariwal and Nichol, arXiv 2105.05233), and the reference files made for it.

The network is that of TensorFlow's graph of 2015-12-05. Pictures go into it as they are: it resizes them itself. Beside the
pooled features, sFID (Nash et al., arXiv 2103.03841) takes the first channels of an earlier layer, at all 17 x 17 places.
"""

import zipfile
from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image
from torch import nn

from agd.runtime.errors import UserError, errors_say

SPATIAL = 7 * 17 * 17  # features that sFID compares
SPLIT = 5000  # images per Inception Score, of which the mean is taken
POOLED = 2048
_SIDE = 299
_MOST, _LARGEST = 1 << 31, 1 << 13  # pictures, and pixels of a side
_CUT = "mixed_6"  # the block whose first convolution gives sFID's features


class ADMInception(nn.Module):
    """(B, 3, H, W) with values 0..255 -> (B, 2048 + 2023): the pooled features, then those of sFID.

    layers: the network's blocks in order, named as in NVIDIA's inception-2015-12-05.pt. Raises UserError if they are not
    those of that file.
    """

    def __init__(self, layers: nn.Module):
        super().__init__()
        self.layers = layers
        probe = torch.rand(1, 3, _SIDE, _SIDE, generator=torch.Generator().manual_seed(0)) * 2 - 1
        with torch.no_grad():
            try:
                pooled, spatial = self._features(probe)
                fits = spatial.shape == (1, SPATIAL) and torch.allclose(pooled, layers(probe).flatten(1), atol=1e-4)
            except (AttributeError, RuntimeError, ValueError):
                fits = False
        if not fits:
            raise UserError("features_weights: its layers are not those of inception-2015-12-05.pt; fetch it again")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the features of pictures of any size."""
        return torch.cat(self._features((resize(x.float(), _SIDE) - 128) / 128), dim=1)

    def _features(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        spatial = None
        for name, layer in self.layers.named_children():
            if name == _CUT:
                first = layer.conv(x)[:, : SPATIAL // 17**2]
                spatial = first.permute(0, 2, 3, 1).flatten(1)  # channels last, the order of ADM's mu_s and sigma_s
            x = layer(x)
        if spatial is None:
            raise ValueError(f"there is no layer {_CUT}")
        return x.reshape(len(x), POOLED), spatial


def resize(x: torch.Tensor, side: int) -> torch.Tensor:
    """Resize (B, C, H, W) to (B, C, side, side), bilinear, as TensorFlow's ResizeBilinear does by default.

    Output i reads the input at i * H / side, between two neighbours: no half pixels, no antialiasing.
    """
    for dim in (2, 3):
        n = x.shape[dim]
        at = torch.arange(side, dtype=torch.float32, device=x.device) * (n / side)
        low = at.floor().long().clamp(max=n - 1)
        share = (at - low).reshape([-1 if axis == dim else 1 for axis in range(4)])
        high = (low + 1).clamp(max=n - 1)
        x = x.index_select(dim, low) * (1 - share) + x.index_select(dim, high) * share
    return x


def reference_images(path: str) -> Iterator[Image.Image]:
    """Yield the pictures of a reference file of ADM's, `arr_0` (n, H, W, 3) uint8, one by one: they are gigabytes.

    Raises UserError, naming the file, if it holds something else.
    """
    with _reading(path), zipfile.ZipFile(path) as archive, archive.open("arr_0.npy") as file:
        number, height, width, channels = _shape(path, file)
        for i in range(number):
            data = file.read(height * width * channels)
            if len(data) < height * width * channels:
                raise UserError(f"{path}: arr_0 ends at image {i} of {number}; fetch it again")
            yield Image.fromarray(np.frombuffer(data, np.uint8).reshape(height, width, channels))


def images_shape(path: str) -> tuple[int, int, int, int] | None:
    """Return the shape (n, H, W, 3) of a reference file's pictures, or None if it has none. Raises as above."""
    with _reading(path), zipfile.ZipFile(path) as archive:
        if "arr_0.npy" not in archive.namelist():
            return None
        with archive.open("arr_0.npy") as file:
            return _shape(path, file)


def _reading(path: str):
    line = f"{path}: its pictures (arr_0) can't be read"
    return errors_say(str(path), lambda error: f"{line} ({type(error).__name__}); fetch it again")


def _shape(path: str, file) -> tuple[int, int, int, int]:
    """Read the header of an array of pictures."""
    version = np.lib.format.read_magic(file)
    header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    shape, by_columns, dtype = header(file) if header else ((), False, None)
    sizes = all(0 < n <= most for n, most in zip(shape, (_MOST, _LARGEST, _LARGEST, 3), strict=False))
    if len(shape) != 4 or shape[3] != 3 or not sizes or dtype != np.uint8 or by_columns:
        raise UserError(f"{path}: arr_0 is not pictures (n, height, width, 3) of uint8; fetch it again")
    return shape
