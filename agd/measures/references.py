"""The reference: statistics and features of real images, computed once for all comparisons."""

import dataclasses
import io
import zipfile
from pathlib import Path

import numpy as np
import torch

from agd.artifacts.images import iterate_images, list_images
from agd.artifacts.sealed_json import checksums, record_beside, write_sealed
from agd.artifacts.zips import check_if_sealed, read_entry, write_zip
from agd.measures import adm, distances
from agd.measures.extractors import ADM, INCEPTION_SHA256, Extractor
from agd.runtime.errors import UserError, errors_say
from agd.runtime.progress import progress_bar

_LARGEST = 1e30  # the squares of larger values are no numbers


@dataclasses.dataclass(frozen=True)
class Reference:
    """Statistics of real images: mu (D,), sigma (D, D), n. features: (m, D) of some or all of the images, or None.

    mu_s (S,), sigma_s (S, S): of sFID's features, if the extractor gives them. image_size: None if the file doesn't say.
    """

    mu: np.ndarray
    sigma: np.ndarray
    n: int
    features: np.ndarray | None
    extractor: str
    weights_sha256: str
    source: str
    image_size: int | None = 0
    mu_s: np.ndarray | None = None
    sigma_s: np.ndarray | None = None


def compute_reference(source: str, extract: Extractor, max_features: int, batch_size: int, stage: str) -> Reference:
    """Compute the statistics of a folder or zip of images. Keeps features of at most `max_features`, evenly spaced by
    name.

    Raises UserError, naming the image, if one can't be read, or if there are fewer than four.
    """
    names = list_images(source)
    if len(names) < 4:
        raise UserError(f"{source}: holds {len(names)} images; a reference needs at least 4")
    keep = _evenly(len(names), max_features)
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
    pooled, spatial = slice(len(mu) - extract.spatial), slice(len(mu) - extract.spatial, None)
    more = dict(mu_s=mu[spatial], sigma_s=sigma[spatial, spatial]) if extract.spatial else {}
    return Reference(mu[pooled], sigma[pooled, pooled], seen, np.stack(kept)[:, pooled], *by, **more)


def _evenly(n: int, most: int) -> set[int]:
    return set(np.linspace(0, n - 1, min(most, n)).round().astype(int).tolist())


def with_features(reference: Reference, path: str, extract: Extractor, max_features: int, batch_size: int, stage: str):
    """Return a reference made for ADM's evaluator with the features of the pictures in its file, if there are any.

    Other references are returned as they are. KID, precision and recall need features. At most `max_features` are kept,
    evenly spaced.
    """
    shape = adm.images_shape(path) if reference.image_size is None else None
    if shape is None:
        return reference
    keep = _evenly(shape[0], max_features)
    pictures = (image for i, image in enumerate(adm.reference_images(path)) if i in keep)
    kept = []
    with progress_bar(None, stage, total=len(keep)) as bar:
        for features in extract(pictures, batch_size):
            kept.append(features[:, : features.shape[1] - extract.spatial])
            bar.update(len(features))
    return dataclasses.replace(reference, features=np.concatenate(kept))


def write_reference(path: str | Path, reference: Reference) -> None:
    """Write a reference as .npz, which is a sealed zip, and its record beside it. docs/artifacts.md lists its arrays."""
    write_zip(path, [(f"{k}.npy", _npy(v)) for k, v in dataclasses.asdict(reference).items() if v is not None])
    write_sealed(record_beside(path), {"files": checksums(Path(path).parent, [Path(path).name])})


def _npy(value) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, value)
    return buffer.getvalue()


def read_reference(path: str | Path) -> Reference:
    """Read an .npz file: one made here, ADM's, or external statistics (mu, sigma), whose n and extractor are then unknown.

    The pictures in ADM's files are left aside (`with_features`). Raises UserError, naming the file, if it is damaged or
    holds no such statistics.
    """
    if Path(path).is_file():
        check_if_sealed(path)
    line = f"{path}: not an .npz of statistics (mu, sigma)"
    with (
        errors_say(str(path), lambda error: f"{line} ({type(error).__name__}); make it again"),
        zipfile.ZipFile(path) as archive,
    ):
        there = {name.removesuffix(".npy") for name in archive.namelist()}
        arrays = {name: _array(archive, name) for name in ("mu", "sigma")}
        arrays |= {name: _array(archive, name) for name in ("mu_s", "sigma_s", "features") if name in there}
        own = ("n", "extractor", "weights_sha256", "source", "image_size")
        more = {name: _array(archive, name).item() for name in own if name in there}
    arrays = {name: _plain(values) for name, values in arrays.items()}
    _check_moments(path, arrays, "mu", "sigma")
    if {"mu_s", "sigma_s"} & set(arrays):
        _check_moments(path, arrays, "mu_s", "sigma_s")
        if (widths := (len(arrays["mu"]), len(arrays["mu_s"]))) != (adm.POOLED, adm.SPATIAL):
            raise UserError(
                f"{path}: mu and mu_s of width {widths[0]} and {widths[1]} are not of ADM's evaluator, "
                f"{adm.POOLED} and {adm.SPATIAL}; fetch it again"
            )
    features, width = arrays.setdefault("features", None), len(arrays["mu"])
    if features is not None and not (features.ndim == 2 and features.shape[1] == width and _finite(features)):
        raise UserError(f"{path}: features {features.shape} are not finite numbers of width {width}; make it again")
    known = {"n": 0, "extractor": "", "weights_sha256": "", "source": str(path)}
    if "mu_s" in arrays and "extractor" not in more:  # only ADM's evaluator has files of this kind
        known |= {"extractor": ADM, "weights_sha256": INCEPTION_SHA256, "image_size": None}
    return Reference(**arrays, **known | more)


