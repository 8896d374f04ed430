"""Small stock pipelines with random weights, trained-looking adapters for them, and fixtures of both."""

import diffusers
import pytest
import torch
from conftest import random_dit, random_text_to_image
from diffusers import DDIMScheduler, DiTPipeline, DiTTransformer2DModel

import agd

RECORD = {
    "guidance_scale_range": [1, 10],
    "training": {"steps": 20, "loss": 0.25, "base_loss": 0.5},
    "provenance": {
        "stage": "train",
        "base": {"name": "someone/model", "revision": "abc", "fingerprint": "f" * 64},
        "settings": {"learning_rate": 1e-4},
        "packages": {"torch": "2"},
    },
}


def pipeline(double: bool = False, **options):
    pipe = random_text_to_image(double=double, **options)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def random_dit_pipeline() -> DiTPipeline:
    """Of 1000 classes: DiTPipeline's unconditional class is the 1001st."""
    config = dict(random_dit().config) | {"num_embeds_ada_norm": 1000}
    torch.manual_seed(3)
    model = DiTTransformer2DModel.from_config(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    vae = diffusers.AutoencoderKL(latent_channels=2, block_out_channels=(4,), norm_num_groups=2, sample_size=4)
    pipe = DiTPipeline(model, vae, DDIMScheduler(clip_sample=False))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def images(pipe, steps: int = 2, **call) -> torch.Tensor:
    """Images of a pipeline, from the same noise each time."""
    if isinstance(pipe, DiTPipeline):
        chosen = dict(class_labels=[3, 1], output_type="pt")
    else:
        chosen = dict(prompt="a cat in the rain", output_type="latent", height=16, width=16)
    chosen |= {"guidance_scale": 4.0} | call
    return pipe(num_inference_steps=steps, generator=torch.Generator().manual_seed(0), **chosen).images


def strong(adapters):
    """Adapters whose outputs are seen."""
    for layer in adapters.layers.values():
        torch.nn.init.normal_(layer.adapter.out.weight, std=0.5)
    return adapters


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> dict[str, str]:
    """Kind of pipeline -> folder of an adapter for it."""
    folders = {}
    kinds = {"sd": pipeline(), "sdxl": pipeline(double=True), "dit": random_dit_pipeline()}
    for name, pipe in kinds.items():
        torch.manual_seed(7)
        folder = tmp_path_factory.mktemp("adapters") / name
        agd.save(strong(agd.attach(pipe, agd.AdapterConfig(hidden_size=8, zero_init=False))), folder, RECORD)
        folders[name] = str(folder)
    return folders


@pytest.fixture
def loaded(trained):
    """A pipeline with adapters, and the adapters."""
    pipe = pipeline()
    return pipe, agd.load(pipe, trained["sd"])


def observed(denoiser) -> list:
    """Fills with (shape, dtype, device) of each output of a denoiser from now on."""
    found = []

    def note(module, args, output):
        found.append((tuple(output[0].shape), output[0].dtype, output[0].device))

    denoiser.register_forward_hook(note)
    return found


def batches(found: list) -> list[int]:
    return [shape[0] for shape, *_ in found]


def close(one: torch.Tensor, other: torch.Tensor, tolerance: float = 1e-4) -> bool:
    return torch.allclose(one, other, atol=tolerance, rtol=tolerance)
