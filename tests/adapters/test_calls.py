"""What one call may ask of an adapted denoiser, and what it gets that shares one: other pipelines, and calls within calls."""

import asyncio
import copy
import dataclasses
import pickle

import diffusers
import peft
import pytest
import torch
from adapted_pipelines import batches, close, images, observed, pipeline

import agd
from agd.artifacts.sealed_json import read_json, write_sealed
from agd.runtime.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


def told(denoiser) -> list:
    """Fills with the guidance scales that the adapters were told in each pass from now on."""
    found = []
    denoiser.register_forward_hook(
        lambda *_: found.append(None if denoiser.agd.current.w_B is None else denoiser.agd.current.w_B.tolist())
    )
    return found


# Another pipeline over the same denoiser is a stock one


def by_components(pipe):
    return diffusers.StableDiffusionPipeline(**pipe.components, requires_safety_checker=False)


SECOND = {
    "from_pipe": diffusers.StableDiffusionPipeline.from_pipe,
    "AutoPipeline": diffusers.AutoPipelineForText2Image.from_pipe,
    "components": by_components,
    "panorama, which is refused": lambda pipe: diffusers.StableDiffusionPanoramaPipeline.from_pipe(pipe),
    "PAG": lambda pipe: diffusers.StableDiffusionPAGPipeline.from_pipe(pipe, pag_applied_layers=["mid"]),
}
ASKED = {
    "nothing more": {},
    "a negative prompt": dict(negative_prompt="a dog"),
    "rescaling": dict(guidance_rescale=0.7),
    "a scale beyond 32": dict(guidance_scale=40.0),
}


LACK_RESCALING = ("panorama, which is refused", "PAG")  # an argument that these classes don't have
CASES = [(s, a) for s in SECOND for a in ASKED if (a != "rescaling" or s not in LACK_RESCALING)]


@pytest.mark.parametrize(("second", "asked"), CASES)
def test_a_pipeline_that_nobody_loaded_is_the_stock_one(second, asked, loaded):
    make, call = SECOND[second], ASKED[asked]
    stock = quiet(make(pipeline()))
    size = dict(height=64, width=64) if "Panorama" in type(stock).__name__ else {}
    expected = images(stock, **size, **call)
    other = quiet(make(loaded[0]))
    with pytest.warns(
        UserWarning, match="without a guidance scale and answers as the base model; use agd.load on this"
    ):
        assert close(images(other, **size, **call), expected, 1e-3)
    assert close(images(other, **size, **call), expected, 1e-3)  # said once


def test_once_loaded_it_makes_one_pass(loaded, trained):
    pipe, _ = loaded
    other = quiet(diffusers.AutoPipelineForText2Image.from_pipe(pipe))
    agd.load(other, trained["sd"])
    found = observed(pipe.unet)
    assert torch.equal(images(other), images(pipe))
    assert batches(found) == [1, 1, 1, 1]


def test_a_denoiser_merged_for_one_scale_answers_no_call_without(tmp_path):
    pipe = pipeline()
    config = agd.AdapterConfig(kind="lora", rank=2, hidden_size=8, embedding=False, gain=True, zero_init=False)
    adapters = agd.attach(pipe, config)
    adapters.fuse(4.0)
    other = quiet(diffusers.StableDiffusionPipeline.from_pipe(pipe))
    with pytest.raises(UserError, match="merged for w = 4 .*this call sets no guidance scale; use agd.load on this"):
        images(other)
    images(pipe)


# A call within a call


@pytest.mark.parametrize("inner", [dict(guidance_scale=2.0), dict(guidance_scale=1.0), dict(negative_prompt="a dog")])
@pytest.mark.parametrize("outer", [dict(guidance_scale=4.0), dict(negative_prompt="a fish")])
@pytest.mark.filterwarnings("ignore:agd. negative_prompt is beyond")
def test_a_call_in_a_callback_is_the_call_alone(outer, inner, trained, loaded):
    pipe, _ = loaded
    scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
    other = quiet(diffusers.StableDiffusionPipeline.from_pipe(pipe, scheduler=scheduler))
    agd.load(other, trained["sd"])
    alone, expected, found = images(other, **inner), images(pipe, steps=3, **outer), []

    def callback(*arguments):
        if not found:
            found.append(images(other, **inner))
        return {}

    assert torch.equal(images(pipe, steps=3, callback_on_step_end=callback, **outer), expected)
    assert torch.equal(found[0], alone)
    assert torch.equal(images(pipe, steps=3, **outer), expected)


