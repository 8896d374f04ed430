"""The public door: `import agd` in anybody's script, on stock pipelines."""

import concurrent.futures
import copy
import pickle
import subprocess
import sys
import threading
import warnings

import diffusers
import huggingface_hub
import peft
import pytest
import torch
import yaml
from adapted_pipelines import RECORD, batches, close, images, observed, pipeline, random_dit_pipeline
from conftest import random_dit, random_unet
from diffusers import DiTPipeline

import agd
from agd.artifacts.sealed_json import json_bytes, read_json
from agd.runtime.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def test_importing_costs_nothing():
    code = "import agd, sys; assert 'torch' not in sys.modules; print(agd.__version__)"
    assert (
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
        == "0.1.0"
    )


def test_readme_example_on_a_stock_pipeline(base, tmp_path):
    model = random_dit()
    adapters = agd.attach(model, agd.AdapterConfig(hidden_size=8, zero_init=False))
    agd.save(adapters, tmp_path)
    pipe = DiTPipeline.from_pretrained(base)
    pipe.set_progress_bar_config(disable=True)

    before = images(pipe, guidance_scale=1.0)
    adapters = agd.load(pipe.transformer, tmp_path)
    with adapters.scale(2.0):
        assert not torch.allclose(images(pipe, guidance_scale=1.0), before)
    agd.detach(pipe.transformer)
    assert torch.equal(images(pipe, guidance_scale=1.0), before)


@pytest.mark.parametrize(
    ("kind", "make", "samples"),
    [("sd", pipeline, 1), ("sdxl", lambda: pipeline(double=True), 1), ("dit", random_dit_pipeline, 2)],
)
def test_twenty_steps_are_twenty_calls_and_unloading_leaves_no_trace(kind, make, samples, trained):
    pipe = make()
    denoiser = pipe.transformer if kind == "dit" else pipe.unet
    traits = set(vars(denoiser)), type(pipe), list(denoiser.state_dict()), dict(vars(denoiser.config))
    found = observed(denoiser)
    before = images(pipe, steps=20)
    assert batches(found) == [2 * samples] * 20
    found.clear()
    agd.load(pipe, trained[kind])
    adapted = images(pipe, steps=20)
    assert batches(found) == [samples] * 20
    assert not close(adapted, before)
    assert not close(adapted, images(pipe, steps=20, guidance_scale=5.0))
    agd.unload(pipe)
    assert torch.equal(images(pipe, steps=20), before)
    assert (set(vars(denoiser)), type(pipe), list(denoiser.state_dict()), dict(vars(denoiser.config))) == traits
    with pytest.raises(UserError, match="carries no adapters"):
        agd.unload(pipe)


def test_a_model_in_training_mode_is_given_back_so(trained):
    model = random_dit()
    parts = [model.pos_embed, model.transformer_blocks[0]]
    for part in parts:
        part.train()
    before = {name: module.training for name, module in model.named_modules()}
    adapters = agd.attach(model, agd.AdapterConfig(hidden_size=8))
    assert not any(part.training for part in parts)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {
        f"agd.{name}" for name, _ in adapters.named_parameters()
    }
    agd.detach(model)
    assert {name: module.training for name, module in model.named_modules()} == before
    assert all(parameter.requires_grad for parameter in model.parameters() if parameter.is_floating_point())


def test_what_a_user_set_on_the_denoiser_is_given_back(trained):
    """A recomputing function of their own in some blocks only, and a `save_pretrained` of their own."""
    pipe = pipeline()

    def own(*args):
        raise AssertionError("never called here")

    blocks = {name: m for name, m in pipe.unet.named_modules() if hasattr(m, "gradient_checkpointing")}
    chosen = next(iter(blocks.values()))
    chosen.gradient_checkpointing, chosen._gradient_checkpointing_func = True, own
    pipe.unet.save_pretrained = own
    agd.load(pipe, trained["sd"])
    assert chosen._gradient_checkpointing_func == pipe.unet.agd.checkpointed
    assert [name for name, m in blocks.items() if m.gradient_checkpointing] == [next(iter(blocks))]
    agd.unload(pipe)
    assert chosen._gradient_checkpointing_func is own
    assert [name for name, m in blocks.items() if m.gradient_checkpointing] == [next(iter(blocks))]
    assert vars(pipe.unet)["save_pretrained"] is own
    assert "enable_gradient_checkpointing" not in vars(pipe.unet)


