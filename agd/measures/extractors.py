"""Feature extractors: from images to feature vectors."""

import dataclasses
import tempfile
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from agd.artifacts import downloads
from agd.artifacts.files import sha256
from agd.artifacts.images import centre_crop
from agd.artifacts.sealed_json import check_files, read_sealed
from agd.measures import adm
from agd.measures.digits_classifier import DigitsClassifier, digit_tensor
from agd.runtime.errors import UserError, errors_say
from agd.runtime.threads import ahead

ADM = "adm-inception-v3"
INCEPTION_SHA256 = downloads.KNOWN[downloads.INCEPTION].removeprefix("sha256:")


@dataclasses.dataclass(frozen=True)
class Extractor:
    """A feature extractor. prepare: picture -> input tensor (C, H, W). model: (B, C, H, W) -> features (B, D).

    image_size: pictures are cropped and resized to this first (`centre_crop`); 0 leaves them as they are.
    class_weights: (K, D) of the layer that makes classes of the features, for the Inception Score; None for others.
    spatial: number of sFID's features, which follow the D others in the vectors. split: images per Inception Score, of
    which the mean is taken; 0 takes all at once.
    """

    name: str
    weights_sha256: str
    prepare: Callable[[Image.Image], torch.Tensor]
    model: nn.Module
    device: torch.device
    image_size: int = 0
    class_weights: np.ndarray | None = None
    spatial: int = 0
    split: int = 0

    @torch.no_grad()
    def __call__(self, images: Iterable[Image.Image], batch_size: int) -> Iterator[np.ndarray]:
        """Yield features (up to batch_size, D + spatial) float32, batch by batch.

        Raises UserError if pictures that the model takes as they are have several sizes.
        """
        remaining = ahead(lambda image: self.prepare(centre_crop(image, self.image_size)), images)
        while prepared := list(islice(remaining, batch_size)):
            if len(sizes := {tuple(one.shape[-2:]) for one in prepared}) > 1:
                (h, w), (other_h, other_w) = sorted(sizes)[:2]
                raise UserError(
                    f"image_size: {self.name} compares pictures of one size, and some are {w} x {h}, some {other_w} x {other_h}; "
                    "say to which size all are cropped"
                )
            yield self.model(torch.stack(prepared).to(self.device)).float().cpu().numpy()


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
    from cleanfid.resize import build_resizer

    model, resize = _inception_network(weights), build_resizer("clean")

    def prepare(image: Image.Image) -> torch.Tensor:
        return torch.from_numpy(resize(np.asarray(image.convert("RGB")))).permute(2, 0, 1)

    own = ("inception-v3", INCEPTION_SHA256, prepare, model.eval().to(device), device)
    return Extractor(*own, class_weights=_class_weights(model))


def _adm(weights: str, device: torch.device) -> Extractor:
    """Inception as ADM's evaluator reads it, from the same weights."""
    network = _inception_network(weights)

    def prepare(image: Image.Image) -> torch.Tensor:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)

    own = (ADM, INCEPTION_SHA256, prepare, adm.ADMInception(network.layers).eval().to(device), device)
    return Extractor(*own, class_weights=_class_weights(network), spatial=adm.SPATIAL, split=adm.SPLIT)


def _inception_network(weights: str) -> nn.Module:
    from cleanfid.inception_torchscript import InceptionV3W

    file = _existing(weights) if weights else _download(downloads.INCEPTION)
    if sha256(file) != INCEPTION_SHA256:
        raise UserError(f"features_weights: {file} is not inception-2015-12-05.pt (its sha256 differs); fetch it again")
    with tempfile.TemporaryDirectory() as folder:  # clean-fid finds the file only by this name
        (Path(folder) / "inception-2015-12-05.pt").symlink_to(Path(file).resolve())
        return InceptionV3W(folder, download=False)


def _class_weights(network: nn.Module) -> np.ndarray | None:
    """Return the weights of the layer that makes classes of the features, which the file holds too."""
    last = getattr(network.base, "output", None)
    return None if last is None else last.weight.detach().float().cpu().numpy()


def _dinov2(weights: str, device: torch.device, architecture: str = "vit_large_patch14_dinov2") -> Extractor:
    """DINOv2 ViT-L/14 at 224 x 224, as in FD-DINOv2 (Stein et al., arXiv 2306.04675)."""
    import timm

    own = dict(file=str(_existing(weights))) if weights else dict(hf_hub_filename="model.safetensors")
    if weights and Path(weights).suffix != ".safetensors":
        raise UserError(f"features_weights: {weights} is not a .safetensors file, and nothing else is read; convert it")
    problem, advice = "features_weights: the DINOv2 weights can't be had", f"give a file of timm's {architecture}"
    with errors_say(problem, lambda error: f"{problem} ({type(error).__name__}); {advice}"):
        model = timm.create_model(
            architecture, pretrained=True, img_size=224, num_classes=0, pretrained_cfg_overlay=own
        )
    data = timm.data.resolve_data_config({"input_size": (3, 224, 224), "crop_pct": 1.0}, model=model)
    transform = timm.data.create_transform(**data)
    digest = sha256(weights) if weights else model.pretrained_cfg.get("hf_hub_id", "")
    return Extractor("dinov2", digest, lambda image: transform(image.convert("RGB")), model.eval().to(device), device)


_EXTRACTORS = {"digits-classifier": _digits, "inception-v3": _inception, ADM: _adm, "dinov2": _dinov2}


def extractor(name: str, weights: str, device: torch.device, image_size: int = 0) -> Extractor:
    """Open an extractor. weights: a file, or empty to download it. Raises UserError if it is not available.

    Inception's weights are checked against a known sha256; DINOv2's are used as timm gets them from the hub.
    """
    return dataclasses.replace(_EXTRACTORS[name](weights, device), image_size=image_size)


def _existing(weights: str) -> Path:
    if not Path(weights).is_file():
        raise UserError(f"features_weights: {weights or 'empty'} is not a file; give the extractor's weights")
    return Path(weights)


def _download(url: str) -> Path:
    """Download a file into torch's cache and check it, unless it is there."""
    file = Path(torch.hub.get_dir()) / "checkpoints" / downloads.file_name(url)
    if not file.is_file():
        downloads.fetch(url, file, "features_weights")
    return file
