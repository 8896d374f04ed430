"""Trajectories of `source: diffusion`: images with noise of their own at each timestep, and the guided output."""

import numpy as np
import pytest
import torch
from conftest import command
from PIL import Image

from agd.artifacts import trajectories
from agd.artifacts.labelled_images import LabelledImages, pixels
from agd.diffusion.guidance import guide
from agd.diffusion.sampling import generators, noise
from agd.dit.family import DiT
from agd.runtime.errors import UserError

COMMON = ("--num-trajectories", 6, "--num-inference-steps", 5, "--class-labels", "3,7", "--source", "diffusion")


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    command("prepare_digits", "--output", folder / "i.zip", "--annotations", folder / "a.zip", family=None)
    return folder / "i.zip"


def made(base, folder, *words) -> trajectories.Shard:
    command("sample_trajectories", "--base-model", base, "--output-dir", folder, *COMMON, *words)
    return trajectories.read(folder / "000000.zarr.zip")


def model(base) -> DiT:
    return DiT(base, torch.float32, torch.device("cpu"), images=True)


def test_inputs_are_noised_images_and_targets_guided_outputs(base, digits, tmp_path):
    # The tiny base takes RGB pictures; its autoencoder sees the grey digits in three equal channels.
    shard, dit = made(base, tmp_path, "--images", digits), model(base)
    assert shard.provenance["noised"] == LabelledImages(digits, [3, 7], 10).identity
    assert set(shard.conditions["class_label"].tolist()) == {3, 7}
    draw = generators(0, "trajectory", [2])
    w = (1 + 2 * torch.rand((), generator=draw[0])).item()
    pictures, labels = LabelledImages(digits, [3, 7], 10).drawn(draw)
    assert shard.guidance_scale[2] == pytest.approx(w)
    assert shard.conditions["class_label"][2] == labels[0]
    x_0 = dit.encode(pictures)
    for step, t in enumerate(shard.timesteps):
        fresh = torch.randn(dit.latent_shape, generator=draw[0])[None]
        x = dit.scheduler.add_noise(x_0, fresh, torch.tensor([int(t)]))
        assert np.allclose(shard.pairs[2, step, 0], x[0], atol=1e-5)
        cond, uncond = (dit.call(x, torch.tensor(t), {"class_label": torch.tensor([c])}) for c in (labels[0], 10))
        assert np.allclose(shard.pairs[2, step, 1], guide(cond, uncond, w)[0].detach(), atol=1e-4)


def test_without_images_unguided_samples_are_noised(base, tmp_path):
    shard = made(base, tmp_path)
    assert shard.provenance["noised"] == "unguided samples"
    assert shard.conditions["class_label"].tolist() == [3, 7, 3, 7, 3, 7]
    dit, draw = model(base), generators(0, "trajectory", [1])
    torch.rand((), generator=draw[0])  # its w
    dit.scheduler.set_timesteps(5)
    x = noise(dit.latent_shape, draw)
    with torch.no_grad():
        for t in dit.scheduler.timesteps:
            x = dit.scheduler.step(dit.call(x, t, {"class_label": torch.tensor([7])}), t, x).prev_sample
    for step, t in enumerate(dit.scheduler.timesteps):
        noised = dit.scheduler.add_noise(x, noise(dit.latent_shape, draw), t[None])
        assert np.allclose(shard.pairs[1, step, 0], noised[0], atol=1e-4)


def test_adapters_train_on_them(base, digits, tmp_path):
    made(base, tmp_path / "T", "--images", digits)
    words = ("--steps", 2, "--hidden-size", 4, "--batch-size", 4, "--log-interval", 1)
    command("train", "--dir", tmp_path / "R", "--data-path", tmp_path / "T", *words)
    assert (tmp_path / "R" / "adapter.safetensors").is_file()
    assert (tmp_path / "R" / "cost.json").is_file()


def pictures(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (9, 7), 100).save(folder / name)
    return folder


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (("cat/1.png", "dog/2.png", "dog/3-9.jpg"), {"cat/1.png": 0, "dog/2.png": 1, "dog/3-9.jpg": 1}),
        (("all/cat/1.png", "all/dog/2.png"), {"all/cat/1.png": 0, "all/dog/2.png": 1}),
        (("3/a.png", "10/b.png"), {"3/a.png": 3, "10/b.png": 10}),
        (("all/x-3.png", "all/y-1.png"), {"all/x-3.png": 3, "all/y-1.png": 1}),
        (("x-3.png", "more/y-1.png", "__MACOSX/x-3.png", ".hidden/q.png"), {"x-3.png": 3, "more/y-1.png": 1}),
    ],
    ids=["folders", "folders in a folder", "numbers", "names in a folder", "names"],
)
def test_classes_are_read_from_names_or_folders(tmp_path, names, labels):
    assert LabelledImages(pictures(tmp_path, *names), range(11), 2).labels == labels


@pytest.mark.parametrize(
    ("names", "total", "said"),
    [
        (("train/cat/1.png", "val/cat/2.png"), 2, "says no class; give a folder for each class and nothing else"),
        (("cat/1.png", "odd.png"), 1, "odd.png says no class"),
        (("cat/1.png", "dog/2.png"), 1000, "has 2 folders, and the model 1000 classes; give a folder for each class"),
        (("x-3.png",), 10, "shows none of the classes asked for"),
    ],
)
def test_images_without_clear_classes_are_refused(tmp_path, names, total, said):
    with pytest.raises(UserError, match=said):
        LabelledImages(pictures(tmp_path, *names), [0, 1], total)


def test_the_identity_is_that_of_the_contents(digits, tmp_path):
    folder = pictures(tmp_path, "a-0.png", "b-1.png")
    before = LabelledImages(folder, [0, 1], 10).identity
    Image.new("RGB", (50, 40)).save(folder / "b-1.png")
    assert LabelledImages(folder, [0, 1], 10).identity != before


def test_pictures_are_cropped_to_the_models_size():
    both = pixels([Image.new("RGB", (9, 7), (255, 0, 0)), Image.new("L", (4, 4), 0)], 4, 3)
    assert both.shape == (2, 3, 4, 4)
    assert both[0, :, 0, 0].tolist() == [1, -1, -1]
    assert (both[1] == -1).all()
    assert pixels([Image.new("RGB", (8, 8))], 4, 1).shape == (1, 1, 4, 4)


def test_guided_trajectories_take_no_images(base, digits, tmp_path, capsys):
    with pytest.raises(SystemExit):
        command("sample_trajectories", "--base-model", base, "--output-dir", tmp_path, "--images", digits)
    assert (
        "--images: guided trajectories begin with noise; leave it out, or set --source diffusion"
        in capsys.readouterr().err
    )