def test_recomputing_switched_on_while_adapted_stays_on(trained):
    pipe = pipeline()
    agd.load(pipe, trained["sd"])
    pipe.unet.enable_gradient_checkpointing()
    agd.unload(pipe)
    assert pipe.unet.is_gradient_checkpointing
    x, text = torch.randn(1, 4, 16, 16, requires_grad=True), torch.randn(1, 5, pipe.unet.config.cross_attention_dim)
    pipe.unet.train()(x, 3, text).sample.sum().backward()
    assert x.grad.isfinite().all()


def test_a_base_that_peft_froze_stays_frozen(trained):
    """New adapters, then a LoRA for training, then no adapters: as without adapters."""
    from peft import LoraConfig

    stock, adapted = pipeline().unet, pipeline().unet
    agd.attach(adapted, agd.AdapterConfig(hidden_size=8))
    for unet in (stock, adapted):
        unet.add_adapter(LoraConfig(r=2, target_modules=["to_q"]))
    agd.detach(adapted)
    trainable = [{n for n, p in unet.named_parameters() if p.requires_grad} for unet in (stock, adapted)]
    assert trainable[0] == trainable[1]


@pytest.mark.parametrize("prompts", [1, 8])
@pytest.mark.parametrize("images_each", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_outputs_are_as_the_guided_ones(prompts, images_each, dtype, trained):
    call = dict(prompt=["a dog"] * prompts, num_images_per_prompt=images_each, steps=1)
    pipe = pipeline().to(dtype)
    found = observed(pipe.unet)
    images(pipe, **call)
    agd.load(pipe, trained["sd"])
    images(pipe, **call)
    (guided, *what), (adapted, *what_adapted) = found
    assert adapted == (prompts * images_each, 4, 8, 8)
    assert guided == (2 * adapted[0], *adapted[1:])
    assert what_adapted == what == [dtype, torch.device("cpu")]


def test_the_wrapped_class_passes_for_its_own(loaded, tmp_path):
    pipe, _ = loaded
    stock = diffusers.StableDiffusionPipeline
    assert isinstance(pipe, stock)
    assert (repr(type(pipe)), type(pipe).__call__.__doc__) == (repr(stock), stock.__call__.__doc__)
    other = diffusers.AutoPipelineForImage2Image.from_pipe(pipe)
    assert type(other) is diffusers.StableDiffusionImg2ImgPipeline
    pipe.save_config(tmp_path)
    assert read_json(tmp_path / "model_index.json")["_class_name"] == "StableDiffusionPipeline"


# The guidance scale


def test_a_pipeline_goes_through_pickle(loaded):
    """As process pools send it. The copy is adapted, and unloads by itself."""
    pipe, _ = loaded
    other = pickle.loads(pickle.dumps(pipe))
    calls = observed(other.unet)
    assert torch.equal(images(other), images(pipe))
    assert len(calls) == 2
    agd.unload(other)
    assert type(other) is pipe._stock_class
    assert not torch.equal(images(other), images(pipe))


def test_loading_and_unloading_draw_no_random_numbers(trained):
    pipe = pipeline()
    before = torch.random.get_rng_state()
    agd.load(pipe, trained["sd"])
    agd.unload(pipe)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_default_scale_is_the_pipelines_own(loaded):
    pipe, _ = loaded
    call = dict(num_inference_steps=2, output_type="latent", height=16, width=16)
    default = pipe("a cat in the rain", generator=torch.Generator().manual_seed(0), **call).images
    assert torch.equal(default, images(pipe, guidance_scale=7.5))


def test_each_image_may_have_its_scale(loaded):
    pipe, adapters = loaded
    prompts = ["a dog", "the sea at night"]
    scales = torch.tensor([2.0, 6.0])
    both = images(pipe, prompt=prompts, guidance_scale=scales)
    for i, w in enumerate([2.0, 6.0]):
        assert close(both[i], images(pipe, prompt=prompts, guidance_scale=w)[i])
    with adapters.scale(scales):
        assert torch.equal(images(pipe, prompt=prompts), both)
    assert torch.equal(images(pipe, prompt=prompts, guidance_scale=[2.0, 6.0]), both)

    four = images(pipe, prompt=prompts, guidance_scale=scales, num_images_per_prompt=2)
    for i, w in enumerate([2.0, 2.0, 6.0, 6.0]):
        assert close(four[i], images(pipe, prompt=prompts, guidance_scale=w, num_images_per_prompt=2)[i])
    with pytest.raises(
        UserError, match="3 values for 2 prompts of 1 images; give one, one per prompt, or one per image"
    ):
        images(pipe, prompt=prompts, guidance_scale=torch.ones(3))


def test_each_step_may_have_its_scale(loaded):
    pipe, adapters = loaded
    seen = []

    def falling(t):
        seen.append(int(t))
        return 6.0 if t > 500 else 2.0

    by_function = images(pipe, guidance_scale=falling)
    assert seen == [int(t) for t in pipe.scheduler.timesteps]

    def in_a_callback(pipe, i, t, values):
        pipe._guidance_scale = 2.0
        return values

    assert torch.equal(images(pipe, guidance_scale=6.0, callback_on_step_end=in_a_callback), by_function)
    assert not close(images(pipe, guidance_scale=6.0), by_function)
    assert adapters.current.guidance_scale is None


@pytest.mark.parametrize("w", [12.0, torch.tensor([3.0, 12.0])], ids=["one", "several"])
def test_a_scale_outside_the_training_is_said_once(w, loaded):
    pipe, adapters = loaded
    assert adapters.guidance_range == [1, 10]
    images(pipe, guidance_scale=10.0)
    images(pipe, guidance_scale=0.0)  # the base model
    with pytest.warns(UserWarning, match="outside the range that the adapter was trained on, 1 to 10;"):
        images(pipe, prompt=["a dog"] * 2, guidance_scale=w)
    images(pipe, guidance_scale=12.0)  # a second warning would be an error here


def test_strength_and_switch_act_at_run_time(loaded):
    pipe, adapters = loaded
    base = images(pipeline(), guidance_scale=1.0)
    full = images(pipe)
    adapters.strength = 0.0
    assert torch.equal(images(pipe), base)
    adapters.strength = 0.5
    assert adapters.strength == 0.5
    assert not close(images(pipe), full)
    adapters.strength = 1.0
    adapters.disable()
    found = observed(pipe.unet)
    assert torch.equal(images(pipe), images(pipeline()))
    assert batches(found) == [2, 2]
    adapters.enable()
    assert torch.equal(images(pipe), full)


# What an adapter can't answer

BEYOND = [
    ("sd", "negative_prompt", dict(negative_prompt="a dog")),
    ("sd", "negative_prompt", dict(prompt=["a dog", "a cat"], negative_prompt=["", "two birds"])),
    ("sd", "negative_prompt_embeds", dict(negative_prompt_embeds=torch.ones(1, 16, 8))),
    ("sd", "guidance_rescale", dict(guidance_rescale=0.5)),
    ("sdxl", "negative_prompt_2", dict(negative_prompt="", negative_prompt_2="a dog")),
    ("sdxl", "negative_original_size", dict(negative_original_size=(8, 8), negative_target_size=(8, 8))),
]


@pytest.mark.parametrize(("kind", "said", "call"), BEYOND, ids=[" ".join(call) for *_, call in BEYOND])
def test_it_is_answered_by_real_guidance_and_said_once(kind, said, call, trained):
    pipe, stock = pipeline(double=kind == "sdxl"), pipeline(double=kind == "sdxl")
    expected = images(stock, **call)
    assert not torch.equal(images(stock, **{k: v for k, v in call.items() if k == "prompt"}), expected)
    adapters = agd.load(pipe, trained[kind])
    adapted = images(pipe)
    with pytest.warns(UserWarning, match=f"{said} is beyond the adapter: such calls are guided by the base"):
        assert torch.equal(images(pipe, **call), expected)
    assert torch.equal(images(pipe, **call), expected)
    with adapters.scale(4.0):
        assert torch.equal(images(pipe, guidance_scale=2.0, **call), expected)
    with pytest.raises(UserError, match="only with one guidance scale for all images and steps"):
        images(pipe, **call | dict(guidance_scale=lambda t: 3.0))
    assert torch.equal(images(pipe), adapted)


def test_an_empty_negative_prompt_is_none(loaded):
    assert torch.equal(images(loaded[0], negative_prompt=""), images(loaded[0]))
    assert torch.equal(
        images(loaded[0], negative_prompt=["a dog"], guidance_scale=1.0), images(loaded[0], guidance_scale=1.0)
    )


def test_a_call_that_fails_leaves_the_adapters_on(loaded):
    pipe, adapters = loaded
    adapted = images(pipe)
    with pytest.warns(UserWarning, match="beyond"), pytest.raises(ValueError, match="height"):
        images(pipe, negative_prompt="a dog", height=3)
    with pytest.raises(ValueError, match="height"):
        images(pipe, height=3)
    assert adapters.current.guidance_scale is None
    assert torch.equal(images(pipe), adapted)


# What goes where


def test_one_denoiser_in_two_pipelines(trained, tmp_path):
    first = pipeline()
    stock = images(first)
    agd.load(first, trained["sd"])
    second = diffusers.StableDiffusionPipeline.from_pipe(first)
    second.set_progress_bar_config(disable=True)
    assert agd.load(second, trained["sd"]) is first.unet.agd
    assert torch.equal(images(first), images(second))
    agd.save(first.unet.agd, tmp_path)
    with pytest.raises(UserError, match=f"{tmp_path}: this denoiser carries other adapters already"):
        agd.load(second, tmp_path)
    agd.unload(first)
    assert torch.equal(images(second), stock)
    agd.unload(second)
    assert type(second) is type(first) is diffusers.StableDiffusionPipeline


def test_pipelines_of_one_denoiser_may_be_called_from_several_threads(trained):
    """Each call has its own scale and prompt, and one is guided in two passes for its negative prompt."""
    first = pipeline()
    agd.load(first, trained["sd"])
    calls = [(first, dict(guidance_scale=2.0))]
    for more in (dict(guidance_scale=7.0), dict(guidance_scale=4.0, negative_prompt="a dog"), dict(guidance_scale=5.0)):
        # Schedulers and tokenizers have a state of their own, also in stock pipelines.
        own = {name: copy.deepcopy(first.components[name]) for name in ("scheduler", "tokenizer")}
        twin = type(first)(**first.components | own, requires_safety_checker=False)
        twin.set_progress_bar_config(disable=True)
        agd.load(twin, trained["sd"])
        calls.append((twin, more))

    def called(call: tuple) -> torch.Tensor:
        return images(call[0], steps=5, **call[1])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        alone = [called(call) for call in calls]
        with concurrent.futures.ThreadPoolExecutor(len(calls)) as pool:
            for _ in range(5):
                for one, other in zip(pool.map(called, calls), alone, strict=True):
                    assert torch.equal(one, other)


def test_two_hundred_calls_of_eight_threads_give_the_images_of_calls_alone(trained):
    """Four pipelines over two denoisers. As a server does, one call of a pipeline at a time: its scheduler has a state."""
    pipes = []
    for kind, double in (("sd", False), ("sdxl", True)):
        first = pipeline(double=double)
        own = {name: copy.deepcopy(first.components[name]) for name in ("scheduler", "tokenizer")}
        own |= {"tokenizer_2": copy.deepcopy(first.tokenizer_2)} if double else {"requires_safety_checker": False}
        twin = type(first)(**first.components | own)
        twin.set_progress_bar_config(disable=True)
        pipes += [first, twin]
        for pipe in (first, twin):
            agd.load(pipe, trained[kind])
    asked = [dict(guidance_scale=w) for w in (1.0, 2.0, 7.0, torch.tensor([3.0]), lambda t: 2.0 + int(t) % 5)]
    asked += [
        dict(prompt="a dog", guidance_scale=4.0),
        dict(prompt=["a", "b"], guidance_scale=torch.tensor([2.0, 6.0])),
    ]
    asked += [dict(guidance_scale=4.0, negative_prompt="a dog")]
    locks = [threading.Lock() for _ in pipes]

    def called(call: tuple[int, int]) -> torch.Tensor:
        with locks[call[0]]:
            return images(pipes[call[0]], **asked[call[1]])

    calls = [(i % 4, i // 4 % len(asked)) for i in range(200)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        alone = {call: called(call) for call in sorted(set(calls))}
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            for call, found in zip(calls, pool.map(called, calls), strict=True):
                assert torch.equal(found, alone[call]), call


def test_loads_on_a_fine_tune_and_refuses_another_shape(trained):
    tuned = pipeline(seed=5)
    agd.load(tuned, trained["sd"])
    other = pipeline(block_out_channels=(8, 8))
    before = images(other)
    with pytest.raises(UserError, match="made for a base of another shape .*give the base it was trained on"):
        agd.load(other, trained["sd"])
    with pytest.raises(UserError, match="another shape"):
        agd.load(random_dit_pipeline(), trained["sd"])
    assert torch.equal(images(other), before)
    assert type(other) is diffusers.StableDiffusionPipeline


def test_other_models_are_named(trained):
    with pytest.raises(UserError, match="Linear: no adapters for this kind of denoiser"):
        agd.attach(torch.nn.Linear(1, 1), agd.AdapterConfig())
    unguided = diffusers.DDPMPipeline(diffusers.UNet2DModel(block_out_channels=(8, 8, 8, 8), norm_num_groups=4), None)
    supported = "supported are DiTTransformer2DModel and UNet2DConditionModel"
    no = "no adapters for this kind of"
    rows = (unguided, f"UNet2DModel: {no} denoiser"), ("a name", f"str: {no} pipeline")
    for target, said in rows:
        with pytest.raises(UserError, match=f"{said}; {supported}"):
            agd.load(target, trained["sd"])
    distilled = random_unet(time_cond_proj_dim=8)
    with pytest.raises(UserError, match="takes a guidance scale by itself"):
        agd.attach(distilled, agd.AdapterConfig())
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        agd.lod  # noqa: B018


def test_a_wrapped_denoiser_is_the_one_inside(trained):
    """PEFT's wrapper, and DataParallel's, which is refused; both let `unload` find the adapters."""
    pipe, stock = pipeline(), images(pipeline())
    pipe.unet = peft.get_peft_model(pipe.unet, peft.LoraConfig(target_modules=["to_q"], init_lora_weights=True))
    adapters = agd.load(pipe, trained["sd"])
    assert adapters is pipe.unet.get_base_model().agd
    assert not torch.allclose(images(pipe), stock, atol=1e-3)
    agd.unload(pipe)
    assert torch.allclose(images(pipe), stock, atol=1e-4)  # a LoRA that was not trained adds zeros
    pipe = pipeline()
    pipe.unet = torch.nn.DataParallel(pipe.unet)
    with pytest.raises(
        UserError, match="DataParallel: copies of a denoiser can't share adapters; take a process for each"
    ):
        agd.load(pipe, trained["sd"])
    inside = pipeline()
    agd.load(inside, trained["sd"])
    inside.unet = torch.nn.DataParallel(inside.unet)
    agd.unload(inside)
    assert not hasattr(inside.unet.module, "agd")


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"encoder_hid_dim": 12, "encoder_hid_dim_type": "text_image_proj"}, "encoder_hid_dim_type"),
        ({"addition_embed_type": "text", "addition_embed_type_num_heads": 2}, "addition_embed_type"),
        (
            {
                "down_block_types": ("SimpleCrossAttnDownBlock2D", "DownBlock2D"),
                "up_block_types": ("UpBlock2D", "UpBlock2D"),
            },
            "block types",
        ),
    ],
)
def test_unets_of_other_inputs_are_refused_when_loaded(trained, changes, what):
    unet = random_unet(**changes)
    with pytest.raises(
        UserError, match=rf"takes other inputs than those of Stable Diffusion and SDXL \({what} of its conf"
    ):
        agd.load(unet, trained["sd"])
    assert not hasattr(unet, "agd")