def test_a_users_scale_in_a_callback_counts(loaded, trained):
    pipe, adapters = loaded
    other = quiet(by_components(pipe))
    agd.load(other, trained["sd"])
    expected, found = images(other, guidance_scale=3.0), []

    def callback(*arguments):
        with adapters.scale(3.0):
            found.append(images(other, guidance_scale=5.0))
        return {}

    images(pipe, callback_on_step_end=callback)
    assert torch.equal(found[0], expected)


def test_adapters_stay_while_a_call_lasts(loaded):
    pipe, _ = loaded
    with pytest.raises(UserError, match="a call with these adapters is not over yet"):
        images(pipe, callback_on_step_end=lambda *_: agd.unload(pipe))
    agd.unload(pipe)
    assert torch.equal(images(pipe), images(pipeline()))


@pytest.mark.parametrize("merged", [False, True])
def test_a_pipeline_that_nobody_loaded_is_the_stock_one_in_a_callback_too(merged):
    pipe, stock = pipeline(), pipeline()
    config = agd.AdapterConfig(kind="lora", rank=2, hidden_size=8, embedding=False, gain=True, zero_init=False)
    adapters = agd.attach(pipe, config)
    if merged:
        adapters.fuse(4.0)
    scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
    other = quiet(diffusers.StableDiffusionPipeline.from_pipe(pipe, scheduler=scheduler))
    found = []

    def callback(*arguments):
        found.append(images(other))
        return {}

    if merged:
        with pytest.raises(UserError, match="merged for w = 4 .*this call sets no guidance scale"):
            images(pipe, callback_on_step_end=callback)
        return
    with pytest.warns(UserWarning, match="answers as the base model"):
        images(pipe, callback_on_step_end=callback)
    assert close(found[0], images(stock), 1e-3)


def test_scales_that_end_in_another_order_than_they_began(loaded):
    pipe, adapters = loaded
    found = told(pipe.unet)

    def block(w):
        with adapters.scale(w):
            yield images(pipe)
            yield images(pipe)

    first, second = block(2.0), block(6.0)
    next(first), next(second)
    assert found[-4:] == [[2.0], [2.0], [6.0], [6.0]]
    first.close()
    next(second)
    assert found[-1] == [6.0]
    second.close()
    images(pipe, guidance_scale=4.0)
    assert found[-1] == [4.0]


def test_tasks_have_a_scale_of_their_own(loaded):
    pipe, adapters = loaded
    found = told(pipe.unet)

    async def task(w):
        with adapters.scale(w):
            await asyncio.sleep(0.01)
            images(pipe)
            return found[-1]

    async def both():
        return await asyncio.gather(task(2.0), task(6.0))

    async def elsewhere():
        with adapters.scale(3.0):
            await asyncio.to_thread(images, pipe)
            return found[-1]

    assert asyncio.run(both()) == [[2.0], [6.0]]
    assert asyncio.run(elsewhere()) == [3.0]
    images(pipe, guidance_scale=4.0)
    assert found[-1] == [4.0]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda pipe: pickle.loads(pickle.dumps(pipe))])
def test_a_copy_keeps_no_scale_of_the_moment(copied, loaded):
    pipe, adapters = loaded
    with adapters.scale(2.0):
        twin = copied(pipe)
    copies = []
    images(pipe, callback_on_step_end=lambda *_: copies.append(copied(pipe)) or {})
    for one in (twin, copies[0]):
        assert torch.equal(images(quiet(one)), images(pipe))


