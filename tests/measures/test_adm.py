"""ADM's evaluator: resizing, the features of sFID, its reference files, and scores beside them.

The weights can't be had here: a small network with the same block names stands in.
"""

import json
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from conftest import command
from PIL import Image
from torch import nn

from agd.artifacts.images import write_images
from agd.artifacts.sealed_json import checksums, sealed_json
from agd.measures import adm, distances, extractors, references
from agd.runtime.errors import UserError

CPU = torch.device("cpu")


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(4, 192, 1), nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


class Last(nn.Module):
    def __init__(self):
        super().__init__()
        self.project = nn.Linear(192, 2048)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.project(x.mean([2, 3]))


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        parts = [("conv", nn.Conv2d(3, 4, 19, stride=17)), ("mixed_6", Block()), ("mixed_7", Last())]
        self.layers = nn.Sequential(OrderedDict(parts))
        self.output = nn.Linear(2048, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    file = tmp_path_factory.mktemp("weights") / "inception.pt"
    torch.manual_seed(0)
    torch.jit.script(Network()).save(str(file))
    return file


@pytest.fixture(autouse=True)
def known(weights, monkeypatch):
    digest = extractors.sha256(weights)
    monkeypatch.setattr(extractors, "INCEPTION_SHA256", digest)
    monkeypatch.setattr(references, "INCEPTION_SHA256", digest)


pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning", "ignore::DeprecationWarning")


def pictures(n, seed, side=64):
    return np.random.default_rng(seed).integers(0, 256, (n, side, side, 3), dtype=np.uint8)


def by_hand(network, arrays):
    """What ADM's evaluator computes, step by step: pooled features and those of sFID."""
    x = (adm.resize(torch.from_numpy(arrays).permute(0, 3, 1, 2).float(), 299) - 128) / 128
    with torch.no_grad():
        middle = network.layers.conv(x)
        spatial = network.layers.mixed_6.conv(middle).permute(0, 2, 3, 1)[..., :7]
        return network.layers(x).numpy(), spatial.reshape(len(x), -1).numpy()


@pytest.fixture(scope="module")
def network(weights):
    return torch.jit.load(str(weights))


@pytest.mark.parametrize(("height", "width"), [(5, 7), (256, 256), (299, 299), (400, 301)])
def test_resizing_is_tensorflows(height, width):
    """Against its definition, pixel by pixel, at some places."""
    x = torch.rand(1, 1, height, width)
    found = adm.resize(x, 299)
    assert found.shape == (1, 1, 299, 299)
    for i, j in ((0, 0), (1, 298), (150, 77), (298, 298), (298, 0), (97, 201)):
        y, z = i * height / 299, j * width / 299
        top, left = int(y), int(z)
        bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
        a, b = y - top, z - left
        value = (1 - a) * ((1 - b) * x[0, 0, top, left] + b * x[0, 0, top, right])
        value += a * ((1 - b) * x[0, 0, bottom, left] + b * x[0, 0, bottom, right])
        assert found[0, 0, i, j].item() == pytest.approx(value.item(), abs=1e-4)


def test_features_are_pooled_and_spatial(weights, network):
    extract = extractors.extractor("adm-inception-v3", str(weights), CPU)
    arrays = pictures(5, seed=0)
    vectors = np.concatenate(list(extract(map(Image.fromarray, arrays), 2)))
    pooled, spatial = by_hand(network, arrays)
    assert vectors.shape == (5, 2048 + 2023)
    assert vectors[:, :2048] == pytest.approx(pooled, abs=1e-5)
    assert vectors[:, 2048:] == pytest.approx(spatial, abs=1e-5)


def test_other_layers_are_refused():
    for layers in (nn.Sequential(nn.Flatten()), Network().layers[:1], nn.Sequential(OrderedDict(mixed_6=Block()))):
        with pytest.raises(UserError, match="its layers are not those of inception-2015-12-05.pt"):
            adm.ADMInception(layers)


def test_pictures_of_several_sizes_are_refused(weights):
    extract = extractors.extractor("adm-inception-v3", str(weights), CPU)
    mixed = [Image.fromarray(pictures(1, 0, side)[0]) for side in (64, 80)]
    with pytest.raises(
        UserError, match="image_size: adm-inception-v3 compares pictures of one size, and some are 64 x 64"
    ):
        list(extract(mixed, 2))
    cropped = extractors.extractor("adm-inception-v3", str(weights), CPU, image_size=64)
    assert next(cropped(mixed, 2)).shape == (2, 4071)


@pytest.fixture
def theirs(tmp_path, network):
    """A reference file as ADM's: statistics of 90 pictures, and 40 of these."""
    pooled, spatial = by_hand(network, pictures(90, seed=1))
    named = zip(
        ("mu", "sigma", "mu_s", "sigma_s"), (*distances.moments(pooled), *distances.moments(spatial)), strict=True
    )
    np.savez(tmp_path / "theirs.npz", arr_0=pictures(90, seed=1)[:40], **dict(named))
    return tmp_path / "theirs.npz"


@pytest.fixture
def samples(tmp_path):
    write_images(
        tmp_path / "images.zip", pictures(60, seed=2).transpose(0, 3, 1, 2), [f"{i:02d}" for i in range(60)], MADE
    )
    cost = {"images": 60, "evaluations": 60, "seconds": 1, "files": checksums(tmp_path, ["images.zip"])}
    (tmp_path / "images.json").write_bytes(sealed_json(cost))
    return tmp_path / "images.zip"


MADE = {"provenance": {"base": {"fingerprint": "0"}, "guidance": "none", "seed": 0, "settings": {}, "stage_version": 1}}


@pytest.mark.parametrize("prepared", [True, False])
def test_scores_beside_those_of_the_literature(prepared, theirs, samples, weights, network, tmp_path):
    own = ("--features", "adm-inception-v3", "--features-weights", weights)
    reference = theirs
    if prepared:
        reference = tmp_path / "r.npz"
        command(
            "prepare_reference", "--reference", theirs, "--output", reference, "--image-size", 64, *own, family=None
        )
        assert references.read_reference(reference).image_size == 64
    words = ("--ref", reference, "--samples", samples, "--output", tmp_path / "m.json", "--image-size", 64, *own)
    command("calculate_metrics", *words)
    record = json.loads((tmp_path / "m.json").read_text())
    (real, real_s), (fake, fake_s) = (by_hand(network, pictures(n, seed)) for n, seed in ((90, 1), (60, 2)))
    assert record["fid"] == pytest.approx(
        distances.frechet_distance(*distances.moments(fake), *distances.moments(real)), rel=1e-3
    )
    expected = distances.frechet_distance(*distances.moments(fake_s), *distances.moments(real_s))
    assert record["sfid"] == pytest.approx(expected, rel=1e-3)
    assert record["kid"] == pytest.approx(distances.kernel_distance(fake, real[:40]), rel=1e-3)
    assert (record["precision"], record["recall"]) == distances.precision_recall(real[:40], fake, 3)
    assert record["inception_score"] == pytest.approx(1, abs=0.2)
    assert record["features"] == "adm-inception-v3"


def test_a_reference_of_pictures_gives_the_same(weights, network, tmp_path):
    write_images(
        tmp_path / "images.zip", pictures(20, seed=1).transpose(0, 3, 1, 2), [f"{i:02d}" for i in range(20)], {}
    )
    extract = extractors.extractor("adm-inception-v3", str(weights), CPU)
    made = references.compute_reference(str(tmp_path / "images.zip"), extract, 10, 8, "test")
    references.write_reference(tmp_path / "r.npz", made)
    read = references.read_reference(tmp_path / "r.npz")
    pooled, spatial = by_hand(network, pictures(20, seed=1))
    for found, expected in zip(
        (read.mu, read.sigma, read.mu_s, read.sigma_s),
        (*distances.moments(pooled), *distances.moments(spatial)),
        strict=True,
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-4)
    assert read.features.shape == (10, 2048)
    assert read.extractor == "adm-inception-v3"


def test_scores_of_parts_are_averaged():
    sure = np.eye(4)[np.arange(40) % 4] * 50
    assert distances.inception_score(sure, np.eye(4), split=10) == pytest.approx(
        np.mean([distances.inception_score(sure[i : i + 10], np.eye(4)) for i in range(0, 40, 10)])
    )
    assert distances.inception_score(sure, np.eye(4), split=1) == pytest.approx(1)


def test_adms_file_is_for_no_other_extractor(theirs, weights, tmp_path, capsys):
    own = ("--reference", theirs, "--output", tmp_path / "r.npz", "--features", "inception-v3")
    with pytest.raises(SystemExit):
        command("prepare_reference", *own, "--features-weights", weights, family=None)
    assert (
        "theirs.npz: of adm-inception-v3 at image_size 0, not of inception-v3 at 0 as given" in capsys.readouterr().err
    )


BAD = {
    "grey pictures": (dict(arr_0=np.zeros((4, 8, 8), np.uint8)), "arr_0 is not pictures"),
    "pictures of floats": (dict(arr_0=np.zeros((4, 8, 8, 3), np.float32)), "arr_0 is not pictures"),
    "no pictures at all": (dict(arr_0=np.zeros((0, 8, 8, 3), np.uint8)), "arr_0 is not pictures"),
    "no covariance": (dict(mu_s=np.zeros(3), sigma_s=-np.eye(3)), "sigma_s is no covariance"),
    "statistics of others": (
        dict(mu_s=np.zeros(3), sigma_s=np.eye(3)),
        "mu and mu_s of width 2048 and 3 are not of ADM's evaluator",
    ),
    "half of sFID's": (dict(mu_s=np.zeros(3)), r"mu_s (3,) and sigma_s (0,) are not (D,) and (D, D)"),
}


@pytest.mark.parametrize(("changed", "line"), BAD.values(), ids=BAD)
def test_a_bad_file_of_adms_is_named(changed, line, theirs, weights, tmp_path, capsys):
    arrays = {
        name: value
        for name, value in np.load(theirs).items()
        if name not in ("mu_s", "sigma_s") or "mu_s" not in changed
    }
    np.savez(tmp_path / "bad.npz", **arrays | changed)
    own = ("--output", tmp_path / "r.npz", "--features", "adm-inception-v3", "--features-weights", weights)
    with pytest.raises(SystemExit):
        command("prepare_reference", "--reference", tmp_path / "bad.npz", *own, family=None)
    said = capsys.readouterr().err
    assert f"bad.npz: {line}" in said
    assert said.count("\n") == 1
    assert not (tmp_path / "r.npz").exists()


def header(shape, dtype="|u1"):
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


DAMAGE = {
    "empty": (b"", "its pictures (arr_0) can't be read (ValueError)"),
    "no array": (b"no array at all", "its pictures (arr_0) can't be read (ValueError)"),
    "a header of nonsense": (b"\x93NUMPY\x01\x00\x05\x00{{{{{", "its pictures (arr_0) can't be read ("),
    "fewer than none": (header("(-4, 8, 8, 3)"), "arr_0 is not pictures"),
    "wide without end": (header("(4, 2147483648, 4294967296, 3)"), "arr_0 is not pictures"),
    "more than there are": (header("(99, 8, 8, 3)") + bytes(8 * 8 * 3 * 7), "arr_0 ends at image 7 of 99"),
}


@pytest.mark.parametrize(("data", "line"), DAMAGE.values(), ids=DAMAGE)
def test_damaged_pictures_are_named(data, line, theirs, weights, tmp_path, capsys):
    with zipfile.ZipFile(theirs) as good, zipfile.ZipFile(tmp_path / "bad.npz", "w") as bad:
        for name in good.namelist():
            bad.writestr(name, data if name == "arr_0.npy" else good.read(name))
    refused(tmp_path, weights, line, capsys)


def test_a_flipped_bit_in_the_pictures_is_named(theirs, weights, tmp_path, capsys):
    data = bytearray(theirs.read_bytes())
    data[data.index(pictures(90, seed=1)[3].tobytes()[:32])] ^= 1
    (tmp_path / "bad.npz").write_bytes(data)
    refused(tmp_path, weights, "its pictures (arr_0) can't be read (BadZipFile)", capsys)


def refused(folder, weights, line, capsys):
    own = ("--output", folder / "r.npz", "--features", "adm-inception-v3", "--features-weights", weights)
    with pytest.raises(SystemExit) as end:
        command("prepare_reference", "--reference", folder / "bad.npz", *own, family=None)
    said = capsys.readouterr().err.splitlines()[-1]
    assert end.value.code == 2
    assert f"bad.npz: {line}" in said
    assert not (folder / "r.npz").exists()


def test_what_is_no_covariance_is_named(tmp_path):
    turned = np.eye(6) + 1000 * np.eye(6)[::-1]
    for sigma in (turned, np.eye(6) * 1e308):
        np.savez(tmp_path / "bad.npz", mu=np.zeros(6), sigma=sigma)
        with pytest.raises(UserError, match=r"bad.npz: (sigma is no covariance|mu or sigma has values that are no)"):
            references.read_reference(tmp_path / "bad.npz")
    np.savez(tmp_path / "long.npz", mu=np.zeros(6, np.longdouble), sigma=np.eye(6, dtype=np.longdouble))
    assert references.read_reference(tmp_path / "long.npz").sigma.dtype == np.float64