def test_a_lora_on_every_linear_layer_leaves_adapters_alone(trained, tmp_path):
    unet = random_unet()
    adapters = agd.load(unet, trained["sd"])
    adapters.encoder.requires_grad_(False)
    before = {name: parameter.requires_grad for name, parameter in adapters.named_parameters()}
    assert set(before.values()) == {True, False}
    unet.add_adapter(peft.LoraConfig(target_modules="all-linear"))
    assert {name: parameter.requires_grad for name, parameter in adapters.named_parameters()} == before
    assert not [name for name, _ in adapters.named_parameters() if "lora" in name]
    agd.save(adapters, tmp_path)
    agd.load(random_unet(), tmp_path)


def test_a_pipeline_with_merged_adapters_is_not_half_saved(tmp_path):
    pipe = pipeline()
    adapters = agd.attach(pipe, agd.AdapterConfig(kind="lora", embedding=False, rank=2))
    adapters.fuse(4.0)
    with pytest.raises(UserError, match="save_pretrained: the adapter is merged for w = 4"):
        pipe.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()
    adapters.unfuse()
    pipe.save_pretrained(tmp_path / "saved")


def test_masked_tokens_are_refused_where_adapters_read_them(trained):
    unet = random_unet()
    x, t, prompt = torch.randn(2, 4, 8, 8), torch.tensor(5), torch.randn(2, 7, 8)
    adapters = agd.load(unet, trained["sd"])
    mask = torch.ones(2, 7, dtype=torch.bool)
    with adapters.scale(4.0):
        assert torch.allclose(
            unet(x, t, prompt, encoder_attention_mask=mask).sample, unet(x, t, prompt).sample, atol=1e-5
        )
        mask[0, 5:] = False
        with pytest.raises(UserError, match="encoder_attention_mask: adapters read all of the prompt's tokens"):
            unet(x, t, prompt, encoder_attention_mask=mask)
    adapters.disable()
    assert unet(x, t, prompt, encoder_attention_mask=mask).sample.shape == x.shape


