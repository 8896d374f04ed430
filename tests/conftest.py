"""Small random models and data that the tests share."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may depend on a network

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel

from agd import cli, config


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


def settings_of(stage: str, module, **changes):
    """A stage's Settings from the digits' configuration, made small, with changes."""
    small = {
        "num_per_class": 1,
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
    chosen = config.settings(config.shipped(), "digits-dit", stage)
    return module.Settings(**{k: changes.get(k, small.get(k, v)) for k, v in chosen.items()})


def command(stage: str, *words, family: str | None = "dit") -> None:
    """Run a stage's door in this process, as `python -m agd.dit.{stage} words`."""
    cli.door(stage, family=family, model="digits-dit")([str(word) for word in words])
