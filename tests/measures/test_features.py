"""Extractors and references: digits, Inception, DINOv2, folders, zips and statistics."""

import io
import json
import zipfile

import numpy as np
import pytest
import timm
import torch
from conftest import command
from PIL import Image

from agd.artifacts.images import write_images
from agd.artifacts.sealed_json import checksums, sealed_json
from agd.digits.data import digits
from agd.digits.train_classifier import Settings, train
from agd.measures import distances, extractors, references
from agd.measures.digits_classifier import digit_tensor
from agd.runtime.errors import UserError

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    file = tmp_path_factory.mktemp("classifier") / "classifier.safetensors"
    command("train_classifier", "--output", file, "--steps", 300, family=None)
    return file


def extractor(classifier) -> extractors.Extractor:
    return extractors.extractor("digits-classifier", str(classifier), CPU)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """The first 60 digits as a folder and as a zip."""
    root, (pixels, _) = tmp_path_factory.mktemp("images"), digits()
    pixels = (pixels[:60] * 255).round().to(torch.uint8).numpy()
    write_images(root / "images.zip", pixels, [f"{i:02d}" for i in range(60)], {})
    (root / "folder" / "deep").mkdir(parents=True)
    with zipfile.ZipFile(root / "images.zip") as archive:
        for name in archive.namelist()[:-1]:
            (root / "folder" / "deep" / name).write_bytes(archive.read(name))
    return root


def test_classifier_learns_and_says_how_well(classifier):
    accuracy = json.loads(classifier.with_suffix(".json").read_text())["test_accuracy"]
    assert accuracy > 0.9
    _, untrained = train(Settings(1, 8, 1e-6, 0, "cpu"), CPU)
    assert untrained < 0.5


def test_folder_and_zip_give_the_same_statistics(classifier, images):
    a, b = (
        references.compute_reference(str(images / name), extractor(classifier), 1000, 16, "test")
        for name in ("folder", "images.zip")
    )
    assert a.n == b.n == 60
    assert np.allclose(a.features, b.features, atol=1e-5)
    mu, sigma = distances.moments(a.features)
    assert np.allclose(a.mu, mu, atol=1e-5)
    assert np.allclose(a.sigma, sigma, atol=1e-4)


def test_fewer_features_are_kept_but_all_are_counted(classifier, images):
    whole, some = (
        references.compute_reference(str(images / "images.zip"), extractor(classifier), most, 16, "test")
        for most in (1000, 10)
    )
    assert some.features.shape == (10, 64)
    assert np.allclose(some.mu, whole.mu)


def test_reference_round_trip_and_its_command(classifier, images, tmp_path):
    words = ["--features", "digits-classifier", "--features-weights", classifier]
    for name in ("a", "b"):
        command(
            "prepare_reference",
            "--reference",
            images / "images.zip",
            "--output",
            tmp_path / f"{name}.npz",
            *words,
            family=None,
        )
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    read = references.read_reference(tmp_path / "a.npz")
    assert (read.n, read.extractor) == (60, "digits-classifier")


def test_coco_s_zip_is_a_reference_as_it_is(classifier, tmp_path):
    """JPEG files, of several sizes, grey ones among them, in a folder inside the zip, beside the folder's own entry."""
    rng, reference = np.random.default_rng(0), {}
    with zipfile.ZipFile(tmp_path / "val2017.zip", "w") as archive:
        archive.writestr("val2017/", "")
        for i in (7, 3, 11, 5, 2):
            shape = (40 + i, 60 - i) if i == 11 else (40 + i, 60 - i, 3)
            buffer = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(buffer, "JPEG")
            archive.writestr(f"val2017/{i:012d}.jpg", buffer.getvalue())
            reference[i] = Image.open(buffer)
    words = ("--reference", tmp_path / "val2017.zip", "--output", tmp_path / "r.npz", "--features-weights", classifier)
    command("prepare_reference", *words, family=None)
    read = references.read_reference(tmp_path / "r.npz")
    (expected,) = extractor(classifier)([reference[i] for i in sorted(reference)], 5)
    assert read.n == 5
    assert np.allclose(read.features, expected, atol=1e-5)


def test_comparison_with_itself_and_with_noise(classifier, images):
    reference = references.compute_reference(str(images / "images.zip"), extractor(classifier), 1000, 16, "test")
    same = references.compare(reference.features, reference, 3)
    assert same["fid"] == pytest.approx(0, abs=1e-2)
    assert (same["precision"], same["recall"]) == (1, 1)
    noise = np.random.default_rng(0).normal(size=reference.features.shape).astype(np.float32) * 10
    assert references.compare(noise, reference, 3)["fid"] > 100


def test_bare_statistics_give_the_distance_only(tmp_path, classifier, images):
    reference = references.compute_reference(str(images / "images.zip"), extractor(classifier), 1000, 16, "test")
    np.savez(tmp_path / "theirs.npz", mu=reference.mu, sigma=reference.sigma)
    found = references.compare(reference.features, references.read_reference(tmp_path / "theirs.npz"), 3)
    assert found["fid"] == pytest.approx(0, abs=1e-2)
    assert found["kid"] is found["precision"] is found["recall"] is None