def test_a_subclass_of_a_denoiser_is_one(trained):
    class Mine(type(random_unet())):
        pass

    mine = Mine.from_config(random_unet().config)
    mine.load_state_dict(random_unet().state_dict())
    assert agd.load(mine, trained["sd"]) is mine.agd


# Disk and hub


def test_a_saved_adapter_keeps_what_it_came_with(trained, tmp_path):
    adapters = agd.load(pipeline(), trained["sd"])
    agd.save(adapters, tmp_path)
    for name in ("adapter.safetensors", "config.json"):
        with open(f"{trained['sd']}/{name}", "rb") as file:
            assert file.read() == (tmp_path / name).read_bytes(), name


def test_the_card_is_made_from_the_provenance(trained):
    with open(f"{trained['sd']}/README.md", encoding="utf-8") as file:
        text = file.read()
    header = yaml.safe_load(text.split("---")[1])
    assert header == {
        "library_name": "agd",
        "tags": ["agd", "guidance-distillation", "diffusers"],
        "base_model": "someone/model",
    }
    size = read_json(f"{trained['sd']}/config.json")["size"]["parameters"]
    for line in (
        "| hidden_size | 8 |",
        "| trained guidance scales | 1 to 10 |",
        "| loss | 0.25 |",
        "| learning_rate | 0.0001 |",
        "| torch | 2 |",
        f"| parameters | {size} |",
        'pipe = DiffusionPipeline.from_pretrained("someone/model")',
    ):
        assert line in text, line


