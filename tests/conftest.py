"""Small random models and data that the tests share."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may depend on a network
# Snakemake's SLURM plugin asks SLURM as it starts, and waits for a cluster that is installed and not up. None is configured.
os.environ["SLURM_CONF"] = os.devnull

import shutil
import string
from pathlib import Path

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from filelock import FileLock
from studies import TWO_TARGETS, snakemake, two_models, write
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from agd.digits.architectures import tokenizer
from agd.settings import configuration, entry_points
from agd.settings.entry_points import entry_point

pytest_plugins = ["adapted_pipelines"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest begins first: where processes share the tests, none is left with it alone at the end."""
    items.sort(key=lambda item: "workflow" not in item.path.parts)


def random_dit(seed: int = 0, layers: int = 2, learned_sigma: bool = False, heads: int = 2) -> DiTTransformer2DModel:
    """A DiT whose every weight is random: at initialisation diffusers' adaLN would pass nothing through."""
    torch.manual_seed(seed)
    model = DiTTransformer2DModel(
        num_attention_heads=heads,
        attention_head_dim=8,
        in_channels=2,
        out_channels=4 if learned_sigma else 2,
        num_layers=layers,
        sample_size=4,
        patch_size=2,
        num_embeds_ada_norm=10,
        norm_num_groups=1,
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def save_pipeline(folder, **options) -> str:
    """A DiT pipeline with random weights, as a folder."""
    torch.manual_seed(1)
    vae = AutoencoderKL(latent_channels=2, block_out_channels=(4,), norm_num_groups=2, sample_size=4)
    DiTPipeline(random_dit(**options), vae, DDIMScheduler(clip_sample=False)).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def base(tmp_path_factory) -> str:
    return save_pipeline(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture(scope="session")
def other_base(tmp_path_factory) -> str:
    """Another model of the same shape."""
    return save_pipeline(tmp_path_factory.mktemp("models") / "other", seed=5)


@pytest.fixture(scope="session")
def sigma_base(tmp_path_factory) -> str:
    return save_pipeline(tmp_path_factory.mktemp("models") / "sigma", learned_sigma=True)


def random_unet(seed: int = 0, double: bool = False, **changes) -> UNet2DConditionModel:
    """A UNet of two resolutions with cross-attention at both; `double`: with SDXL's added conditions."""
    torch.manual_seed(seed)
    added = dict(
        addition_embed_type="text_time", addition_time_embed_dim=4, projection_class_embeddings_input_dim=8 + 6 * 4
    )
    model = UNet2DConditionModel(
        **dict(
            sample_size=8,
            block_out_channels=(8, 16),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            attention_head_dim=2,
            norm_num_groups=4,
            cross_attention_dim=16 if double else 8,
            use_linear_projection=True,
            **(added if double else {}),
        )
        | changes
    )
    return model.eval()


def random_text_to_image(double: bool = False, prediction: str = "epsilon", seed: int = 0, **changes):
    """A Stable Diffusion (or, `double`, SDXL) pipeline with random weights: latents of 8 x 8, images of 16 x 16."""
    read_by = tokenizer(["a cat in the rain", "a dog", "two birds on a wire", "the sea at night"])
    torch.manual_seed(seed + 1)
    about_text = CLIPTextConfig(
        vocab_size=len(read_by),
        hidden_size=8,
        projection_dim=8,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=16,
        bos_token_id=read_by.bos_token_id,
        eos_token_id=read_by.eos_token_id,
        pad_token_id=read_by.pad_token_id,
    )
    vae = AutoencoderKL(
        latent_channels=4,
        block_out_channels=(4, 4),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=2,
        sample_size=16,
    )
    unet = random_unet(seed, double, **changes)
    if double:
        scheduler = EulerDiscreteScheduler(timestep_spacing="leading", steps_offset=1, prediction_type=prediction)
        return StableDiffusionXLPipeline(
            vae,
            CLIPTextModel(about_text),
            CLIPTextModelWithProjection(about_text),
            read_by,
            read_by,
            unet,
            scheduler,
            add_watermarker=False,
        )
    scheduler = DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1, prediction_type=prediction)
    return StableDiffusionPipeline(
        vae, CLIPTextModel(about_text), read_by, unet, scheduler, None, None, requires_safety_checker=False
    )


def image_encoder() -> CLIPVisionModelWithProjection:
    """Pictures of 16 x 16 -> embeddings of width 6."""
    torch.manual_seed(5)
    about = CLIPVisionConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8,
        projection_dim=6,
    )  # fmt: skip
    return CLIPVisionModelWithProjection(about).eval()


def ip_adapter_weights(unet, tokens: int = 4) -> dict[str, dict[str, torch.Tensor]]:
    """A random IP-Adapter for a UNet and `image_encoder`, in the layout of published ones: image_proj and ip_adapter."""
    torch.manual_seed(6)
    width = unet.config.cross_attention_dim
    shapes = {"proj.weight": (tokens * width, 6), "proj.bias": (tokens * width,), "norm.weight": (width,),
              "norm.bias": (width,)}  # fmt: skip
    crossing = [name.removesuffix(".processor") for name in unet.attn_processors if name.endswith("attn2.processor")]
    inner = [unet.get_submodule(name).to_q.out_features for name in crossing]
    keys = {
        f"{2 * i + 1}.{part}.weight": torch.randn(d, width)
        for i, d in enumerate(inner)
        for part in ("to_k_ip", "to_v_ip")
    }
    return {"image_proj": {name: torch.randn(shape) for name, shape in shapes.items()}, "ip_adapter": keys}


