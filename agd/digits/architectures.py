"""Small untrained models for the digits, of the same classes as the large models.

Images are 8 x 8 and grey; latents are (1, 8, 8). Each model stores the images' labels or captions. Its arguments are
noisy latents (B, 1, 8, 8), timesteps (B,), image numbers (B,), and a mask (B,) of samples without a condition. It
returns (B, 1, 8, 8).
"""

import re
import string

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
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

SIDE = 8
CLASSES = 10
_LONGEST_CAPTION = 16  # tokens, including the first and last special token
_TEXT_WIDTH = 32
_SDXL_NOISE = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
_ALPHABET = sorted(string.ascii_lowercase + string.digits + string.punctuation)


def autoencoder() -> AutoencoderKL:
    """Make an autoencoder: images (1, 8, 8) <-> latents (1, 8, 8)."""
    return AutoencoderKL(
        in_channels=1,
        out_channels=1,
        latent_channels=1,
        block_out_channels=(16,),
        down_block_types=("DownEncoderBlock2D",),
        up_block_types=("UpDecoderBlock2D",),
        norm_num_groups=4,
        sample_size=SIDE,
        mid_block_add_attention=False,
    )


class ClassToImage(nn.Module):
    """A DiT with four layers of width 96 on patches of 2 x 2: 16 tokens."""

    def __init__(self, labels: torch.Tensor, captions: list[str]):
        super().__init__()
        self.denoiser = DiTTransformer2DModel(
            num_attention_heads=4,
            attention_head_dim=24,
            in_channels=1,
            out_channels=1,
            num_layers=4,
            sample_size=SIDE,
            patch_size=2,
            num_embeds_ada_norm=CLASSES,
            norm_num_groups=1,
        )
        self.register_buffer("labels", labels, persistent=False)
        self.scheduler = DDIMScheduler(clip_sample=False)

    def forward(self, x_BCHW, t_B, chosen_B, dropped_B) -> torch.Tensor:
        labels_B = self.labels[chosen_B].masked_fill(dropped_B, CLASSES)
        return self.denoiser(x_BCHW, timestep=t_B, class_labels=labels_B).sample

    def pipeline(self, vae: AutoencoderKL) -> DiffusionPipeline:
        return DiTPipeline(self.denoiser, vae, self.scheduler)


class TextToImage(nn.Module):
    """Stable Diffusion: a velocity-predicting UNet and a text encoder, trained together.

    Unconditional: the empty caption.
    """

    def __init__(self, labels: torch.Tensor, captions: list[str]):
        super().__init__()
        self.tokenizer = tokenizer(captions)
        self.text_encoder = CLIPTextModel(_text_config(self.tokenizer))
        self.denoiser = unet(cross_attention_dim=_TEXT_WIDTH)
        self.register_buffer("tokens", _tokens(self.tokenizer, captions), persistent=False)
        self.register_buffer("no_tokens", _tokens(self.tokenizer, [""]), persistent=False)
        self.scheduler = DDIMScheduler(clip_sample=False, prediction_type="v_prediction")

    def forward(self, x_BCHW, t_B, chosen_B, dropped_B) -> torch.Tensor:
        tokens_BL = torch.where(dropped_B[:, None], self.no_tokens, self.tokens[chosen_B])
        return self.denoiser(x_BCHW, t_B, self.text_encoder(tokens_BL).last_hidden_state).sample

    def pipeline(self, vae: AutoencoderKL) -> DiffusionPipeline:
        return StableDiffusionPipeline(
            vae, self.text_encoder, self.tokenizer, self.denoiser, self.scheduler, None, None,
            requires_safety_checker=False,
        )  # fmt: skip


