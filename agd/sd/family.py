"""Opens text-to-image models with a UNet: Stable Diffusion 1.x and 2.x, and SDXL.

Their pipelines are StableDiffusionPipeline and StableDiffusionXLPipeline. The model's files say which one a model uses,
and whether it predicts noise or velocity.
"""

import dataclasses
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from diffusers.utils import logging
from transformers import CLIPTextModel, CLIPTextModelWithProjection
from transformers.utils import logging as transformers_logging

from agd.artifacts import prompts
from agd.artifacts.sealed_json import read_json
from agd.diffusion import base_models, schedulers
from agd.diffusion.sampling import eight_bits
from agd.runtime.errors import UserError
from agd.sd import guides
from agd.sd.anatomy import ANATOMY
from agd.sd.attention_cache import AttentionCache
from agd.sd.options import DENOISER_FOLDER
from agd.sd.token_limit import say_what_is_cut

for theirs in (logging, transformers_logging):
    theirs.disable_progress_bar()  # a stage shows its own progress bar
    theirs.set_verbosity_error()  # `check` reports a prompt that is too long once, not in every batch

_CLASSES = {kind.__name__: kind for kind in (StableDiffusionPipeline, StableDiffusionXLPipeline)}
_ENCODERS = {"text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}
_TEXT = (*_ENCODERS, "tokenizer", "tokenizer_2")
_PARTS = {
    "unet": base_models.Part(r"diffusers\.UNet2DConditionModel"),
    "vae": base_models.AUTOENCODER,
    "text_encoder": base_models.Part(r"transformers\.CLIPTextModel"),
    "text_encoder_2": base_models.Part(r"transformers\.CLIPTextModelWithProjection"),
    "tokenizer": base_models.Part(r"transformers\.CLIPTokenizer(Fast)?", weights=False),
    "tokenizer_2": base_models.Part(r"transformers\.CLIPTokenizer(Fast)?", weights=False),
    "scheduler": base_models.SCHEDULER,
}
_NEVER = ("safety_checker", "feature_extractor", "image_encoder")


class StableDiffusion:
    """A Stable Diffusion or SDXL model opened for a stage: it makes conditions, runs the denoiser and decodes latents.

    Conditions of B samples: prompt_embeds (B, n, D). SDXL also has text_embeds (B, P) and time_ids (B, 6): original
    height and width, top and left of the crop, target height and width, in pixels.
    """

    anatomy = ANATOMY

    def __init__(
        self, name: str, dtype: torch.dtype, device: torch.device, conditions: bool = False, images: bool = False
    ):
        """Open a folder or hub id. conditions: load the text encoders. images: load the autoencoder, in fp32.

        Raises UserError if it is not such a pipeline.
        """
        folder = base_models.locate(name)
        declared = base_models.index(folder, _CLASSES, _PARTS)
        self.double = declared["_class_name"] == StableDiffusionXLPipeline.__name__
        left_out = [*_NEVER, *([] if conditions else _TEXT), *([] if images else ["vae"])]
        given = {part: None for part in left_out if part in declared}
        dtypes = {"default": dtype, "vae": torch.float32}
        if conditions:
            given |= {part: _text_encoder(folder / part, dtype) for part in _ENCODERS if declared.get(part, [None])[0]}
        given["variant"] = base_models.variant(folder, [DENOISER_FOLDER, "vae"])
        pipe = base_models.open_safely(_CLASSES[declared["_class_name"]], folder, dtype=dtypes, **given)
        base_models.check_whole(folder, pipe.unet, pipe.vae)
        for part in (pipe.unet, pipe.vae, pipe.text_encoder, getattr(pipe, "text_encoder_2", None)):
            if part is not None:
                part.to(device).eval().requires_grad_(False)
        if images:
            pipe.vae.enable_slicing()  # decode one image at a time: decoding takes more memory than everything else
        self.pipe, self.denoiser = pipe, pipe.unet
        self.image_embeds = self.controlnet = None
        self.device, self.dtype = device, dtype
        self.scheduler = pipe.scheduler
        self.resolution = self.denoiser.config.sample_size * _pixels_per_latent(folder)
        self.latent_shape = (self.denoiser.config.in_channels, *[self.denoiser.config.sample_size] * 2)
        self.identity = base_models.identity(name, folder, DENOISER_FOLDER)

    @staticmethod
    def check(name: str, files, settings) -> tuple:
        """Return the settings, with `auto` resolved for this model, and the prompts. Loads no weights.

        Prints once how many prompts are too long. Raises UserError if the settings don't fit this model, or if a prompt
        or picture can't be read.
        """
        folder = base_models.locate(name)
        declared = base_models.index(folder, _CLASSES, _PARTS)
        unet = read_json(folder / "unet" / "config.json", "in_channels", "out_channels", "sample_size")
        channels = unet["in_channels"]
        if channels != unet["out_channels"]:
            raise UserError(
                f"{name}: its UNet takes {channels} channels and gives {unet['out_channels']}; give a text-to-image model"
            )
        if settings.guided_channels > channels:
            raise UserError(
                f"guided_channels: {settings.guided_channels} is more than the {channels} channels of {name}"
            )
        schedulers.check(folder, settings.scheduler, settings.num_inference_steps, name)
        if settings.family_settings["unconditional"] == "auto":
            zeros = declared.get("force_zeros_for_empty_prompt", False)
            chosen = {"unconditional": "zeros" if zeros else "empty"}
            settings = dataclasses.replace(settings, family_settings=settings.family_settings | chosen)
        guides.check(files)
        found = prompts.read(files)
        say_what_is_cut(found, folder / "tokenizer", name)
        if getattr(files, "prompt", None):
            settings = dataclasses.replace(settings, num_samples=len(found))
        return settings, found

    def follow(self, files) -> dict[str, str]:
        """Load the IP-Adapter and ControlNet of the command line, with their pictures. Returns their identities."""
        if files.ip_adapter:
            self.image_embeds = guides.open_ip_adapter(self.pipe, files, self.device)
        if files.controlnet:
            self.controlnet, self.control = guides.open_controlnet(self.pipe, files, self.dtype, self.resolution)
            self.controlnet.to(self.device)
        return guides.identities(files)

    def conditions(self, subjects: list[str]) -> dict[str, torch.Tensor]:
        """Return the conditions of samples with these prompts."""
        encoded = self.pipe.encode_prompt(
            subjects, device=self.device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        conditions = {"prompt_embeds": encoded[0]}
        if self.double:
            size = (self.resolution, self.resolution)
            ids = torch.tensor([[*size, 0, 0, *size]], dtype=torch.float32, device=self.device)
            conditions |= {"text_embeds": encoded[2], "time_ids": ids.expand(len(subjects), -1)}
        if self.image_embeds:
            conditions["image_embeds"] = self.image_embeds[1].expand(len(subjects), -1, -1)
        return conditions

    def unconditional(self, conditions: dict[str, torch.Tensor], settings) -> dict[str, torch.Tensor]:
        """Return unconditional conditions, `zeros` or the embedding of the `empty` prompt as set. Image sizes stay."""
        number = len(conditions["prompt_embeds"])
        if settings.family_settings["unconditional"] == "zeros":
            without = {k: torch.zeros_like(conditions[k]) for k in ("prompt_embeds", "text_embeds") if k in conditions}
        else:
            without = self.conditions([""] * number)
        if self.image_embeds:
            without["image_embeds"] = self.image_embeds[0].expand(number, -1, -1)
        return conditions | without

    def call(self, x_BCHW: torch.Tensor, t: torch.Tensor, conditions: dict[str, torch.Tensor]) -> torch.Tensor:
        """Run the denoiser once: (B, C, H, W) in any float dtype, t () or (B,) -> (B, C, H, W) float32."""
        x_BCHW = x_BCHW.to(self.dtype)
        prompt_BnD = conditions["prompt_embeds"].to(self.dtype)
        added = {k: conditions[k].to(self.dtype) for k in ("text_embeds", "time_ids") if k in conditions}
        residuals = {}
        if self.controlnet:
            control = self.control.expand(len(x_BCHW), -1, -1, -1)
            down, middle = self.controlnet(
                x_BCHW, t, prompt_BnD, control, added_cond_kwargs=added or None, return_dict=False
            )
            residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
        if "image_embeds" in conditions:
            added["image_embeds"] = [conditions["image_embeds"].to(self.dtype)]
        return self.denoiser(x_BCHW, t, prompt_BnD, added_cond_kwargs=added or None, return_dict=False, **residuals)[
            0
        ].float()

    def attention_cache(self, settings) -> AttentionCache | None:
        """Return a cache of the cross-attentions, if the settings ask for it."""
        if not settings.family_settings["cached_cross_attention"]:
            return None
        return AttentionCache(list(ANATOMY.attentions(self.denoiser).values()))

    def images(self, latents_BCHW: torch.Tensor) -> torch.Tensor:
        """Decode latents (B, C, h, w) to images (B, channels, H, W) uint8."""
        described = self.pipe.vae.config
        latents_BCHW = latents_BCHW.float() / described.scaling_factor
        if getattr(described, "latents_mean", None) is not None:
            mean, std = (
                torch.tensor(v, device=self.device)[:, None, None]
                for v in (described.latents_mean, described.latents_std)
            )
            latents_BCHW = latents_BCHW * std + mean
        decoded = self.pipe.vae.decode(latents_BCHW).sample
        return eight_bits(decoded)


def _text_encoder(folder: Path, dtype: torch.dtype):
    """Open a text encoder outside the pipeline, which would silently fill missing weights at random."""
    own = {"dtype": dtype, "variant": base_models.variant(folder.parent, [folder.name])}
    opened, loading = base_models.open_safely(_ENCODERS[folder.name], folder, **own, output_loading_info=True)
    if lacking := sorted(loading["missing_keys"]):
        raise UserError(f"{folder}: its weights lack {lacking[0]} ({len(lacking)} in all); fetch the model again")
    return opened


def _pixels_per_latent(folder: Path) -> int:
    described = read_json(folder / "vae" / "config.json", "block_out_channels")
    return 2 ** (len(described["block_out_channels"]) - 1)


MODEL_CLASS = StableDiffusion
