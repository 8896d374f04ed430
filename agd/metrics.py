"""Distances between sets of features: arrays in, floats out."""

import numpy as np
import torch


def moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean (D,) and unbiased covariance (D, D), float64, of features (n, D)."""
    x = np.asarray(features, dtype=np.float64)
    return x.mean(axis=0), np.cov(x, rowvar=False)


def frechet_distance(mu1: np.ndarray, sigma1: np.ndarray, mu2: np.ndarray, sigma2: np.ndarray) -> float:
    """Squared Fréchet distance of two Gaussians (Heusel et al., arXiv 1706.08500, eq. 6):

        |mu1 - mu2|^2 + tr(S1) + tr(S2) - 2 tr((S1 S2)^(1/2))

    The trace of the root is the sum of the roots of the eigenvalues of S1^(1/2) S2 S1^(1/2), which is symmetric: no
    general matrix root, nothing complex, and covariances of any rank.
    """
    values, vectors = np.linalg.eigh(sigma1)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    product = np.linalg.eigvalsh(root @ sigma2 @ root).clip(min=0)
    gap = mu1 - mu2
    return float(max(0.0, gap @ gap + np.trace(sigma1) + np.trace(sigma2) - 2 * np.sqrt(product).sum()))


def kernel_distance(x: np.ndarray, y: np.ndarray, block: int = 4096) -> float:
    """KID: unbiased squared MMD with the kernel (x.y / D + 1)^3 (Binkowski et al., arXiv 1801.01401).

    Over all pairs rather than the average over random subsets: the same expectation, less variance, no seed. Features
    (n, D) and (m, D), n and m at least 2; it can come out slightly negative.
    """

    def total(a, b):
        blocks = (a[i : i + block] for i in range(0, len(a), block))
        return sum((((part @ b.T) / a.shape[1] + 1) ** 3).sum() for part in blocks)

    def diagonal(a):
        return (((a * a).sum(axis=1) / a.shape[1] + 1) ** 3).sum()

    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    n, m = len(x), len(y)
    within = (total(x, x) - diagonal(x)) / (n * (n - 1)) + (total(y, y) - diagonal(y)) / (m * (m - 1))
    return float(within - 2 * total(x, y) / (n * m))


def precision_recall(real: np.ndarray, fake: np.ndarray, neighbours: int = 3) -> tuple[float, float]:
    """Improved precision and recall (Kynkäänniemi et al., arXiv 1904.06991, eq. 1).

    Precision: the part of the samples inside the real manifold; recall: the part of the real images inside the samples'.
    A manifold is the union of balls round each point that reach its k-th nearest neighbour. Features (n, D), (m, D), with
    more points than neighbours on each side.
    """
    return _inside(fake, real, neighbours), _inside(real, fake, neighbours)


def _inside(points: np.ndarray, manifold: np.ndarray, neighbours: int, block: int = 2048) -> float:
    """Part of the points that lie in some ball of the manifold."""
    points, manifold = (torch.from_numpy(np.asarray(a, dtype=np.float64)) for a in (points, manifold))
    radii = torch.cat(
        [torch.cdist(part, manifold).kthvalue(neighbours + 1, dim=1).values for part in manifold.split(block)]
    )  # the nearest neighbour of a point in its own set is itself
    inside = [(torch.cdist(part, manifold) <= radii).any(dim=1) for part in points.split(block)]
    return torch.cat(inside).double().mean().item()
