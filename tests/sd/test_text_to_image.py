"""The text-to-image family: Stable Diffusion and SDXL, on small random models of the same classes."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import command, image_encoder, ip_adapter_weights, random_text_to_image, settings_of
from diffusers import ControlNetModel, DDIMScheduler, DiTTransformer2DModel, UNet2DConditionModel
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

import agd
from agd import sample, sample_trajectories
from agd.adapters import attaching
from agd.artifacts import prompts, trajectories
from agd.artifacts.images import read_images
from agd.diffusion import schedulers
from agd.diffusion.guidance import guide
from agd.diffusion.sampling import generators, noise
from agd.dit.family import ANATOMY as DIT_ANATOMY
from agd.runtime.errors import UserError
from agd.runtime.progress import progress_bar
from agd.sd.anatomy import ANATOMY
from agd.sd.family import StableDiffusion
from benchmarks.sdxl_memory import SDXL

PROMPTS = ["a cat in the rain", "a dog", "two birds on a wire"]
KINDS = {
    "sd": {"prediction": "v_prediction"},
    "sd, noise": {"prediction": "epsilon"},
    "sdxl": {"double": True},
}

# Shapes of the published unet/config.json and transformer/config.json; SDXL's are the benchmark's.
SD21 = dict(
    sample_size=96,
    attention_head_dim=(5, 10, 20, 20),
    cross_attention_dim=1024,
    use_linear_projection=True,
)
DIT_XL = dict(
    num_layers=28, num_attention_heads=16, attention_head_dim=72, in_channels=4, out_channels=8, sample_size=32
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, str]:
    """Saved pipelines of every kind."""
    made = {}
    for name, options in KINDS.items():
        folder = tmp_path_factory.mktemp("bases") / name.replace(", ", "-")
        random_text_to_image(**options).save_pretrained(folder)
        made[name] = str(folder)
    return made


def model(folder, images=False) -> StableDiffusion:
    return StableDiffusion(folder, torch.float32, torch.device("cpu"), conditions=True, images=images)


def bar():
    return progress_bar(None, "test", total=1)


def unconditional(kind: str):
    """The settings that `unconditional` reads."""
    return SimpleNamespace(family_settings={"unconditional": kind})


def settled(folder, stage, module, **changes):
    """A stage's settings for a model, as its `check` leaves them."""
    chosen = settings_of(stage, module, model="digits-sd", **changes)
    return StableDiffusion.check(folder, SimpleNamespace(prompt=None, prompt_file=changes["prompt_file"]), chosen)[0]


@pytest.fixture(scope="module")
def prompt_file(tmp_path_factory) -> str:
    file = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    file.write_text("\n".join(PROMPTS) + "\n", encoding="utf-8")
    return str(file)


@pytest.mark.parametrize(
    ("kind", "shapes", "anatomy", "config", "base", "modules", "most"),
    [
        (UNet2DConditionModel, SD21, ANATOMY, {}, 865_910_724, 16, 0.015),
        (UNet2DConditionModel, SDXL, ANATOMY, {}, 2_567_463_684, 70, 0.0275),
        (DiTTransformer2DModel, DIT_XL, DIT_ANATOMY, {"kind": "offset", "hidden_size": 256}, 749_826_464, 28, 0.06),
    ],
    ids=["SD 2.1", "SDXL", "DiT-XL/2"],
)
def test_every_attention_of_the_real_models_is_adapted_cheaply(kind, shapes, anatomy, config, base, modules, most):
    with torch.device("meta"):
        denoiser = kind(**shapes)
        parameters = sum(p.numel() for p in denoiser.parameters())
        adapters = attaching.attach(denoiser, agd.AdapterConfig(**config), anatomy)
    assert parameters == base
    assert len(adapters.layers) == modules
    print(f"{attaching.size(denoiser)}")
    assert 0.001 < attaching.size(denoiser)["fraction_of_base"] <= most


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("guidance", ["none", "cfg"])
def test_images_are_those_of_the_stock_pipeline(folders, prompt_file, kind, guidance):
    chosen = settled(folders[kind], "sample", sample, prompt_file=prompt_file, num_inference_steps=6, guidance_scale=4)
    ours, cost = sample.sample_chunk(model(folders[kind], True), chosen, guidance, 3, [0, 1, 4], PROMPTS, bar())
    pipe = random_text_to_image(**KINDS[kind])
    pipe.set_progress_bar_config(disable=True)
    stock = pipe(
        [PROMPTS[0], PROMPTS[1], PROMPTS[1]],
        guidance_scale=4.0 if guidance == "cfg" else 1.0,
        generator=generators(3, "sample", [0, 1, 4]),
        num_inference_steps=6,
        output_type="np",
    ).images
    # On average, for a random model that predicts noise takes x to 100 times its size, and rounding with it.
    gap = np.abs(ours.transpose(0, 2, 3, 1) / 255 - stock).mean().item()
    assert gap <= 0.5 / 255
    assert np.abs(stock[0] - stock[1]).mean().item() > 10 / 255
    assert cost["evaluations"] / cost["images"] == {"none": 6, "cfg": 12}[guidance]


