"""What diffusers' own tests ask of each pipeline, asked of every served class: adapted, saved and loaded again, and unloaded."""

import inspect
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from adapted_pipelines import random_dit_pipeline, strong
from diffusers.callbacks import SDCFGCutoffCallback
from test_compose import Batches
from test_known_pipelines import CALLS, built

import agd
from agd.adapters import known_pipelines
from agd.adapters.pipelines import denoiser_of

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
CLASSES = sorted(known_pipelines.SERVED)
WITH_PROMPTS = [name for name in CLASSES if name != "DiTPipeline"]
# T2I-Adapter's pipelines have the older callback, which is not given the pipeline.
WITH_CALLBACKS = [name for name in WITH_PROMPTS if not name.endswith("AdapterPipeline")]
# The call of this one takes embeddings, and fails for them in diffusers itself.
WITH_EMBEDS = [name for name in WITH_PROMPTS if name != "KolorsImg2ImgPipeline"]
PROMPTS, LABELS, W = ["a cat in the rain", "a dog"], [3, 7], 4.0


def pipeline(name: str):
    return random_dit_pipeline() if name == "DiTPipeline" else built(name)


def folder(name: str, trained: dict[str, str]) -> str:
    if name.startswith("Kolors") and "kolors" not in trained:
        torch.manual_seed(7)
        trained["kolors"] = str(Path(trained["sdxl"]).with_name("kolors"))
        agd.save(strong(agd.attach(built(name), agd.AdapterConfig(hidden_size=8, zero_init=False))), trained["kolors"])
    kinds = {"Di": "dit", "Ko": "kolors"}
    return trained[kinds.get(name[:2], "sdxl" if "XL" in name else "sd")]


@pytest.fixture(params=CLASSES)
def adapted(request, trained):
    pipe = pipeline(request.param)
    agd.load(pipe, folder(request.param, trained))
    return pipe


@pytest.fixture(params=WITH_PROMPTS)
def prompted(request, trained):
    pipe = pipeline(request.param)
    agd.load(pipe, folder(request.param, trained))
    return pipe


with_callbacks = pytest.mark.parametrize("prompted", WITH_CALLBACKS, indirect=True)


def images(pipe, chosen=slice(None), **more) -> torch.Tensor:
    """Images of some of two prompts or classes. Each has noise and pictures of its own, whatever the batch."""
    name, steps = type(pipe).__name__, more.pop("steps", 2)
    noises = [torch.Generator().manual_seed(seed) for seed in (0, 1)][chosen]
    shared = dict(generator=noises, num_inference_steps=steps, guidance_scale=W) | more
    if name == "DiTPipeline":
        found = pipe(LABELS[chosen], output_type="np", **shared).images
        return torch.from_numpy(np.asarray(found))
    own = next(arguments for end, arguments in CALLS.items() if name.endswith(end))
    own = {key: value[chosen] if isinstance(value, torch.Tensor) else value for key, value in own.items()}
    follows_picture = "image" in own and not ("Adapter" in name or "ControlNetP" in name)
    takes_size = not follows_picture and "height" in inspect.signature(type(pipe).__call__).parameters
    sized = dict(height=16, width=16) if takes_size else {}
    asked = {} if "prompt_embeds" in more else dict(prompt=PROMPTS[chosen])
    return pipe(output_type="latent", **own, **sized, **asked, **shared).images


def close(one: torch.Tensor, other: torch.Tensor, tolerance: float = 1e-3) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, atol=tolerance, rtol=tolerance)


def test_equal_calls_give_equal_bits(adapted):
    assert torch.equal(images(adapted), images(adapted))


def test_adapters_are_seen(adapted):
    plain = images(adapted, guidance_scale=1.0)
    assert not close(images(adapted), plain)
    with Batches(denoiser_of(adapted)) as once:
        images(adapted)
    with Batches(denoiser_of(adapted)) as unguided:
        images(adapted, guidance_scale=1.0)
    assert once == unguided


def test_an_image_does_not_depend_on_its_batch(adapted):
    both = images(adapted)
    for i in range(2):
        assert close(both[i : i + 1], images(adapted, slice(i, i + 1)))


def test_unloading_gives_back_the_stock_pipeline_bit_for_bit(adapted, trained):
    name = type(adapted).__name__
    stock, state = images(pipeline(name)), torch.random.get_rng_state()
    agd.unload(adapted)
    assert type(adapted) is getattr(diffusers, name)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(images(adapted), stock)
    state = torch.random.get_rng_state()
    agd.load(adapted, folder(name, trained))
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.filterwarnings("ignore")
def test_saved_and_loaded_again_it_is_a_stock_pipeline_that_takes_them(adapted, trained, tmp_path):
    name, before = type(adapted).__name__, images(adapted)
    adapted.save_pretrained(tmp_path)
    assert not [path for path in tmp_path.rglob("*") if "agd" in path.name]
    again = getattr(diffusers, name).from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    if "PAG" in name:
        again.set_pag_applied_layers(["mid"])  # diffusers does not save them
    agd.load(again, folder(name, trained))
    assert close(images(again), before, 1e-5)


