"""Computes distances between sets of features, from arrays to floats.

Those that compare all pairs also take tensors, and compute on their device.
"""

import numpy as np
import torch


def moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean (D,) and unbiased covariance (D, D), float64, of features (n, D)."""
    x = np.asarray(features, dtype=np.float64)
    return x.mean(axis=0), np.cov(x, rowvar=False)


def frechet_distance(mu1: np.ndarray, sigma1: np.ndarray, mu2: np.ndarray, sigma2: np.ndarray) -> float:
    """Return the squared Fréchet distance of two Gaussians (Heusel et al., arXiv 1706.08500, eq. 6):

        |mu1 - mu2|^2 + tr(S1) + tr(S2) - 2 tr((S1 S2)^(1/2))

    The last trace is the sum of the square roots of the eigenvalues of S1^(1/2) S2 S1^(1/2). That matrix is symmetric,
    so no general matrix root and no complex numbers are needed, and covariances may have any rank.
    """
    values, vectors = np.linalg.eigh(sigma1)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    product = np.linalg.eigvalsh(root @ sigma2 @ root).clip(min=0)
    gap = mu1 - mu2
    return float(max(0.0, gap @ gap + np.trace(sigma1) + np.trace(sigma2) - 2 * np.sqrt(product).sum()))


Features = np.ndarray | torch.Tensor


def kernel_distance(x: Features, y: Features, block: int = 4096) -> float:
    """Return KID: unbiased squared MMD with the kernel (x.y / D + 1)^3 (Binkowski et al., arXiv 1801.01401).

    Uses all pairs, not an average over random subsets: the same expectation, less variance, no seed. Features are (n,
    D) and (m, D), with n and m at least 2. The result can be slightly negative.
    """

    def total(a, b):
        blocks = (a[i : i + block] for i in range(0, len(a), block))
        return sum((((part @ b.T) / a.shape[1] + 1) ** 3).sum() for part in blocks)

    def diagonal(a):
        return (((a * a).sum(axis=1) / a.shape[1] + 1) ** 3).sum()

    x, y = (a.double() if isinstance(a, torch.Tensor) else np.asarray(a, dtype=np.float64) for a in (x, y))
    n, m = len(x), len(y)
    within = (total(x, x) - diagonal(x)) / (n * (n - 1)) + (total(y, y) - diagonal(y)) / (m * (m - 1))
    return float(within - 2 * total(x, y) / (n * m))


def inception_score(features: np.ndarray, class_weights: np.ndarray, split: int = 0) -> float:
    """Return the Inception Score exp(E KL(p(y|x) || p(y))) (Salimans et al., arXiv 1606.03498).

    features: (n, D), before the last layer. class_weights: (K, D) of that layer, whose bias is left out, as is usual.
    p(y|x) is the softmax of their product. split: the score is the mean of those of so many samples each, in their order;
    0 takes all at once.
    """
    logits = np.asarray(features, dtype=np.float64) @ np.asarray(class_weights, dtype=np.float64).T
    log_p = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    parts = [log_p[start : start + (split or len(log_p))] for start in range(0, len(log_p), split or len(log_p))]
    return float(np.mean([_score(part) for part in parts]))


def _score(log_p: np.ndarray) -> float:
    log_mean = np.logaddexp.reduce(log_p, axis=0, keepdims=True) - np.log(len(log_p))
    return float(np.exp((np.exp(log_p) * (log_p - log_mean)).sum(axis=1).mean()))


def precision_recall(real: Features, fake: Features, neighbours: int = 3) -> tuple[float, float]:
    """Return improved precision and recall (Kynkäänniemi et al., arXiv 1904.06991, eq. 1).

    Precision: fraction of the samples inside the real manifold. Recall: fraction of the real images inside the samples'
    manifold. A manifold is the union of balls around each point, with the distance to its k-th nearest neighbour as
    radius. Features are (n, D) and (m, D), with more points than neighbours in each.
    """
    return _inside(fake, real, neighbours), _inside(real, fake, neighbours)


def _inside(points: Features, manifold: Features, neighbours: int, block: int = 2048) -> float:
    """Return the fraction of the points that lie in at least one ball of the manifold."""
    points, manifold = (torch.as_tensor(a).double() for a in (points, manifold))
    radii = torch.cat(
        [torch.cdist(part, manifold).kthvalue(neighbours + 1, dim=1).values for part in manifold.split(block)]
    )  # a point's nearest neighbour in its own set is the point itself
    inside = [(torch.cdist(part, manifold) <= radii).any(dim=1) for part in points.split(block)]
    return torch.cat(inside).double().mean().item()