def test_scales_of_a_denoiser_are_one_per_sample(loaded):
    pipe, adapters = loaded
    call = dict(prompt=["a cat", "a dog"], guidance_scale=1.0)
    agd.load(pipe, adapters.source)
    other = quiet(diffusers.StableDiffusionPipeline.from_pipe(pipe))
    for scales in ([2.0, 5.0], torch.tensor([2.0, 5.0])):
        with adapters.scale(scales):
            found = told(pipe.unet)
            images(other, **call)
            assert found[-1] == [2.0, 5.0]
            with pytest.raises(UserError, match="2 values for a batch of 4; give one, or one per sample"):
                images(other, num_images_per_prompt=2, **call)


def test_an_exact_scale_reaches_a_call_in_two_passes(loaded):
    pipe, found = loaded[0], []
    call = dict(negative_prompt="a dog", callback_on_step_end=lambda pipe, *_: found.append(pipe.guidance_scale) or {})
    with pytest.warns(UserWarning, match="beyond the adapter"):
        images(pipe, guidance_scale=4.1, **call)
    assert found == [4.1, 4.1]  # not its nearest float32


# Scales that can't be


BAD = {
    "empty": ([], "a tensor of shape (0,)"),
    "a list of lists": ([[4.0]], "[4.0] is not a finite number"),
    "text in a list": (["4"], "'4' is not a finite number"),
    "text": ("4", "'4' is not a finite number"),
    "nothing": (None, "None is not a finite number"),
    "a column": (torch.ones(2, 1), "a tensor of shape (2, 1)"),
    "a function that gives nothing": (lambda t: None, "guidance scale of a timestep: None is not a finite number"),
    "a function that gives nan": (lambda t: float("nan"), "nan is not a finite number"),
    "a function that gives a tensor of inf": (lambda t: torch.tensor(float("inf")), "not finite"),
}


@pytest.mark.parametrize(("w", "line"), BAD.values(), ids=BAD)
def test_a_scale_that_cannot_be_is_named(w, line, loaded):
    for more in ({}, dict(negative_prompt="a dog")):
        if callable(w) and more:
            continue
        with pytest.raises(UserError) as said:
            images(loaded[0], guidance_scale=w, **more)
        assert line in str(said.value)


@pytest.mark.parametrize(("prompts", "each", "scales"), [(4, 1, 2), (1, 4, 2), (2, 3, 3), (3, 1, 2), (2, 1, 3)])
def test_scales_are_one_or_per_prompt_or_per_image(prompts, each, scales, loaded):
    call = dict(prompt=["a cat"] * prompts, num_images_per_prompt=each)
    with pytest.raises(UserError, match=f"{scales} values for {prompts} prompts of {each} images"):
        images(loaded[0], guidance_scale=[2.0 + i for i in range(scales)], **call)
    found = told(loaded[0].unet)
    images(loaded[0], guidance_scale=[2.0 + i for i in range(prompts)], **call)
    assert found[0] == [2.0 + i for i in range(prompts) for _ in range(each)]
    images(loaded[0], guidance_scale=[2.0 + i for i in range(prompts * each)], **call)
    assert found[-1] == [2.0 + i for i in range(prompts * each)]


def test_a_list_of_scales_beside_embeddings_of_a_picture(loaded):
    call = {"prompt": ["a", "b"], "ip_adapter_image_embeds": [torch.zeros(4, 1, 8)]}
    for scales in ([2.0, 3.0], torch.tensor([2.0, 3.0])):
        found = told(loaded[0].unet)
        images(loaded[0], guidance_scale=scales, **call)
        assert found[-1] == [2.0, 3.0]


def test_a_callback_that_takes_half_is_named(loaded):
    def halve(pipe, step, timestep, tensors):
        return {"prompt_embeds": tensors["prompt_embeds"].chunk(2)[-1]}

    call = dict(callback_on_step_end=halve, callback_on_step_end_tensor_inputs=["prompt_embeds"])
    with pytest.raises(UserError, match="callback_on_step_end: gave prompt_embeds of 1 and got 2; .* one pass"):
        images(loaded[0], prompt=["a cat", "a dog"], **call)


def test_the_pipeline_shows_the_callers_scale_afterwards(loaded):
    pipe, _ = loaded
    images(pipe, guidance_scale=4.0, callback_on_step_end=lambda *_: {})
    assert pipe.guidance_scale == 4.0
    agd.unload(pipe)
    assert "_in_callback" not in vars(pipe)