def test_half_precision(adapted):
    adapted.to(torch.bfloat16)
    found = images(adapted).float()
    assert found.isfinite().all()
    assert {parameter.dtype for parameter in denoiser_of(adapted).agd.parameters()} == {torch.float32}


def test_several_images_of_a_prompt(prompted):
    noises = [torch.Generator().manual_seed(seed) for seed in (0, 5)]
    two = images(prompted, slice(0, 1), num_images_per_prompt=2, generator=noises)
    assert len(two) == 2
    assert close(two[:1], images(prompted, slice(0, 1)))
    if "Inpaint" not in type(prompted).__name__:  # its masked picture is encoded with the first image's generator alone
        assert close(two[1:], images(prompted, slice(0, 1), generator=noises[1].manual_seed(5)))


@with_callbacks
def test_a_callback_sees_each_step_and_the_callers_scale(prompted):
    seen = []

    def note(pipe, step, timestep, tensors):
        seen.append((step, pipe.guidance_scale, pipe.do_classifier_free_guidance, sorted(tensors)))
        return tensors

    plain = images(prompted)
    assert torch.equal(images(prompted, callback_on_step_end=note), plain)
    assert seen == [(step, W, False, ["latents"]) for step in range(2)]

    def blank(pipe, step, timestep, tensors):
        return {"latents": torch.zeros_like(tensors["latents"])} if step == pipe.num_timesteps - 1 else tensors

    assert not images(prompted, callback_on_step_end=blank).any()


@with_callbacks
def test_a_callback_changes_the_scale_of_the_steps_to_come(prompted):
    def falls(pipe, step, timestep, tensors):
        assert pipe.guidance_scale == (W if step == 0 else 2.0)
        pipe._guidance_scale = 2  # a whole number will do
        return tensors

    by_callback = images(prompted, steps=3, callback_on_step_end=falls)
    first = int(prompted.scheduler.timesteps[0])
    assert close(by_callback, images(prompted, steps=3, guidance_scale=lambda t: W if int(t) >= first else 2.0), 1e-5)
    assert not close(by_callback, images(prompted, steps=3), 1e-5)


@pytest.mark.parametrize("prompted", WITH_EMBEDS, indirect=True)
def test_prompts_encoded_in_isolation(prompted, recwarn):
    """As in a script that encodes, then frees the encoders' memory: the negative embeddings are the empty prompt's."""
    encoded = prompted.encode_prompt(
        PROMPTS, device=torch.device("cpu"), num_images_per_prompt=1, do_classifier_free_guidance=True
    )
    names = ["prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds"]
    embeds = dict(zip(names, encoded, strict=False))
    with Batches(prompted.unet) as sizes:
        by_prompt = images(prompted)
    with Batches(prompted.unet) as by_embeds:
        assert close(images(prompted, **embeds), by_prompt, 1e-5)
    assert by_embeds == sizes
    assert not [one for one in recwarn if "beyond the adapter" in str(one.message)]
    embeds["negative_prompt_embeds"] = embeds["negative_prompt_embeds"] + 0.1
    with Batches(prompted.unet) as guided, pytest.warns(UserWarning, match="negative_prompt_embeds is beyond"):
        images(prompted, **embeds)
    assert guided[0] > sizes[0]


def test_diffusers_own_callback_stops_guidance(trained):
    pipe = pipeline("StableDiffusionPipeline")
    agd.load(pipe, folder("StableDiffusionPipeline", trained))
    one = slice(0, 1)
    cut = images(pipe, one, steps=4, callback_on_step_end=SDCFGCutoffCallback(cutoff_step_ratio=0.25))
    last = int(pipe.scheduler.timesteps[1])
    assert close(cut, images(pipe, one, steps=4, guidance_scale=lambda t: W if int(t) >= last else 0.0), 1e-5)
    assert not close(cut, images(pipe, one, steps=4))


def test_a_callback_sees_a_scale_for_each_image(trained):
    pipe = pipeline("StableDiffusionPipeline")
    agd.load(pipe, folder("StableDiffusionPipeline", trained))
    given = torch.tensor([2.0, 4.0])

    def halves(pipe, step, timestep, tensors):
        assert pipe.do_classifier_free_guidance is False
        if step == 0:
            assert pipe.guidance_scale.tolist() == [2.0, 4.0]
            pipe._guidance_scale *= 0.75
        else:
            assert pipe.guidance_scale.tolist() == [1.5, 3.0]
        return tensors

    by_callback = images(pipe, guidance_scale=given, callback_on_step_end=halves)
    assert given.tolist() == [2.0, 4.0]
    first = int(pipe.scheduler.timesteps[0])
    by_function = images(pipe, guidance_scale=lambda t: given * (1 if int(t) == first else 0.75))
    assert close(by_callback, by_function, 1e-5)