@pytest.mark.parametrize("kind", KINDS)
def test_a_trajectory_is_guided_sampling(folders, prompt_file, kind):
    chosen = settled(
        folders[kind], "sample_trajectories", sample_trajectories, prompt_file=prompt_file, num_inference_steps=4
    )
    opened = model(folders[kind])
    study = sample_trajectories.Trajectories(opened, chosen, 7, PROMPTS, None)
    made = sample_trajectories.sample_shard(study, [1, 5], bar())
    draw = generators(7, "trajectory", [1, 5])
    w = [1 + 2 * torch.rand((), generator=g).item() for g in draw]
    assert made.guidance_scale.tolist() == pytest.approx(w, abs=1e-6)
    scheduler = opened.scheduler
    scheduler.set_timesteps(4)
    x = noise(opened.latent_shape, draw) * scheduler.init_noise_sigma
    conditions = opened.conditions([PROMPTS[1], PROMPTS[2]])
    without = opened.unconditional(conditions, unconditional("zeros" if kind == "sdxl" else "empty"))
    for step, t in enumerate(scheduler.timesteps):
        scaled = scheduler.scale_model_input(x, t)
        guided = guide(opened.call(scaled, t, conditions), opened.call(scaled, t, without), torch.tensor(w))
        assert np.abs(made.pairs[:, step, 0] - scaled.numpy()).max().item() < 1e-4
        assert np.abs(made.pairs[:, step, 1] - guided.detach().numpy()).max().item() < 1e-4
        x = scheduler.step(guided, t, x).prev_sample
    assert made.provenance["settings"]["unconditional"] == ("zeros" if kind == "sdxl" else "empty")
    assert set(made.conditions) == {"prompt_embeds", *(("text_embeds", "time_ids") if kind == "sdxl" else ())}
    if kind == "sdxl":
        assert made.conditions["time_ids"].tolist() == [[16, 16, 0, 0, 16, 16]] * 2


