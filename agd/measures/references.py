"""The reference: statistics and features of real images, computed once for all comparisons."""

import dataclasses
import io
import zipfile
from pathlib import Path

import numpy as np

from agd.artifacts.images import iterate_images, list_images
from agd.artifacts.zips import check_if_sealed, read_entry, write_zip
from agd.measures import distances
from agd.measures.extractors import Extractor
from agd.runtime.errors import UserError, errors_say
from agd.runtime.progress import progress_bar


@dataclasses.dataclass(frozen=True)
class Reference:
    """Statistics of real images: mu (D,), sigma (D, D), n. features: (m, D) of some or all of the images, or None."""

    mu: np.ndarray
    sigma: np.ndarray
    n: int
    features: np.ndarray | None
    extractor: str
    weights_sha256: str
    source: str
    image_size: int = 0


def compute_reference(source: str, extract: Extractor, max_features: int, batch_size: int, stage: str) -> Reference:
    """Compute the statistics of a folder or zip of images. Keeps features of at most `max_features`, evenly spaced by
    name.

    Raises UserError, naming the image, if one can't be read, or if there are fewer than four.
    """
    names = list_images(source)
    if len(names) < 4:
        raise UserError(f"{source}: holds {len(names)} images; a reference needs at least 4")
    keep = set(np.linspace(0, len(names) - 1, min(max_features, len(names))).round().astype(int).tolist())
    total, outer, kept, seen = 0.0, 0.0, [], 0
    with progress_bar(None, stage, total=len(names)) as bar:
        for features in extract(iterate_images(source, names), batch_size):
            x = features.astype(np.float64)
            total, outer = total + x.sum(axis=0), outer + x.T @ x
            kept += [row for i, row in enumerate(features, seen) if i in keep]
            seen += len(features)
            bar.update(len(features))
    mu = total / seen
    sigma = (outer - seen * np.outer(mu, mu)) / (seen - 1)
    by = (extract.name, extract.weights_sha256, str(source), extract.image_size)
    return Reference(mu, sigma, seen, np.stack(kept), *by)


def write_reference(path: str | Path, reference: Reference) -> None:
    """Write a reference as .npz, which is a sealed zip. docs/artifacts.md lists its arrays."""
    write_zip(path, [(f"{k}.npy", _npy(v)) for k, v in dataclasses.asdict(reference).items() if v is not None])


def _npy(value) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, value)
    return buffer.getvalue()


def read_reference(path: str | Path) -> Reference:
    """Read an .npz file: one made here, or external statistics (mu, sigma), whose n and extractor are then unknown.

    Raises UserError, naming the file, if it is damaged, holds no such statistics, or those of ADM's evaluator.
    """
    if Path(path).is_file():
        check_if_sealed(path)
    with (
        errors_say(
            str(path),
            lambda error: f"{path}: not an .npz of statistics (mu, sigma) ({type(error).__name__}); make it again",
        ),
        zipfile.ZipFile(path) as archive,
    ):
        there = {name.removesuffix(".npy") for name in archive.namelist()}
        mu, sigma = _array(archive, "mu"), _array(archive, "sigma")
        own = ("n", "extractor", "weights_sha256", "source", "image_size")
        more = {name: _array(archive, name).item() for name in own if name in there}
        features = _array(archive, "features") if "features" in there else None
        by_adm = "mu_s" in there
    if mu.ndim != 1 or sigma.shape != mu.shape * 2:
        raise UserError(f"{path}: mu {mu.shape} and sigma {sigma.shape} are not (D,) and (D, D); make it again")
    if not all(values.dtype.kind in "fiu" and np.isfinite(values).all() for values in (mu, sigma)):
        raise UserError(f"{path}: mu or sigma has values that are no finite numbers; make it again")
    if not np.allclose(sigma, sigma.T, rtol=1e-3) or (np.diagonal(sigma) < 0).any():
        raise UserError(
            f"{path}: sigma is no covariance (it is not symmetric, or a variance is negative); make it again"
        )
    if features is not None and not (
        features.ndim == 2
        and features.shape[1] == len(mu)
        and features.dtype.kind in "fiu"
        and np.isfinite(features).all()
    ):
        raise UserError(f"{path}: features {features.shape} are not finite numbers of width {len(mu)}; make it again")
    if by_adm:
        raise UserError(
            f"{path}: statistics of ADM's evaluator (mu_s), which resizes images and reads Inception in its own way; "
            "give the images, or statistics made here"
        )
    known = {"n": 0, "extractor": "", "weights_sha256": "", "source": str(path)} | more
    return Reference(mu=mu, sigma=sigma, features=features, **known)


def _array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    return np.load(io.BytesIO(read_entry(archive, f"{name}.npy")), allow_pickle=False)


def check_extractor(reference: Reference, path: str, extractor: str, image_size: int, assume: bool) -> None:
    """Raise UserError if the statistics are of another extractor or image size, or don't say of which and the user
    doesn't either (`assume`)."""
    if reference.extractor and (reference.extractor, reference.image_size) != (extractor, image_size):
        raise UserError(
            f"{path}: of {reference.extractor} at image_size {reference.image_size}, not of {extractor} at {image_size} as "
            "given; prepare it again"
        )
    if not reference.extractor and not assume:
        raise UserError(
            f"{path}: doesn't say which extractor its statistics are of; if it is {extractor}, say --assume-extractor "
            "(assume_extractor: true)"
        )


def compare(
    features: np.ndarray, reference: Reference, neighbours: int, class_weights: np.ndarray | None = None
) -> dict[str, float | None]:
    """Return fid, kid, precision and recall of samples' features (n, D); inception_score too, with class_weights (K, D).

    kid, precision and recall are None if the reference has no features.
    """
    found = dict.fromkeys(("fid", "kid", "precision", "recall"))
    found["fid"] = distances.frechet_distance(*distances.moments(features), reference.mu, reference.sigma)
    if reference.features is not None:
        found["kid"] = distances.kernel_distance(features, reference.features)
        found["precision"], found["recall"] = distances.precision_recall(reference.features, features, neighbours)
    if class_weights is not None:
        found["inception_score"] = distances.inception_score(features, class_weights)
    return found
