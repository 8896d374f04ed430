"""Text to image with a UNet: Stable Diffusion 1.x and 2.x (StableDiffusionPipeline) and SDXL (StableDiffusionXLPipeline).

Which of them a model is, and whether it predicts noise or velocity, is what its weights declare.
"""

import dataclasses
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from diffusers.utils import logging
from safetensors import SafetensorError
from transformers import CLIPTextModel, CLIPTextModelWithProjection
from transformers.utils import logging as transformers_logging

from agd import base_model, schedulers
from agd.errors import UserError
from agd.provenance import model_fingerprint, read_json
from agd.sd import guides, prompts
from agd.sd.anatomy import ANATOMY

for theirs in (logging, transformers_logging):
    theirs.disable_progress_bar()  # a stage shows one bar of its own
    theirs.set_verbosity_error()  # a prompt that is too long is said once, by `check`, not in every batch

_CLASSES = {kind.__name__: kind for kind in (StableDiffusionPipeline, StableDiffusionXLPipeline)}
_ENCODERS = {"text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}
_TEXT = (*_ENCODERS, "tokenizer", "tokenizer_2")
_NEVER = ("safety_checker", "feature_extractor", "image_encoder")


class TextToImage:
    """A Stable Diffusion or SDXL model opened for the stages: how to condition it, call it and see its latents.

    Conditions, per sample: prompt_embeds (B, n, D) and, for SDXL, text_embeds (B, P) and time_ids (B, 6): original
    height and width, top and left of the crop, target height and width, in pixels.
    """

    anatomy = ANATOMY

    def __init__(
        self, name: str, dtype: torch.dtype, device: torch.device, conditions: bool = False, images: bool = False
    ):
        """Open a folder or hub id. conditions: load the text encoders; images: the autoencoder, which decodes in fp32.

        Raises UserError if it is no such pipeline.
        """
        folder = base_model.locate(name)
        declared = base_model.index(folder, *_CLASSES)
        self.double = declared["_class_name"] == StableDiffusionXLPipeline.__name__
        left_out = [*_NEVER, *([] if conditions else _TEXT), *([] if images else ["vae"])]
        given = {part: None for part in left_out if part in declared}
        dtypes = {"default": dtype, "vae": torch.float32}
        try:
            if conditions:
                given |= {
                    part: _text_encoder(folder / part, dtype) for part in _ENCODERS if declared.get(part, [None])[0]
                }
            pipe = _CLASSES[declared["_class_name"]].from_pretrained(
                folder, dtype=dtypes, use_safetensors=True, **given
            )
        except (ValueError, OSError, RuntimeError, SafetensorError) as error:
            words = " ".join(str(error).split())[:200]
            raise UserError(f"{folder}: can't be opened, fetch the model again ({words})") from None
        base_model.check_whole(folder, pipe.unet, pipe.vae)
        for part in (pipe.unet, pipe.vae, pipe.text_encoder, getattr(pipe, "text_encoder_2", None)):
            if part is not None:
                part.to(device).eval().requires_grad_(False)
        if images:
            pipe.vae.enable_slicing()  # one image at a time: decoding takes more memory than all the rest
        self.pipe, self.denoiser = pipe, pipe.unet
        self.image_embeds = self.controlnet = None
        self.device, self.dtype = device, dtype
        self.scheduler = pipe.scheduler
        self.resolution = self.denoiser.config.sample_size * _pixels_per_latent(folder)
        self.latent_shape = (self.denoiser.config.in_channels, *[self.denoiser.config.sample_size] * 2)
        self.identity = {
            "name": name,
            "revision": base_model.revision(folder),
            "fingerprint": model_fingerprint(folder / "unet"),
        }

    @staticmethod
    def check(name: str, files, settings) -> tuple:
        """The settings, with what `auto` means for this model, and the prompts; loads no weights.

        Raises UserError if the settings can't work with this model, or a prompt or picture can't be read. Says once which
        prompts are too long.
        """
        folder = base_model.locate(name)
        declared = base_model.index(folder, *_CLASSES)
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
        if settings.unconditional == "auto":
            zeros = declared.get("force_zeros_for_empty_prompt", False)
            settings = dataclasses.replace(settings, unconditional="zeros" if zeros else "empty")
        guides.check(files)
        found = prompts.read(files)
        prompts.say_what_is_cut(found, folder / "tokenizer", name)
        if getattr(files, "prompt", None):
            settings = dataclasses.replace(settings, num_samples=len(found))
        return settings, found

    def follow(self, files) -> dict[str, str]:
        """Load what else the images are to follow, an IP-Adapter or a ControlNet with its picture, and say what that is."""
        if files.ip_adapter:
            self.image_embeds = guides.open_ip_adapter(self.pipe, files, self.device)
        if files.controlnet:
            self.controlnet, self.control = guides.open_controlnet(self.pipe, files, self.dtype, self.resolution)
            self.controlnet.to(self.device)
        return guides.identities(files)

    def conditions(self, subjects: list[str]) -> dict[str, torch.Tensor]:
        """What samples of these prompts are conditioned on."""
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

    def unconditional(self, conditions: dict[str, torch.Tensor], kind: str) -> dict[str, torch.Tensor]:
        """The same, without the prompt: `zeros`, or the embedding of the `empty` string. Sizes stay."""
        number = len(conditions["prompt_embeds"])
        if kind == "zeros":
            without = {k: torch.zeros_like(conditions[k]) for k in ("prompt_embeds", "text_embeds") if k in conditions}
        else:
            without = self.conditions([""] * number)
        if self.image_embeds:
            without["image_embeds"] = self.image_embeds[0].expand(number, -1, -1)
        return conditions | without

    def call(self, x_BCHW: torch.Tensor, t: torch.Tensor, conditions: dict[str, torch.Tensor]) -> torch.Tensor:
        """One pass: (B, C, H, W) in any float dtype, t () or (B,) -> (B, C, H, W) float32."""
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

    def images(self, latents_BCHW: torch.Tensor) -> torch.Tensor:
        """Latents (B, C, h, w) -> images (B, channels, H, W) uint8."""
        described = self.pipe.vae.config
        latents_BCHW = latents_BCHW.float() / described.scaling_factor
        if getattr(described, "latents_mean", None) is not None:
            mean, std = (
                torch.tensor(v, device=self.device)[:, None, None]
                for v in (described.latents_mean, described.latents_std)
            )
            latents_BCHW = latents_BCHW * std + mean
        decoded = self.pipe.vae.decode(latents_BCHW).sample
        return ((decoded / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)


def _text_encoder(folder: Path, dtype: torch.dtype):
    """Opened by itself: inside a pipeline, weights that the files lack would be random ones without a word."""
    opened, loading = _ENCODERS[folder.name].from_pretrained(
        folder, dtype=dtype, use_safetensors=True, output_loading_info=True
    )
    if lacking := sorted(loading["missing_keys"]):
        raise UserError(f"{folder}: its weights lack {lacking[0]} ({len(lacking)} in all); fetch the model again")
    return opened


def _pixels_per_latent(folder: Path) -> int:
    described = read_json(folder / "vae" / "config.json", "block_out_channels")
    return 2 ** (len(described["block_out_channels"]) - 1)


FAMILY = TextToImage