class TextToImageXL(nn.Module):
    """SDXL: a noise-predicting UNet with two text encoders. Unconditional: zeros.

    Conditions: the second-last layers of both encoders, concatenated; the second encoder's pooled output; image sizes.
    """

    def __init__(self, labels: torch.Tensor, captions: list[str]):
        super().__init__()
        self.tokenizer = tokenizer(captions)
        self.text_encoder = CLIPTextModel(_text_config(self.tokenizer))
        self.text_encoder_2 = CLIPTextModelWithProjection(_text_config(self.tokenizer))
        self.denoiser = unet(
            cross_attention_dim=2 * _TEXT_WIDTH,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=_TEXT_WIDTH + 6 * 8,
        )
        self.register_buffer("tokens", _tokens(self.tokenizer, captions), persistent=False)
        self.register_buffer("sizes", torch.tensor([[SIDE, SIDE, 0, 0, SIDE, SIDE]]).float(), persistent=False)
        self.scheduler = EulerDiscreteScheduler(**_SDXL_NOISE, timestep_spacing="leading", steps_offset=1)

    def forward(self, x_BCHW, t_B, chosen_B, dropped_B) -> torch.Tensor:
        tokens_BL = self.tokens[chosen_B]
        first = self.text_encoder(tokens_BL, output_hidden_states=True)
        second = self.text_encoder_2(tokens_BL, output_hidden_states=True)
        prompt_BLD = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
        kept_B = (~dropped_B).float()
        added = {"text_embeds": second.text_embeds * kept_B[:, None], "time_ids": self.sizes.expand(len(x_BCHW), -1)}
        prompt_BLD = prompt_BLD * kept_B[:, None, None]
        return self.denoiser(x_BCHW, t_B, prompt_BLD, added_cond_kwargs=added).sample

    def pipeline(self, vae: AutoencoderKL) -> DiffusionPipeline:
        return StableDiffusionXLPipeline(
            vae, self.text_encoder, self.text_encoder_2, self.tokenizer, self.tokenizer, self.denoiser, self.scheduler,
            add_watermarker=False,
        )  # fmt: skip


ARCHITECTURES = {"dit": ClassToImage, "sd": TextToImage, "sdxl": TextToImageXL}


def unet(**more) -> UNet2DConditionModel:
    """Make a UNet with two resolutions, 8 x 8 and 4 x 4, and cross-attention at both: seven adapted layers."""
    return UNet2DConditionModel(
        sample_size=SIDE,
        in_channels=1,
        out_channels=1,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=(2, 4),  # number of heads, despite its name
        norm_num_groups=8,
        use_linear_projection=True,
        **more,
    )


def tokenizer(captions: list[str]) -> CLIPTokenizer:
    """Make a CLIP tokenizer whose byte-pair merges build each word of the captions from left to right.

    The merges are not learnt: the library's trainer breaks ties at random, and equal work should give equal bytes.
    """
    merges = {}  # in insertion order, without repeats
    for word in sorted({word for caption in captions for word in re.findall("[a-z]+", caption.lower())}):
        left, *others = [*word[:-1], f"{word[-1]}</w>"]
        for letter in others:
            merges[left, letter] = None
            left += letter
    pieces = [*_ALPHABET, *(f"{letter}</w>" for letter in _ALPHABET), *map("".join, merges)]
    vocabulary = {piece: i for i, piece in enumerate([*pieces, "<|startoftext|>", "<|endoftext|>"])}
    return CLIPTokenizer(vocabulary, list(merges), model_max_length=_LONGEST_CAPTION)


def _text_config(read_by: CLIPTokenizer) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(read_by),
        hidden_size=_TEXT_WIDTH,
        projection_dim=_TEXT_WIDTH,
        intermediate_size=4 * _TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=_LONGEST_CAPTION,
        bos_token_id=read_by.bos_token_id,
        eos_token_id=read_by.eos_token_id,
        pad_token_id=read_by.pad_token_id,
    )


def _tokens(read_by: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    read = read_by(texts, padding="max_length", max_length=_LONGEST_CAPTION, truncation=True, return_tensors="pt")
    return read.input_ids