def test_a_photograph_is_cropped_at_its_centre():
    """Stripes of three colours: only the middle one is in the square."""
    wide = np.zeros((100, 300, 3), np.uint8)
    wide[:, :100, 0] = wide[:, 100:200, 1] = wide[:, 200:, 2] = 255
    for size in (20, 64, 100, 150):
        cropped = np.asarray(extractors.centre_crop(Image.fromarray(wide), size))
        assert cropped.shape == (size, size, 3)
        inner = cropped[:, 2:-2].reshape(-1, 3)
        assert (inner == [0, 255, 0]).all()
    square = Image.fromarray(wide[:, :100])
    assert extractors.centre_crop(square, 100) is square
    assert extractors.centre_crop(square, 0) is square


def test_a_reference_of_another_size_is_refused(classifier, images, tmp_path, capsys):
    words = ("--reference", images / "images.zip", "--output", tmp_path / "r.npz", "--features-weights", classifier)
    command("prepare_reference", *words, "--image-size", 6, family=None)
    cost = {"images": 60, "evaluations": 60, "seconds": 1, "files": checksums(images, ["images.zip"])}
    (images / "images.json").write_bytes(sealed_json(cost))
    given = ("--ref", tmp_path / "r.npz", "--samples", images / "images.zip", "--features-weights", classifier)
    with pytest.raises(SystemExit):
        command("calculate_metrics", *given, "--output", tmp_path / "m.json")
    said = "r.npz: of digits-classifier at image_size 6, not of digits-classifier at 0 as given; prepare it again"
    assert said in capsys.readouterr().err
    assert references.read_reference(tmp_path / "r.npz").image_size == 6


def test_statistics_of_another_extractor_are_refused(classifier, images, tmp_path, capsys):
    reference = references.compute_reference(str(images / "images.zip"), extractor(classifier), 1000, 16, "test")
    references.write_reference(
        tmp_path / "other.npz", references.Reference(**{**vars(reference), "extractor": "inception-v3"})
    )
    cost = {"images": 60, "evaluations": 60, "seconds": 1, "files": checksums(images, ["images.zip"])}
    (images / "images.json").write_bytes(sealed_json(cost))
    with pytest.raises(SystemExit):
        command(
            "calculate_metrics",
            *("--ref", tmp_path / "other.npz", "--samples", images / "images.zip", "--output", tmp_path / "m.json"),
            *("--features-weights", classifier),
        )
    said = "other.npz: of inception-v3 at image_size 0, not of digits-classifier at 0 as given; prepare it again"
    assert said in capsys.readouterr().err
    assert not (tmp_path / "m.json").exists()


def test_damaged_statistics_are_named(tmp_path):
    (tmp_path / "bad.npz").write_bytes(b"PK no")
    with pytest.raises(UserError, match="bad.npz: not an .npz of statistics"):
        references.read_reference(tmp_path / "bad.npz")
    np.savez(tmp_path / "flat.npz", mu=np.zeros(3), sigma=np.zeros(3))
    with pytest.raises(UserError, match=r"flat.npz: mu \(3,\) and sigma \(3,\)"):
        references.read_reference(tmp_path / "flat.npz")


@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore:`torch.jit:FutureWarning"
)  # clean-fid's resizer; torch.jit
def test_inception_goes_through_clean_fid(tmp_path, monkeypatch):
    class Layers(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean(1).flatten(1)[:, :2048]

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = Layers()
            self.output = torch.nn.Linear(2048, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layers(x)

    file = tmp_path / "weights.pt"
    torch.jit.script(Net()).save(str(file))
    monkeypatch.setattr(extractors, "INCEPTION_SHA256", extractors.sha256(file))
    extract = extractors.extractor("inception-v3", str(file), CPU)
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (40, 30, 3), dtype=np.uint8)) for _ in range(3)]
    (vectors,) = extract(pictures, 8)
    assert vectors.shape == (3, 2048)
    assert extract.class_weights.shape == (5, 2048)
    resized = extract.prepare(pictures[0])
    assert resized.shape == (3, 299, 299)
    assert vectors[0] == pytest.approx(((resized.mean(0) - 128) / 128).flatten()[:2048].numpy(), abs=1e-5)


def test_inception_is_kept_where_torch_keeps_downloads(tmp_path, monkeypatch):
    asked = []

    def fetch(url, path, key):
        asked.append((url, key))
        path.parent.mkdir(parents=True)
        path.write_bytes(b"weights")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(extractors.downloads, "fetch", fetch)
    for _ in range(2):
        with pytest.raises(UserError, match=r"inception-2015-12-05.pt is not .* \(its sha256 differs\)"):
            extractors.extractor("inception-v3", "", CPU)
    assert asked == [(extractors.downloads.INCEPTION, "features_weights")]
    assert (tmp_path / "hub" / "checkpoints" / "inception-2015-12-05.pt").is_file()


def test_dinov2_reads_a_local_file(tmp_path):
    name = "vit_small_patch14_dinov2"  # the smallest of the family; the real one is ViT-L/14
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False)
    from safetensors.torch import save_file

    save_file(model.state_dict(), tmp_path / "dino.safetensors")
    extract = extractors._dinov2(str(tmp_path / "dino.safetensors"), CPU, name)
    (vectors,) = extract([Image.new("RGB", (50, 60), "red"), Image.new("L", (8, 8))], 4)
    assert vectors.shape == (2, model.embed_dim)
    assert np.isfinite(vectors).all()


def test_a_picture_of_any_size_is_a_digit_tensor():
    assert digit_tensor(Image.new("RGB", (80, 80), "white")).shape == (1, 8, 8)
    buffer = io.BytesIO()
    Image.new("L", (8, 8), 128).save(buffer, "PNG")
    assert digit_tensor(Image.open(buffer))[0, 0, 0] == pytest.approx(128 / 255)