def test_a_hub_id_is_fetched(trained, monkeypatch):
    asked = []

    def fetch(repo_id, allow_patterns):
        asked.append((repo_id, allow_patterns))
        return trained["sd"]

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    pipe = pipeline()
    agd.load(pipe, "someone/adapter")
    assert asked == [("someone/adapter", ["adapter.safetensors", "config.json", "README.md"])]


@pytest.mark.parametrize("name", ["someone/adapter", "no/such/folder"])
def test_what_is_not_to_be_had_is_named(name):
    with pytest.raises(UserError, match=f"{name}: neither a folder here nor "):
        agd.load(pipeline(), name)


class Hub:
    """Takes what is pushed."""

    def create_repo(self, repo_id, private, exist_ok):
        if "/" not in repo_id:
            raise ValueError("a name needs an owner")
        self.repo = repo_id, private

    def create_commit(self, repo_id, operations, commit_message):
        self.files = {}
        for operation in operations:
            with operation.as_file() as file:
                self.files[operation.path_in_repo] = file.read()


def test_pushed_files_are_the_saved_ones_with_a_card(trained, tmp_path, monkeypatch):
    hub = Hub()
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
    adapters = agd.load(pipeline(), trained["sd"])
    agd.push(adapters, "me/adapter", private=True)
    assert hub.repo == ("me/adapter", True)
    assert sorted(hub.files) == ["README.md", "adapter.safetensors", "config.json"]
    assert b'agd.load(pipe, "me/adapter")' in hub.files["README.md"]
    from_memory = dict(hub.files)

    agd.save(adapters, tmp_path)
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
    agd.push(tmp_path, "me/adapter")
    assert hub.files == from_memory | {"README.md": b"---\nlicense: mit\n---\n"}
    with pytest.raises(UserError, match="adapter: the hub did not take it .*owner.*log in"):
        agd.push(tmp_path, "adapter")