def test_no_prompt_is_zeros_or_the_empty_prompt(folders):
    opened = model(folders["sdxl"])
    conditions = opened.conditions(PROMPTS)
    zeros, empty = (opened.unconditional(conditions, unconditional(kind)) for kind in ("zeros", "empty"))
    assert zeros["prompt_embeds"].abs().max() == 0
    assert zeros["text_embeds"].abs().max() == 0
    assert torch.equal(zeros["time_ids"], conditions["time_ids"])
    assert torch.equal(empty["prompt_embeds"][:1], opened.conditions([""])["prompt_embeds"])
    assert not torch.equal(empty["prompt_embeds"], conditions["prompt_embeds"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("extra", [(), ("--gradient-checkpointing", "--micro-batch-size", 3)], ids=["plain", "frugal"])
def test_the_published_commands(folders, prompt_file, tmp_path, capsys, kind, extra):
    few = ("--inference-steps", 4, "--num-trajectories", 4)
    words = ("--prompt-file", prompt_file, "--base-model", folders[kind])
    command("sample_trajectories", "--output-dir", tmp_path / "T", *words, *few, family="sd")
    learning = ("--steps", 40, "--batch-size", 8, "--hidden-size", 8, "--learning-rate", 0.01)
    command("train", "--dir", tmp_path / "R", "--data-path", tmp_path / "T", *learning, *extra, family="sd")
    described = json.loads((tmp_path / "R" / "config.json").read_text())
    assert described["training"]["loss"] < described["training"]["base_loss"]
    command("sample", "--dir", tmp_path / "R", "--prompt", *PROMPTS, "--num-inference-steps", 3, family="sd")
    images, manifest = read_images(tmp_path / "R" / "samples" / "000000.zip")
    assert [image.size for image in images.values()] == [(16, 16)] * 3
    assert list(manifest["subjects"].values()) == PROMPTS
    cost = json.loads((tmp_path / "R" / "samples" / "000000.json").read_text())
    assert cost["evaluations"] == 3 * 3
    assert (tmp_path / "R" / "samples.png").is_file()


def test_frugal_training_learns_the_same(folders, prompt_file, tmp_path):
    words = ("--prompt-file", prompt_file, "--base-model", folders["sdxl"], "--num-inference-steps", 4)
    command("sample_trajectories", "--output-dir", tmp_path / "T", *words, "--num-trajectories", 4, family="sd")
    learning = ("--data-path", tmp_path / "T", "--steps", 3, "--batch-size", 8, "--hidden-size", 8)
    losses = []
    for name, extra in (("plain", ()), ("frugal", ("--gradient-checkpointing", "--micro-batch-size", 3))):
        command("train", "--dir", tmp_path / name, *learning, *extra, family="sd")
        losses.append(json.loads((tmp_path / name / "config.json").read_text())["training"]["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_training_loads_no_text_encoder_and_no_autoencoder(folders):
    opened = StableDiffusion(folders["sdxl"], torch.float32, torch.device("cpu"))
    parts = [opened.pipe.text_encoder, opened.pipe.text_encoder_2, opened.pipe.tokenizer, opened.pipe.vae]
    assert parts == [None] * 4


def test_half_precision_is_decoded_in_full(folders):
    opened = StableDiffusion(folders["sdxl"], torch.bfloat16, torch.device("cpu"), conditions=True, images=True)
    assert opened.denoiser.dtype == torch.bfloat16
    assert opened.pipe.vae.dtype == torch.float32
    conditions = opened.conditions(PROMPTS)
    output = opened.call(torch.zeros(3, 4, 8, 8), torch.tensor(5.0), conditions)
    assert output.dtype == torch.float32
    assert opened.images(output).shape == (3, 3, 16, 16)


def test_a_long_prompt_is_said_once(folders, tmp_path, capsys):
    file = tmp_path / "long.txt"
    file.write_text(f"{'a cat ' * 20}\na dog\n{'a dog ' * 20}\n")
    command(
        "sample_trajectories",
        *("--output-dir", tmp_path / "T", "--prompt-file", file, "--base-model", folders["sd"]),
        *("--num-inference-steps", 2, "--num-trajectories", 3, "--batch-size", 1),
        family="sd",
    )
    printed = capsys.readouterr().err
    assert printed.count("longer than the 16 tokens") == 1
    assert "2 of 3 prompts" in printed
    assert trajectories.read(tmp_path / "T" / "000000.zarr.zip").conditions["prompt_embeds"].shape == (3, 16, 8)


@pytest.mark.parametrize(
    ("described", "name", "steps", "message"),
    [
        ({"steps_offset": 1}, "default", 999, None),
        ({"steps_offset": 1}, "default", 1000, "num_inference_steps: 1000 is more than the 999"),
        ({"_class_name": "EulerDiscreteScheduler", "steps_offset": 1}, "ddim", 1000, "is more than the 999"),
        ({"steps_offset": 0}, "default", 1000, None),
        ({"steps_offset": 1, "timestep_spacing": "trailing"}, "default", 1000, None),
        ({"_class_name": "DDPMScheduler"}, "default", 10, "scheduler: default is DDPMScheduler"),
        ({"_class_name": "EulerAncestralDiscreteScheduler"}, "default", 10, "draws noise at every step; choose one of"),
        ({"_class_name": "DDPMScheduler"}, "ddim", 10, None),
        ({"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "dpmsolver++"}, "default", 10, None),
        (
            {"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver++"},
            "default",
            10,
            "draws noise at every step",
        ),
    ],
)
def test_schedulers_that_will_not_do_are_named(described, name, steps, message, tmp_path):
    full = {"_class_name": "DDIMScheduler", "num_train_timesteps": 1000, "timestep_spacing": "leading"} | described
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps(full))
    if message is None:
        schedulers.check(tmp_path, name, steps, "M")
    else:
        with pytest.raises(UserError, match=message):
            schedulers.check(tmp_path, name, steps, "M")


@pytest.mark.parametrize("name", schedulers.BY_NAME)
def test_every_scheduler_walks_the_models_own_schedule_without_noise(name):
    own = DDIMScheduler(beta_start=0.002, beta_schedule="scaled_linear", clip_sample=True)
    ends = []
    for _ in range(2):
        made = schedulers.scheduler(own, name)
        assert made.config.beta_start == 0.002
        made.set_timesteps(10)
        x = torch.ones(1, 1, 2, 2) * 3 * made.init_noise_sigma
        for t in made.timesteps:
            x = made.step(made.scale_model_input(x, t) * 0.5, t, x).prev_sample
        ends.append(x)
    assert torch.equal(*ends)
    assert torch.isfinite(ends[0]).all()


def test_images_follow_a_controlnet(folders, tmp_path):
    pipe = random_text_to_image(prediction="v_prediction")
    torch.manual_seed(9)
    network = ControlNetModel.from_unet(pipe.unet, conditioning_embedding_out_channels=(4, 8))
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    network.save_pretrained(tmp_path / "C")
    common = ("--guidance", "none", "--base-model", folders["sd"], "--prompt", "a dog", "--num-inference-steps", 2)
    seen = []
    for shade in (0, 255):
        Image.new("RGB", (20, 20), (shade, 0, 0)).save(tmp_path / f"{shade}.png")
        words = ("--controlnet", tmp_path / "C", "--controlnet-image", tmp_path / f"{shade}.png")
        command("sample", *common, *words, "--output-dir", tmp_path / f"S{shade}", family="sd")
        images, manifest = read_images(tmp_path / f"S{shade}" / "000000.zip")
        seen.append(np.asarray(images["000000.png"], int))
        assert set(manifest["provenance"]["follows"]) == {"controlnet", "controlnet_image"}
    command("sample", *common, "--output-dir", tmp_path / "S", family="sd")
    free = np.asarray(read_images(tmp_path / "S" / "000000.zip")[0]["000000.png"], int)
    gaps = [np.abs(a - b).max().item() for a, b in ((seen[0], seen[1]), (seen[0], free))]
    assert min(gaps) > 0


def ip_adapter_files(pipe, folder) -> tuple:
    """An IP-Adapter's weights and its image encoder, as they are published."""
    image_encoder().save_pretrained(folder / "encoder")
    parts = ip_adapter_weights(pipe.unet)
    save_file(
        {f"{part}.{k}": v for part, weights in parts.items() for k, v in weights.items()}, folder / "ip.safetensors"
    )
    return folder / "ip.safetensors", folder / "encoder"


@pytest.mark.parametrize("guidance", ["none", "cfg"])
def test_images_follow_an_ip_adapter_as_in_the_stock_pipeline(folders, tmp_path, guidance):
    pipe = random_text_to_image(prediction="v_prediction")
    pipe.set_progress_bar_config(disable=True)
    weights, encoder = ip_adapter_files(pipe, tmp_path)
    picture = Image.effect_noise((16, 16), 80).convert("RGB")
    picture.save(tmp_path / "picture.png")
    words = ("--base-model", folders["sd"], "--prompt", "a dog", "--inference-steps", 3, "--dtype", "float32")
    words += ("--ip-adapter", weights, "--image-encoder", encoder, "--ip-adapter-image", tmp_path / "picture.png")
    words += ("--guidance", guidance, "--guidance-scale", 3, "--output-dir", tmp_path / "S")
    command("sample", *words, family="sd")
    ours = read_images(tmp_path / "S" / "000000.zip")[0]["000000.png"]
    pipe.register_modules(
        image_encoder=CLIPVisionModelWithProjection.from_pretrained(encoder),
        feature_extractor=CLIPImageProcessor(size=16, crop_size=16),
    )
    call = dict(guidance_scale=3.0 if guidance == "cfg" else 1.0, num_inference_steps=3, output_type="np")

    def stock(**more):
        return pipe("a dog", generator=generators(0, "sample", [0]), **call, **more).images[0]

    free = stock()
    pipe.load_ip_adapter(str(tmp_path), subfolder="", weight_name=weights.name, image_encoder_folder=None)
    followed = stock(ip_adapter_image=picture)
    assert np.abs(np.asarray(ours) / 255 - followed).max().item() < 1.5 / 255
    assert np.abs(np.asarray(ours) / 255 - free).max().item() > 5 / 255


def test_prompts_are_lines(tmp_path):
    (tmp_path / "p.txt").write_text("  a cat \n\n a dog\r\n", encoding="utf-8")
    assert prompts.read_file(tmp_path / "p.txt") == ["a cat", "a dog"]
