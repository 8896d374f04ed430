"""Guidance at some of the steps: an interval of noise levels, a share of the steps, T-GATE. Evaluations are counted."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import command, random_text_to_image, settings_of
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)
from diffusers.callbacks import SDCFGCutoffCallback

from agd import sample
from agd.diffusion import schedulers
from agd.diffusion.guidance import guide
from agd.diffusion.sampling import generators, noise
from agd.runtime.errors import UserError
from agd.runtime.progress import progress_bar
from agd.sd.family import StableDiffusion
from agd.settings.written_values import guided_sigmas

STEPS = 8
PROMPTS = ["a cat in the rain", "a dog"]


def bar():
    return progress_bar(None, "test", total=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("base")
    random_text_to_image(prediction="v_prediction").save_pretrained(folder)
    (folder / "prompts.txt").write_text("\n".join(PROMPTS) + "\n")
    return str(folder)


@pytest.fixture(scope="module")
def opened(folder) -> StableDiffusion:
    return StableDiffusion(folder, torch.float32, torch.device("cpu"), conditions=True, images=True)


def chosen(folder, **changes):
    settings = settings_of("sample", sample, model="digits-sd", num_inference_steps=STEPS, guidance_scale=4, **changes)
    files = SimpleNamespace(prompt=None, prompt_file=f"{folder}/prompts.txt")
    return StableDiffusion.check(folder, files, settings)[0]


def sampled(opened, folder, guidance="cfg", **changes) -> tuple[np.ndarray, float]:
    """Images, and the counted evaluations of each."""
    images, cost = sample.sample_chunk(opened, chosen(folder, **changes), guidance, 3, [0, 1], PROMPTS, bar())
    return images, cost["evaluations"] / cost["images"]


def test_guiding_all_steps_or_none_is_cfg_or_none(opened, folder):
    cfg, none = sampled(opened, folder), sampled(opened, folder, "none")
    assert (cfg[1], none[1]) == (2 * STEPS, STEPS)
    everything = sampled(opened, folder, guided_sigmas="0-1000", guided_share=1)
    nothing = sampled(opened, folder, guided_share=0)
    assert np.array_equal(everything[0], cfg[0])
    assert everything[1] == 2 * STEPS
    assert np.array_equal(nothing[0], none[0])
    assert nothing[1] == STEPS


@pytest.mark.parametrize("guided", [1, 4, 7])
def test_a_share_of_the_steps_is_diffusers_cutoff(opened, folder, guided):
    ours, evaluations = sampled(opened, folder, guided_share=guided / STEPS)
    assert evaluations == STEPS + guided
    pipe = random_text_to_image(prediction="v_prediction")
    pipe.set_progress_bar_config(disable=True)
    stock = [  # one by one: the callback keeps the last prompt of a batch alone
        pipe(
            prompt,
            guidance_scale=4.0,
            generator=generators(3, "sample", [i]),
            num_inference_steps=STEPS,
            callback_on_step_end=SDCFGCutoffCallback(cutoff_step_ratio=None, cutoff_step_index=guided - 1),
            callback_on_step_end_tensor_inputs=["prompt_embeds"],
            output_type="np",
        ).images[0]
        for i, prompt in enumerate(PROMPTS)
    ]
    assert np.abs(ours.transpose(0, 2, 3, 1) / 255 - np.stack(stock)).mean() <= 0.5 / 255


def test_an_interval_of_noise_levels_guides_the_steps_inside(opened, folder):
    scheduler = opened.scheduler
    scheduler.set_timesteps(STEPS)
    levels = [schedulers.noise_level(scheduler, t) for t in scheduler.timesteps]
    assert levels == sorted(levels, reverse=True)
    inside = sum(0.5 <= level <= 5 for level in levels)
    assert 1 <= inside < STEPS
    images, evaluations = sampled(opened, folder, guided_sigmas="0.5-5")
    assert evaluations == STEPS + inside
    assert not np.array_equal(images, sampled(opened, folder)[0])


def test_t_gate_gives_the_last_guided_cross_attentions_again(opened, folder):
    """Against a loop written out here, with the outputs of cross-attentions replaced by hooks."""
    guided, w = 3, 4.0
    ours, evaluations = sampled(opened, folder, guided_share=guided / STEPS, cached_cross_attention=True)
    assert evaluations == STEPS + guided
    crossing = [m for m in opened.denoiser.modules() if getattr(m, "is_cross_attention", False)]
    assert len(crossing) > 3
    kept, step = {}, 0

    def hook(module, args, output):
        if step < guided:
            kept[module] = sum(output.chunk(2)) / 2
            return None
        return kept[module]

    conditions = opened.conditions(PROMPTS)
    without = opened.unconditional(conditions, chosen(folder))
    x, scheduler = noise(opened.latent_shape, generators(3, "sample", [0, 1])), opened.scheduler
    scheduler.set_timesteps(STEPS)
    handles = [m.register_forward_hook(hook) for m in crossing]
    with torch.no_grad():
        for step, t in enumerate(scheduler.timesteps):
            if step < guided:
                both = {k: torch.cat([v, without[k]]) for k, v in conditions.items()}
                output = guide(*opened.call(torch.cat([x, x]), t, both).chunk(2), w)
            else:
                output = opened.call(x, t, conditions)
            x = scheduler.step(output, t, x).prev_sample
    for handle in handles:
        handle.remove()
    assert np.abs(ours.astype(int) - opened.images(x).numpy().astype(int)).max() <= 1
    assert not np.array_equal(ours, sampled(opened, folder, guided_share=guided / STEPS)[0])
    assert np.array_equal(sampled(opened, folder)[0], sampled(opened, folder)[0])  # nothing stays behind


@pytest.mark.parametrize(
    "kind", [DDIMScheduler, EulerDiscreteScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler]
)
def test_noise_level_and_noised_latents_are_the_schedulers_own(kind):
    scheduler = kind(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    scheduler.set_timesteps(7)
    for t in scheduler.timesteps[1:-1]:
        level = schedulers.noise_level(scheduler, t)
        if kind is EulerDiscreteScheduler:
            at = scheduler.sigmas[scheduler.index_for_timestep(t)].item()
            assert level == pytest.approx(at, rel=1e-3)
        clean, fresh = torch.randn(2, 1, 3, 3), torch.randn(2, 1, 3, 3)
        theirs = scheduler.add_noise(clean, fresh, t.expand(2))
        if kind is EulerDiscreteScheduler:
            theirs = theirs / (at**2 + 1) ** 0.5  # as scale_model_input does
        assert torch.allclose(schedulers.noised(scheduler, clean, fresh, t), theirs, atol=2e-3)


def test_a_scheduler_with_more_passes_than_steps_is_guided_to_its_end(folder, tmp_path):
    """PNDM, the stock scheduler of Stable Diffusion 1, makes one pass more."""
    pipe = random_text_to_image(prediction="epsilon")
    pipe.scheduler = PNDMScheduler.from_config(pipe.scheduler.config, skip_prk_steps=True)
    pipe.save_pretrained(tmp_path / "pndm")
    opened = StableDiffusion(str(tmp_path / "pndm"), torch.float32, torch.device("cpu"), conditions=True, images=True)
    assert sampled(opened, folder)[1] == 2 * (STEPS + 1)
    assert sampled(opened, folder, guided_share=0.5)[1] == STEPS + 1 + 5  # half of nine, rounded up


def test_an_interval_is_written_from_low_to_high():
    assert guided_sigmas("0.3-5") == (0.3, 5.0)
    assert guided_sigmas("all") == (0, float("inf"))
    with pytest.raises(
        UserError, match=r"models\.x\.guided_sigmas: '5-0\.3' has no noise level inside; give the lower"
    ):
        guided_sigmas("5-0.3", "models.x.guided_sigmas")


def test_its_fidelity_is_measured_like_an_adapters(base, tmp_path):
    def measured(name, *words) -> dict:
        common = ("--guidance", "cfg", "--base-model", base, "--output", tmp_path / name, "--guidance-scales", "2")
        command("measure_fidelity", *common, "--num-trajectories", 4, "--num-inference-steps", 4, *words)
        return json.loads((tmp_path / name).read_text())["by_guidance_scale"]["2"]

    whole, nothing, half = (measured(f"{share}.json", "--guided-share", share) for share in (1, 0, 0.5))
    assert whole["unexplained"] == pytest.approx(0, abs=1e-9)
    assert whole["divergence"]["latents"] == pytest.approx(0, abs=1e-9)
    assert (nothing["unexplained"], nothing["captured"]) == (1, 0)
    assert nothing["divergence"]["images"] == pytest.approx(1)
    assert half["unexplained_by_timestep"] == pytest.approx([0, 0, 1, 1], abs=1e-9)
    assert half["divergence_by_timestep"][1] == pytest.approx(0, abs=1e-9)
    assert 0 < half["divergence_by_timestep"][-1] < 1