def test_no_path_of_this_machine_is_published(trained, tmp_path, monkeypatch):
    hub = Hub()
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
    adapters = agd.load(pipeline(), trained["sd"])
    local = {"name": "/home/alice/models/mine", "revision": None, "fingerprint": "f" * 64}
    own = {**RECORD["provenance"], "base": local, "trajectories": {"made": {"base": local}}}
    agd.save(adapters, tmp_path, {"provenance": own})
    assert b"alice" in (tmp_path / "README.md").read_bytes()
    for what in (tmp_path, adapters):
        adapters.record |= {"provenance": own}
        agd.push(what, "me/adapter")
        for name, data in hub.files.items():
            assert b"alice" not in data, name
        assert b"mine" in hub.files["README.md"]
    for name, data in hub.files.items():
        (tmp_path / name).write_bytes(data)
    assert agd.load(pipeline(), tmp_path).record["provenance"]["base"]["name"] == "mine"


def test_a_card_says_when_nothing_is_known(tmp_path):
    agd.save(agd.attach(random_dit(), agd.AdapterConfig(hidden_size=8)), tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert text.count("Not recorded.") == 2
    assert "base_model" not in text
    assert json_bytes(read_json(tmp_path / "config.json")) == (tmp_path / "config.json").read_bytes()