# Loading


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_the_default_dtype_is_not_the_adapters(dtype, trained):
    expected, pipe = pipeline(), pipeline()
    agd.load(expected, trained["sd"])
    torch.set_default_dtype(dtype)
    try:
        agd.load(pipe, trained["sd"])
        if dtype == torch.float64:  # in the others, stock pipelines fail too
            images(pipe)
    finally:
        torch.set_default_dtype(torch.float32)
    assert {values.dtype for values in pipe.unet.agd.parameters()} == {torch.float32}
    assert torch.equal(images(pipe), images(expected))


def test_a_changed_property_is_a_changed_class(trained):
    class Half(diffusers.StableDiffusionPipeline):
        @property
        def guidance_scale(self):
            return self._guidance_scale / 2

    with pytest.raises(UserError, match="Half: .* it changes guidance_scale of StableDiffusionPipeline"):
        agd.load(Half(**pipeline().components, requires_safety_checker=False), trained["sd"])


def test_a_replaced_call_is_named(loaded, monkeypatch):
    stock = diffusers.StableDiffusionPipeline.__call__
    monkeypatch.setattr(diffusers.StableDiffusionPipeline, "__call__", lambda self, *a, **k: stock(self, *a, **k))
    with pytest.raises(UserError, match="its call was replaced by one that doesn't name guidance_scale"):
        images(loaded[0])


def test_what_is_no_configuration_and_no_name_is_refused():
    with pytest.raises(UserError, match=r"config: dict is no agd.AdapterConfig"):
        agd.attach(pipeline(), dataclasses.asdict(agd.AdapterConfig()))
    with pytest.raises(UserError, match="name: NoneType is neither a folder nor a hub id"):
        agd.load(pipeline(), None)


def test_saving_by_the_pipeline_or_its_denoiser(loaded, tmp_path):
    pipe, adapters = loaded
    for name, target in (("a", adapters), ("b", pipe), ("c", pipe.unet)):
        agd.save(target, tmp_path / name)
        assert (tmp_path / name / "adapter.safetensors").read_bytes() == (
            tmp_path / "a" / "adapter.safetensors"
        ).read_bytes()
    with pytest.raises(UserError, match="StableDiffusionPipeline: it carries no adapters"):
        agd.save(pipeline(), tmp_path / "d")


@pytest.mark.parametrize("given", ["1-10", [1], [8, 1], [1, float("nan")], None, {"low": 1}])
def test_a_range_that_is_none_is_named(given, loaded, trained, tmp_path):
    with pytest.raises(UserError, match="record: guidance_scale_range .* is no range; give two numbers"):
        agd.save(loaded[1], tmp_path / "new", {"guidance_scale_range": given})
    assert not (tmp_path / "new").exists()
    agd.save(loaded[1], tmp_path / "old")
    described = read_json(tmp_path / "old" / "config.json")
    described.pop("sha256", None)
    write_sealed(tmp_path / "old" / "config.json", {**described, "guidance_scale_range": "1-10"})
    with pytest.raises(UserError, match=r"config.json: guidance_scale_range '1-10' is no range"):
        agd.load(pipeline(), tmp_path / "old")


@pytest.mark.parametrize("shape", [None, [], "x"])
def test_a_shape_that_is_none_is_named(shape, loaded, tmp_path):
    agd.save(loaded[1], tmp_path)
    described = read_json(tmp_path / "config.json")
    described.pop("sha256", None)
    write_sealed(tmp_path / "config.json", {**described, "base_shape": shape})
    with pytest.raises(UserError, match=r"config.json: not an agd adapter's configuration"):
        agd.load(pipeline(), tmp_path)


def test_a_lora_that_is_taken_off_leaves_no_module_in_training(trained):
    pipe = pipeline()
    pipe.unet.add_adapter(peft.LoraConfig(r=2, target_modules=["to_q", "to_k"]))
    agd.load(pipe, trained["sd"])
    pipe.unet.delete_adapters("default")
    pipe.unload_lora_weights()
    agd.unload(pipe)
    assert not [name for name, module in pipe.unet.named_modules() if module.training]
    assert close(images(pipe), images(pipeline()))