CLIP_TOKENS, CLIP_SIDE = 40, 12  # the longest prompt, and pixels


def letters() -> CLIPTokenizer:
    """A tokenizer of CLIP's kind that knows single letters only."""
    pieces = [letter + end for end in ("", "</w>") for letter in string.ascii_lowercase]
    vocabulary = {piece: i for i, piece in enumerate([*pieces, "<|startoftext|>", "<|endoftext|>"])}
    return CLIPTokenizer(vocabulary, [], model_max_length=CLIP_TOKENS)


def save_clip(folder: Path) -> str:
    """A CLIP model with random weights, and its processor, as a folder."""
    read_by = letters()
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = {
        "bos_token_id": read_by.bos_token_id,
        "eos_token_id": read_by.eos_token_id,
        "pad_token_id": read_by.pad_token_id,
    }
    text = small | ids | {"vocab_size": len(read_by), "max_position_embeddings": CLIP_TOKENS}
    vision = small | {"image_size": CLIP_SIDE, "patch_size": 4}
    torch.manual_seed(1)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(folder)
    pictures = CLIPImageProcessor(
        size={"shortest_edge": CLIP_SIDE}, crop_size={"height": CLIP_SIDE, "width": CLIP_SIDE}
    )
    CLIPProcessor(pictures, read_by).save_pretrained(folder)
    return str(folder)


def settings_of(stage: str, module, model: str = "digits-dit", **changes):
    """A stage's Settings from the digits' configuration, made small, with changes."""
    small = {
        "num_trajectories": 10,
        "num_inference_steps": 5,
        "steps": 20,
        "batch_size": 8,
        "hidden_size": 8,
        "num_samples": 12,
        "chunk_size": 12,
        "log_interval": 5,
        "checkpoint_interval": 7,
        "device": "cpu",
    }
    chosen = configuration.settings(configuration.shipped(), model, stage)
    return entry_points.settings_of(module.Settings, {k: changes.get(k, small.get(k, v)) for k, v in chosen.items()})


def command(stage: str, *words, family: str | None = "dit") -> None:
    """Run a stage's door in this process, as `python -m agd.dit.{stage} words`."""
    entry_point(stage, family=family, model=f"digits-{family}" if family else "digits-dit")(
        [str(word) for word in words]
    )


def training_words(shards, folder, *more, steps=20) -> list:
    """The command line of a short training, which writes its state twice."""
    return [
        *("--dir", folder, "--data-path", shards, "--steps", steps, "--hidden-size", 8, "--batch-size", 8),
        *("--log-interval", 5, "--checkpoint-interval", 7, *more),
    ]


def files(folder) -> dict[str, bytes]:
    """What a folder holds: name -> contents. Without a training's cost, which holds times."""
    return {file.name: file.read_bytes() for file in Path(folder).iterdir() if file.name != "cost.json"}


@pytest.fixture(scope="session")
def classifier(tmp_path_factory) -> Path:
    """A classifier of digits that has hardly learnt anything."""
    file = tmp_path_factory.mktemp("classifier") / "classifier.safetensors"
    command("train_classifier", "--output", file, "--steps", 50, family=None)
    return file


@pytest.fixture(scope="session")
def two_models_studied(tmp_path_factory) -> Path:
    """The study of `studies.two_models`, run to its end once for all of pytest's processes. Nothing may change it."""
    ours = tmp_path_factory.getbasetemp()
    done = (ours.parent if "PYTEST_XDIST_WORKER" in os.environ else ours) / "two_models.txt"
    with FileLock(done.with_suffix(".lock")):
        if not done.exists():
            folder = tmp_path_factory.mktemp("two_models")
            finish_two_models(folder)
            done.write_text(str(folder))
    return Path(done.read_text())


def finish_two_models(folder: Path) -> None:
    """Make what the user gives, and others of it to change to, and study both models to the end."""
    random_text_to_image().save_pretrained(folder / "base")
    save_clip(folder / "clip")
    command("prepare_digits", "--output", folder / "images.zip", "--annotations", folder / "captions.zip", family=None)
    command("train_classifier", "--output", folder / "weights.safetensors", "--steps", 5, family=None)
    shutil.copytree(folder / "base", folder / "other_base")
    shutil.copy(folder / "images.zip", folder / "other_images.zip")
    (folder / "captions.zip").rename(folder / "other_captions.zip")
    snakemake(folder, "--cores", "2", "--configfile", write(folder, two_models()), targets=TWO_TARGETS)
    shutil.copytree(folder / "results" / "tiny" / "base", folder / "continued_base")


@pytest.fixture(scope="module")
def finished(two_models_studied, tmp_path_factory) -> Path:
    """A module's own copy of the two models' study. Tests plan in it, and put back what they change."""
    return shutil.copytree(two_models_studied, tmp_path_factory.mktemp("elsewhere") / "study")