def _check_moments(path: str | Path, arrays: dict, first: str, second: str) -> None:
    """Raise UserError, naming the file, unless these are a mean and a covariance."""
    mu, sigma = (arrays.get(name, np.zeros(0)) for name in (first, second))
    if mu.ndim != 1 or sigma.shape != mu.shape * 2:
        raise UserError(f"{path}: {first} {mu.shape} and {second} {sigma.shape} are not (D,) and (D, D); make it again")
    if not (_finite(mu) and _finite(sigma)):
        raise UserError(f"{path}: {first} or {second} has values that are no finite numbers; make it again")
    if not np.allclose(sigma, sigma.T, rtol=1e-3) or (np.diagonal(sigma) < 0).any() or _is_indefinite(sigma):
        raise UserError(
            f"{path}: {second} is no covariance (it is not symmetric, or a variance is negative); make it again"
        )


def _is_indefinite(sigma: np.ndarray) -> bool:
    """Return whether some sum of the features would have a negative variance, beyond rounding."""
    variances = np.linalg.eigvalsh(sigma)
    return bool(variances.size and variances[0] < -1e-3 * abs(variances[-1]))


def _plain(values: np.ndarray) -> np.ndarray:
    """Return numbers of a format that linear algebra takes: features and statistics come in others too."""
    return (
        values
        if values.dtype in (np.float32, np.float64) or values.dtype.kind not in "fiu"
        else values.astype(np.float64)
    )


def _finite(values: np.ndarray) -> bool:
    return values.dtype.kind in "fiu" and bool((np.abs(values) < _LARGEST).all())


def _array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    return np.load(io.BytesIO(read_entry(archive, f"{name}.npy")), allow_pickle=False)


def check_extractor(reference: Reference, path: str, extractor: str, image_size: int, assume: bool) -> None:
    """Raise UserError if the statistics are of another extractor or image size, or don't say of which and the user
    doesn't either (`assume`)."""
    size = image_size if reference.image_size is None else reference.image_size
    if reference.extractor and (reference.extractor, size) != (extractor, image_size):
        raise UserError(
            f"{path}: of {reference.extractor} at image_size {size}, not of {extractor} at {image_size} as "
            "given; prepare it again"
        )
    if not reference.extractor and not assume:
        raise UserError(
            f"{path}: doesn't say which extractor its statistics are of; if it is {extractor}, say --assume-extractor "
            "(assume_extractor: true)"
        )


def compare(
    vectors: np.ndarray, reference: Reference, neighbours: int, extract: Extractor | None = None
) -> dict[str, float | None]:
    """Return fid, kid, precision and recall of samples, by an extractor's vectors (n, D + spatial).

    kid, precision and recall are None if the reference has no features. extract: if it has class_weights, there is an
    inception_score too; if it has spatial features, an sfid.
    """
    spatial = extract.spatial if extract else 0
    features = vectors[:, : vectors.shape[1] - spatial]
    found = dict.fromkeys(("fid", "kid", "precision", "recall"))
    found["fid"] = distances.frechet_distance(*distances.moments(features), reference.mu, reference.sigma)
    if reference.features is not None:
        real, fake = reference.features, features
        if extract and extract.device.type == "cuda":  # minutes of one core for 50,000 images, all pairs of them
            real, fake = (torch.from_numpy(np.ascontiguousarray(a)).to(extract.device) for a in (real, fake))
        found["kid"] = distances.kernel_distance(fake, real)
        found["precision"], found["recall"] = distances.precision_recall(real, fake, neighbours)
    if extract and extract.class_weights is not None:
        found["inception_score"] = distances.inception_score(features, extract.class_weights, extract.split)
    if spatial and reference.mu_s is not None:
        moments = distances.moments(vectors[:, vectors.shape[1] - spatial :])
        found["sfid"] = distances.frechet_distance(*moments, reference.mu_s, reference.sigma_s)
    return found
