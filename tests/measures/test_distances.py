"""Distances against closed forms and brute force."""

import numpy as np
import pytest
import scipy.linalg
import torch

from agd.measures import distances


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def test_frechet_distance_of_known_gaussians():
    # Diagonal covariances: sum of squared gaps of means and of standard deviations.
    mu1, mu2, sd1, sd2 = np.array([0.0, 1.0]), np.array([3.0, 1.0]), np.array([1.0, 2.0]), np.array([2.0, 5.0])
    distance = distances.frechet_distance(mu1, np.diag(sd1**2), mu2, np.diag(sd2**2))
    assert distance == pytest.approx(9 + 1 + 9)


def test_frechet_distance_equals_the_matrix_root(rng):
    a, b = rng.normal(size=(50, 6)), rng.normal(size=(60, 6)) @ rng.normal(size=(6, 6))
    (mu1, s1), (mu2, s2) = distances.moments(a), distances.moments(b)
    root = scipy.linalg.sqrtm(s1 @ s2)
    expected = ((mu1 - mu2) ** 2).sum() + np.trace(s1 + s2 - 2 * root.real)
    assert distances.frechet_distance(mu1, s1, mu2, s2) == pytest.approx(expected, rel=1e-6)


def test_frechet_distance_of_a_set_to_itself_with_fewer_points_than_dimensions(rng):
    moments = distances.moments(rng.normal(size=(5, 20)))
    assert distances.frechet_distance(*moments, *moments) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("block", [7, 4096])
def test_kernel_distance_is_the_unbiased_estimate(rng, block):
    x, y = rng.normal(size=(20, 3)), rng.normal(size=(30, 3)) + 1

    def mean(a, b, same):
        values = [(u @ v / 3 + 1) ** 3 for i, u in enumerate(a) for j, v in enumerate(b) if not (same and i == j)]
        return np.mean(values)

    expected = mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, False)
    assert distances.kernel_distance(x, y, block) == pytest.approx(expected)


def test_precision_and_recall_by_brute_force(rng):
    real, fake = rng.normal(size=(40, 2)), rng.normal(size=(30, 2)) * 0.5 + 0.7

    def inside(points, manifold, k=3):
        gaps = np.linalg.norm(manifold[:, None] - manifold[None], axis=2)
        radius = np.sort(gaps, axis=1)[:, k]
        return np.mean([(np.linalg.norm(manifold - p, axis=1) <= radius).any() for p in points])

    expected = (inside(fake, real), inside(real, fake))
    assert distances.precision_recall(real, fake, 3) == pytest.approx(expected)
    assert expected[0] != expected[1]


def test_precision_and_recall_at_their_ends(rng):
    real = rng.normal(size=(30, 4))
    assert distances.precision_recall(real, real) == (1.0, 1.0)
    assert distances.precision_recall(real, real + 100) == (0.0, 0.0)


def test_inception_score_of_known_classes():
    """All samples surely of one class each, evenly: as many as there are classes. No class at all: 1."""
    sure = 100 * np.eye(4)[np.arange(40) % 4]
    assert distances.inception_score(sure, np.eye(4)) == pytest.approx(4)
    assert distances.inception_score(np.zeros((40, 4)), np.eye(4)) == pytest.approx(1)
    assert distances.inception_score(sure[:1].repeat(9, axis=0), np.eye(4)) == pytest.approx(1)
    rng = np.random.default_rng(0)
    features, weights = rng.normal(size=(50, 6)), rng.normal(size=(3, 6))
    p = np.exp(features @ weights.T)
    p /= p.sum(1, keepdims=True)
    by_hand = np.exp((p * np.log(p / p.mean(0))).sum(1).mean())
    assert distances.inception_score(features, weights) == pytest.approx(by_hand)


def test_tensors_give_what_arrays_give(rng):
    """On a GPU, features are tensors there."""
    x, y = rng.normal(size=(50, 8)).astype(np.float32), rng.normal(size=(70, 8)).astype(np.float32) + 0.3
    there = torch.from_numpy(x), torch.from_numpy(y)
    found = distances.kernel_distance(*there, block=16)
    assert isinstance(found, float)
    assert found == pytest.approx(distances.kernel_distance(x, y), rel=1e-12)
    assert distances.precision_recall(*there) == distances.precision_recall(x, y)
