"""Makes a base model of full size with random weights: `python -m benchmarks.full_size sdxl full-size/sdxl`.

`snakemake results/sdxl/fid.json --configfile config/full-size.yaml` then runs the whole pipeline at real shapes. It shows
time and memory; its images are noise. Weights are in float16. The tokenizers know the words of the digits' captions only.
"""

import argparse
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiffusionPipeline,
    DiTPipeline,
    DiTTransformer2DModel,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from agd.digits.architectures import tokenizer
from agd.digits.data import captions
from benchmarks.adapter_cost import DIT_XL, SD21
from benchmarks.sdxl_memory import SDXL, SMALL

# Shapes of the text encoders: CLIP ViT-L/14, OpenCLIP ViT-bigG/14 and OpenCLIP ViT-H/14 (23 of its layers).
CLIP_L = dict(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
CLIP_G = dict(
    hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=20, projection_dim=1280
)
CLIP_H = dict(hidden_size=1024, intermediate_size=4096, num_hidden_layers=23, num_attention_heads=16)
TINY = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, projection_dim=64)
SCALED_LINEAR = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")


def autoencoder(image_size: int, scaling_factor: float, small: bool) -> AutoencoderKL:
    """Make Stable Diffusion's autoencoder: images -> latents of an eighth of their side."""
    return AutoencoderKL(
        block_out_channels=(32,) * 4 if small else (128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
        sample_size=image_size,
        scaling_factor=scaling_factor,
    )


def text_config(read_by, shapes: dict) -> CLIPTextConfig:
    special = {name: getattr(read_by, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return CLIPTextConfig(vocab_size=49408, max_position_embeddings=77, **special, **shapes)


def long_tokenizer() -> CLIPTokenizer:
    """Make the digits' tokenizer, for prompts as long as the large models'."""
    found = tokenizer(captions())
    found.model_max_length = 77
    return found


def sdxl(small: bool) -> DiffusionPipeline:
    words = long_tokenizer()
    first, second = (TINY, TINY) if small else (CLIP_L, CLIP_G)
    shapes = SDXL if not small else SMALL | dict(sample_size=8, projection_class_embeddings_input_dim=64 + 6 * 8)
    return StableDiffusionXLPipeline(
        autoencoder(8 * shapes["sample_size"], 0.13025, small),
        CLIPTextModel(text_config(words, first)),
        CLIPTextModelWithProjection(text_config(words, second)),
        words,
        words,
        UNet2DConditionModel(**shapes),
        EulerDiscreteScheduler(**SCALED_LINEAR, timestep_spacing="leading", steps_offset=1),
        add_watermarker=False,
    )


def sd21(small: bool) -> DiffusionPipeline:
    words = long_tokenizer()
    own = dict(sample_size=8, block_out_channels=(32,) * 4, attention_head_dim=2, cross_attention_dim=32)
    shapes = SD21 | (own if small else {})
    scheduler = DDIMScheduler(
        **SCALED_LINEAR, clip_sample=False, prediction_type="v_prediction", set_alpha_to_one=False, steps_offset=1
    )
    return StableDiffusionPipeline(
        autoencoder(8 * shapes["sample_size"], 0.18215, small),
        CLIPTextModel(text_config(words, TINY if small else CLIP_H)),
        words,
        UNet2DConditionModel(**shapes),
        scheduler,
        None,
        None,
        requires_safety_checker=False,
    )


def dit(small: bool) -> DiffusionPipeline:
    own = dict(num_layers=2, sample_size=8, num_attention_heads=2, attention_head_dim=8)
    shapes = DIT_XL | (own if small else {})
    return DiTPipeline(
        DiTTransformer2DModel(**shapes),
        autoencoder(8 * shapes["sample_size"], 0.18215, small),
        DDIMScheduler(clip_sample=False),
    )


MODELS = {"sdxl": sdxl, "sd21": sd21, "dit": dit}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", help="that draws the weights"
    )
    parser.add_argument("--small", action="store_true", help="a small model of the same kind, latents of 8 x 8")
    asked = parser.parse_args()
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float32 if asked.small else torch.float16)
    with torch.device(asked.device):
        pipe = MODELS[asked.model](asked.small)
    pipe.save_pretrained(asked.folder)


if __name__ == "__main__":
    main()
