"""Feature extractors: images in, vectors out. And a reference's statistics, computed once."""

import dataclasses
import io
import tempfile
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from agd import downloads, metrics
from agd.artifacts import check_if_sealed, sha256, write_zip
from agd.errors import UserError
from agd.images import iterate_images, list_images
from agd.progress import progress
from agd.records import check_files, read_sealed

INCEPTION_SHA256 = downloads.KNOWN[downloads.INCEPTION].removeprefix("sha256:")
DIGIT_FEATURES = 64


@dataclasses.dataclass(frozen=True)
class Extractor:
    """prepare: one picture -> input tensor (C, H, W). model: (B, C, H, W) -> features (B, D)."""

    name: str
    weights_sha256: str
    prepare: Callable[[Image.Image], torch.Tensor]
    model: nn.Module
    device: torch.device

    @torch.no_grad()
    def __call__(self, images: Iterable[Image.Image], batch_size: int) -> Iterator[np.ndarray]:
        """Features (up to batch_size, D) float32, batch by batch."""
        remaining = iter(images)
        while batch := list(islice(remaining, batch_size)):
            x = torch.stack([self.prepare(image) for image in batch]).to(self.device)
            yield self.model(x).float().cpu().numpy()


class DigitsClassifier(nn.Module):
    """A small convolutional network for 8 x 8 digits; its 64 activations before the last layer compare images."""

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
    """A picture of a digit -> (1, 8, 8) in [0, 1]."""
    small = image.convert("L")
    small = small if small.size == (8, 8) else small.resize((8, 8), Image.Resampling.BOX)
    return torch.from_numpy(np.asarray(small, dtype=np.float32) / 255)[None]


def _digits(weights: str, device: torch.device) -> Extractor:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    model = DigitsClassifier()
    try:
        model.load_state_dict(load_file(_existing(weights)))
    except (RuntimeError, SafetensorError):
        raise UserError(f"features_weights: {weights} doesn't hold the digits classifier; train it again") from None
    record = Path(weights).with_suffix(".json")
    check_files(record, read_sealed(record), Path(weights).name)
    return Extractor("digits-classifier", sha256(weights), digit_tensor, model.eval().to(device), device)


def _inception(weights: str, device: torch.device) -> Extractor:
    """clean-fid's Inception: antialiased bicubic resizing of each channel to 299 x 299, values 0..255."""
    from cleanfid.inception_torchscript import InceptionV3W
    from cleanfid.resize import build_resizer

    file = _existing(weights) if weights else _download(downloads.INCEPTION)
    if sha256(file) != INCEPTION_SHA256:
        raise UserError(f"features_weights: {file} is not inception-2015-12-05.pt (its sha256 differs); fetch it again")
    with tempfile.TemporaryDirectory() as folder:  # clean-fid knows the file by its name alone
        (Path(folder) / "inception-2015-12-05.pt").symlink_to(Path(file).resolve())
        model = InceptionV3W(folder, download=False)
    resize = build_resizer("clean")

    def prepare(image: Image.Image) -> torch.Tensor:
        return torch.from_numpy(resize(np.asarray(image.convert("RGB")))).permute(2, 0, 1)

    return Extractor("inception-v3", INCEPTION_SHA256, prepare, model.eval().to(device), device)


def _dinov2(weights: str, device: torch.device, architecture: str = "vit_large_patch14_dinov2") -> Extractor:
    """DINOv2 ViT-L/14 at 224 x 224, as in FD-DINOv2 (Stein et al., arXiv 2306.04675)."""
    import timm

    own = dict(file=str(_existing(weights))) if weights else dict(hf_hub_filename="model.safetensors")
    if weights and Path(weights).suffix != ".safetensors":
        raise UserError(f"features_weights: {weights} is not a .safetensors file, and nothing else is read; convert it")
    try:
        model = timm.create_model(
            architecture, pretrained=True, img_size=224, num_classes=0, pretrained_cfg_overlay=own
        )
    except Exception as error:  # whatever the hub's client or the file reader raises
        raise UserError(
            f"features_weights: the DINOv2 weights can't be had ({type(error).__name__}); give a file of timm's {architecture}"
        ) from None
    data = timm.data.resolve_data_config({"input_size": (3, 224, 224), "crop_pct": 1.0}, model=model)
    transform = timm.data.create_transform(**data)
    digest = sha256(weights) if weights else model.pretrained_cfg.get("hf_hub_id", "")
    return Extractor("dinov2", digest, lambda image: transform(image.convert("RGB")), model.eval().to(device), device)


_EXTRACTORS = {"digits-classifier": _digits, "inception-v3": _inception, "dinov2": _dinov2}


