"""Trajectories and images: what they hold, and that chunks, batches and order change nothing."""

import json

import numpy as np
import pytest
import torch
from conftest import command, settings_of
from diffusers import DiTPipeline

from agd import sample, sample_trajectories
from agd.artifacts import trajectories
from agd.artifacts.images import read_images
from agd.diffusion import schedulers
from agd.diffusion.guidance import guide
from agd.diffusion.sampling import generators, noise
from agd.dit.family import DiT
from agd.runtime.progress import progress_bar
from agd.runtime.seeds import seed_of
from agd.settings import schema

# Largest difference that another batch shape may make anywhere along 100 steps, relative to the largest value. Measured
# here: 8.6e-7 (the test prints it); the rest is room for other processors.
ROUNDING = 1e-5
CLASSES = list(range(10))


def model(base, images=False) -> DiT:
    return DiT(base, torch.float32, torch.device("cpu"), images=images)


def shard_of(base, indices, **changes) -> trajectories.Shard:
    chosen = settings_of("sample_trajectories", sample_trajectories, **changes)
    study = sample_trajectories.Trajectories(model(base), chosen, 7, CLASSES, None)
    return sample_trajectories.sample_shard(study, indices, progress_bar(None, "test", total=1))


def test_the_autoencoder_decodes_in_full_precision(base):
    opened = DiT(base, torch.bfloat16, torch.device("cpu"), images=True)
    assert (opened.denoiser.dtype, opened.vae.dtype) == (torch.bfloat16, torch.float32)
    assert opened.images(torch.zeros(1, *opened.latent_shape)).dtype == torch.uint8


def test_seeds_belong_to_the_sample_and_differ_by_everything():
    seeds = [seed_of(s, purpose, i) for s in (0, 1) for purpose in ("trajectory", "sample") for i in range(100)]
    assert len(set(seeds)) == len(seeds)
    assert torch.equal(noise((2, 3), generators(0, "a", [4, 5]))[1], noise((2, 3), generators(0, "a", [5]))[0])


@pytest.mark.parametrize("sizes", [(1,), (7,), (20,)], ids=["chunks of 1", "chunks of 7", "one chunk"])
@pytest.mark.parametrize("batch_size", [1, 16])
def test_chunks_and_batches_change_only_rounding(base, sizes, batch_size):
    whole = shard_of(base, list(range(20)), num_inference_steps=100, batch_size=20)
    (size,) = sizes
    parts = [
        shard_of(base, list(range(i, min(i + size, 20))), num_inference_steps=100, batch_size=batch_size)
        for i in range(0, 20, size)
    ]
    pairs = np.concatenate([part.pairs for part in parts])
    gap = (np.abs(pairs - whole.pairs).max() / np.abs(whole.pairs).max()).item()
    print(f"largest difference, relative to the largest value: {gap:.2g}")
    assert gap <= ROUNDING
    assert [w for part in parts for w in part.guidance_scale.tolist()] == whole.guidance_scale.tolist()
    assert [c for part in parts for c in part.conditions["class_label"].tolist()] == [i % 10 for i in range(20)]


def test_equal_batch_shapes_are_equal_bits_in_any_order(base):
    forward = [shard_of(base, [i, i + 1], batch_size=2) for i in (0, 2, 4)]
    backward = [shard_of(base, [i, i + 1], batch_size=2) for i in (4, 2, 0)][::-1]
    same = [np.array_equal(a.pairs, b.pairs) for a, b in zip(forward, backward, strict=True)]
    assert same == [True] * 3


def test_a_trajectory_is_guided_sampling_and_its_target_is_the_guided_output(base):
    made = shard_of(base, [3], num_inference_steps=6)
    dit, w = model(base), made.guidance_scale[0].item()
    assert 1 <= w <= 3
    scheduler = schedulers.scheduler(dit.scheduler, "ddim")
    scheduler.set_timesteps(6)
    x = noise(dit.latent_shape, _after_scale(generators(7, "trajectory", [3])))
    for step, t in enumerate(scheduler.timesteps):
        assert made.timesteps[step] == t
        cond, uncond = (dit.call(x, t, {"class_label": torch.tensor([label])}) for label in (3, 10))
        guided = guide(cond, uncond, w)
        assert np.allclose(made.pairs[0, step, 0], x[0], atol=1e-5)
        assert np.allclose(made.pairs[0, step, 1], guided[0].detach(), atol=1e-5)
        x = scheduler.step(guided, t, x).prev_sample


def _after_scale(draw):
    """The generators after each has drawn its w."""
    for generator in draw:
        torch.rand((), generator=generator)
    return draw


def test_guided_channels_are_an_explicit_choice(base):
    all_guided = shard_of(base, [0], num_inference_steps=1)
    one = shard_of(base, [0], num_inference_steps=1, guided_channels=1)
    assert np.array_equal(all_guided.pairs[0, 0, 1, 0], one.pairs[0, 0, 1, 0])
    assert not np.allclose(all_guided.pairs[0, 0, 1, 1], one.pairs[0, 0, 1, 1])
    assert one.provenance["settings"]["guided_channels"] == 1