def extractor(name: str, weights: str, device: torch.device) -> Extractor:
    """Open an extractor; `weights` is a file, or empty for a download. Inception's is checked against its known
    sha256; DINOv2's is what the hub gives timm. Raises UserError if it can't be had."""
    return _EXTRACTORS[name](weights, device)


def _existing(weights: str) -> Path:
    if not Path(weights).is_file():
        raise UserError(f"features_weights: {weights or 'empty'} is not a file; give the extractor's weights")
    return Path(weights)


def _download(url: str) -> Path:
    """Download into torch's cache, whole and checked, unless it is there."""
    file = Path(torch.hub.get_dir()) / "checkpoints" / downloads.file_name(url)
    if not file.is_file():
        downloads.fetch(url, file, "features_weights")
    return file


@dataclasses.dataclass(frozen=True)
class Reference:
    """Statistics of real images: mu (D,), sigma (D, D), n; and features (m, D) of some or all of them, or None."""

    mu: np.ndarray
    sigma: np.ndarray
    n: int
    features: np.ndarray | None
    extractor: str
    weights_sha256: str
    source: str


def compute_reference(source: str, extract: Extractor, max_features: int, batch_size: int, stage: str) -> Reference:
    """Statistics of a folder or zip of images; features are kept for at most `max_features`, evenly spaced by name.

    Raises UserError, naming the image, if one can't be read, or if there are fewer than four.
    """
    names = list_images(source)
    if len(names) < 4:
        raise UserError(f"{source}: holds {len(names)} images; a reference needs at least 4")
    keep = set(np.linspace(0, len(names) - 1, min(max_features, len(names))).round().astype(int).tolist())
    total, outer, kept, seen = 0.0, 0.0, [], 0
    with progress(None, stage, total=len(names)) as bar:
        for features in extract(iterate_images(source, names), batch_size):
            x = features.astype(np.float64)
            total, outer = total + x.sum(axis=0), outer + x.T @ x
            kept += [row for i, row in enumerate(features, seen) if i in keep]
            seen += len(features)
            bar.update(len(features))
    mu = total / seen
    sigma = (outer - seen * np.outer(mu, mu)) / (seen - 1)
    return Reference(mu, sigma, seen, np.stack(kept), extract.name, extract.weights_sha256, str(source))


def write_reference(path: str | Path, reference: Reference) -> None:
    """Write a reference as .npz (docs/artifacts.md lists its arrays), which is a zip: a sealed one."""
    write_zip(path, [(f"{k}.npy", _npy(v)) for k, v in dataclasses.asdict(reference).items() if v is not None])


def _npy(value) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, value)
    return buffer.getvalue()


def read_reference(path: str | Path) -> Reference:
    """Read an .npz: ours, or plain statistics (mu, sigma) of someone else, of which n and extractor are then unknown.

    Raises UserError, naming the file, if it is damaged or no such statistics.
    """
    if Path(path).is_file():
        check_if_sealed(path)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            mu, sigma = arrays["mu"], arrays["sigma"]
            more = {
                name: arrays[name].item() for name in ("n", "extractor", "weights_sha256", "source") if name in arrays
            }
            features = arrays.get("features")
    except Exception as error:  # numpy, zipfile and zlib each have their own words for a damaged file
        raise UserError(
            f"{path}: not an .npz of statistics (mu, sigma) ({type(error).__name__}); make it again"
        ) from None
    if mu.ndim != 1 or sigma.shape != mu.shape * 2:
        raise UserError(f"{path}: mu {mu.shape} and sigma {sigma.shape} are not (D,) and (D, D); make it again")
    if not all(values.dtype.kind in "fiu" and np.isfinite(values).all() for values in (mu, sigma)):
        raise UserError(f"{path}: mu or sigma has values that are no finite numbers; make it again")
    known = {"n": 0, "extractor": "", "weights_sha256": "", "source": str(path)} | more
    return Reference(mu=mu, sigma=sigma, features=features, **known)


def compare(features: np.ndarray, reference: Reference, neighbours: int) -> dict[str, float | None]:
    """fid, kid, precision and recall of samples' features (n, D); the last three are None where the reference is
    statistics only."""
    fid = metrics.frechet_distance(*metrics.moments(features), reference.mu, reference.sigma)
    if reference.features is None:
        return {"fid": fid, "kid": None, "precision": None, "recall": None}
    precision, recall = metrics.precision_recall(reference.features, features, neighbours)
    kid = metrics.kernel_distance(features, reference.features)
    return {"fid": fid, "kid": kid, "precision": precision, "recall": recall}