def test_a_learned_sigma_is_left_out(sigma_base):
    made = shard_of(sigma_base, [0, 1])
    assert made.pairs.shape[2:] == (2, 2, 4, 4)
    dit = model(sigma_base)
    raw = dit.denoiser(torch.zeros(1, 2, 4, 4), timestep=torch.tensor([9]), class_labels=torch.tensor([1])).sample
    assert raw.shape[1] == 4
    mean = dit.call(torch.zeros(1, 2, 4, 4), torch.tensor(9), {"class_label": torch.tensor([1])})
    assert torch.equal(mean, raw[:, :2])


def test_unguided_images_are_those_of_the_stock_pipeline(base):
    chosen = settings_of("sample", sample, num_inference_steps=8, guidance_scale=1)
    ours, cost = sample.sample_chunk(
        model(base, True), chosen, "none", 3, [2, 5], CLASSES, progress_bar(None, "test", total=1)
    )
    pipe = DiTPipeline.from_pretrained(base)
    pipe.set_progress_bar_config(disable=True)
    stock = pipe(
        [2, 5], guidance_scale=1.0, generator=generators(3, "sample", [2, 5]), num_inference_steps=8, output_type="np"
    )
    assert np.abs(ours.transpose(0, 2, 3, 1) / 255 - stock.images).max() <= 0.5 / 255 + 1e-4
    assert cost["evaluations"] / cost["images"] == 8


def test_two_passes_cost_twice_and_are_counted(base):
    chosen = settings_of("sample", sample, num_inference_steps=8)
    _, cost = sample.sample_chunk(
        model(base, True), chosen, "cfg", 3, [2, 5, 7], CLASSES, progress_bar(None, "test", total=1)
    )
    assert cost["evaluations"] / cost["images"] == 16


def test_images_do_not_depend_on_chunks(base, tmp_path):
    common = ["--guidance", "cfg", "--base-model", base, "--num-samples", 10, "--num-inference-steps", 4]
    command("sample", *common, "--output-dir", tmp_path / "one", "--chunk-size", 10, "--batch-size", 16)
    command("sample", *common, "--output-dir", tmp_path / "many", "--chunk-size", 7, "--batch-size", 1)
    one, many = ({}, {})
    for folder, found in (("one", one), ("many", many)):
        for file in sorted((tmp_path / folder).glob("*.zip")):
            found |= read_images(file)[0]
    assert list(one) == list(many) == [f"{i:06d}.png" for i in range(10)]
    gap = max(np.abs(np.asarray(one[name], int) - np.asarray(many[name], int)).max() for name in one)
    assert gap <= 1
    assert (tmp_path / "one.png").is_file()


def test_one_shard_by_itself_is_the_same_file(base, tmp_path):
    words = [
        "--base-model",
        base,
        "--num-trajectories",
        10,
        "--chunk-size",
        5,
        "--num-inference-steps",
        4,
        "--batch-size",
        5,
    ]
    command("sample_trajectories", *words, "--output-dir", tmp_path / "all")
    command("sample_trajectories", *words, "--output-dir", tmp_path / "own", "--first", 5, "--count", 5)
    files = [f"{first}.zarr.{kind}" for first in ("000000", "000005") for kind in ("json", "zip")]
    assert sorted(f.name for f in (tmp_path / "all").iterdir()) == files
    assert (tmp_path / "all" / "000005.zarr.zip").read_bytes() == (tmp_path / "own" / "000005.zarr.zip").read_bytes()


def test_a_job_makes_its_chunk_whatever_the_default_number_in_all(base, tmp_path):
    """Jobs aren't told the number in all, so that it is the default model's: chunks beyond it were refused once."""
    few = ("--base-model", base, "--num-inference-steps", 2, "--batch-size", 2)
    command("sample_trajectories", *few, "--num-trajectories", 3, "--output-dir", tmp_path, "--first", 4, "--count", 2)
    assert trajectories.read(tmp_path / "000004.zarr.zip").index.tolist() == [4, 5]
    words = ("--guidance", "none", "--num-samples", 3, "--output-dir", tmp_path, "--first", 4, "--count", 2)
    command("sample", *few, *words)
    assert list(read_images(tmp_path / "000004.zip")[0]) == ["000004.png", "000005.png"]


def test_what_a_shard_says_of_itself(base):
    made = shard_of(base, [0]).provenance
    assert made["stage"] == "sample_trajectories"
    assert set(made["settings"]) == set(
        schema.result_settings("sample_trajectories", schema.properties("sample_trajectories", "dit"))
    )
    assert made["base"]["name"] == base
    assert len(made["base"]["fingerprint"]) == 64
    json.dumps(made)
