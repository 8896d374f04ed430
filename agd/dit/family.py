"""Class-conditional diffusion transformers: any DiT that `DiTPipeline.from_pretrained` opens."""

from pathlib import Path

import torch
from diffusers import DiTPipeline
from diffusers.utils import logging
from safetensors import SafetensorError
from torch import nn

from agd import base_model, config, schedulers
from agd.errors import UserError
from agd.hooks import Anatomy
from agd.provenance import model_fingerprint, read_json

logging.disable_progress_bar()  # a stage shows one bar of its own


def _attentions(denoiser: nn.Module) -> dict[str, nn.Module]:
    return {str(i): block.attn1 for i, block in enumerate(denoiser.transformer_blocks)}


def _widths(denoiser: nn.Module) -> dict[str, int]:
    width = denoiser.inner_dim
    return {"timestep": width, "class": width}


def _embed(denoiser: nn.Module, arguments: dict, entry_output: torch.Tensor) -> dict[str, torch.Tensor]:
    """The base's own embeddings of t and of the class, (B, 1, D) each: those of its first block."""
    embedder = denoiser.transformer_blocks[0].norm1.emb
    frequencies = embedder.time_proj(arguments["timestep"]).to(entry_output.dtype)
    t_BD = embedder.timestep_embedder(frequencies)
    class_BD = embedder.class_embedder(arguments["class_labels"])
    return {"timestep": t_BD[:, None], "class": class_BD[:, None]}


ANATOMY = Anatomy(entry="pos_embed", attentions=_attentions, widths=_widths, embed=_embed)


class DiT:
    """A DiT opened for the stages: how to condition it, call it, sample it and see its latents."""

    anatomy = ANATOMY

    def __init__(
        self, name: str, dtype: torch.dtype, device: torch.device, conditions: bool = False, images: bool = False
    ):
        """Open a folder or hub id. images: load the autoencoder too; classes need nothing to become conditions.

        Raises UserError if it is no DiT pipeline.
        """
        folder = base_model.locate(name)
        base_model.index(folder, "DiTPipeline")
        try:
            without = {} if images else {"vae": None}
            pipe = DiTPipeline.from_pretrained(folder, dtype=dtype, use_safetensors=True, **without)
        except (ValueError, OSError, RuntimeError, SafetensorError) as error:
            words = " ".join(str(error).split())[:200]
            raise UserError(f"{folder}: can't be opened, fetch the model again ({words})") from None
        base_model.check_whole(folder, pipe.transformer, pipe.vae)
        self.denoiser = pipe.transformer.to(device).eval().requires_grad_(False)
        self.scheduler = pipe.scheduler
        self.vae = pipe.vae.to(device).eval().requires_grad_(False) if images else None
        self.device, self.dtype = device, dtype
        size, self.channels = self.denoiser.config.sample_size, self.denoiser.config.in_channels
        self.latent_shape = (self.channels, size, size)
        self.null_label = self.denoiser.config.num_embeds_ada_norm
        self.identity = {
            "name": name,
            "revision": base_model.revision(folder),
            "fingerprint": model_fingerprint(folder / "transformer"),
        }

    @staticmethod
    def check(name: str, files, settings) -> tuple:
        """The settings, and the classes to depict; reads the model's configuration, loads no weights.

        Raises UserError if the settings can't work with this model.
        """
        folder = base_model.locate(name)
        base_model.index(folder, "DiTPipeline")
        described = _config(folder)
        labels = config.class_labels(settings.class_labels)
        if max(labels) >= described["num_embeds_ada_norm"]:
            raise UserError(
                f"class_labels: {max(labels)} is out of range; {name} has classes 0 to {described['num_embeds_ada_norm'] - 1}"
            )
        if settings.guided_channels > described["in_channels"]:
            raise UserError(
                f"guided_channels: {settings.guided_channels} is more than the {described['in_channels']} channels of {name}"
            )
        schedulers.check(folder, settings.scheduler, settings.num_inference_steps, name)
        return settings, labels

    def follow(self, files) -> dict:
        """Load what else the images are to follow, and say what that is: nothing, a DiT knows classes only."""
        return {}

    def conditions(self, subjects: list[int]) -> dict[str, torch.Tensor]:
        """What samples of these classes are conditioned on: {"class_label": (B,) int64}."""
        return {"class_label": torch.tensor(subjects, device=self.device)}

    def unconditional(self, conditions: dict[str, torch.Tensor], kind: None) -> dict[str, torch.Tensor]:
        """The same, without the condition: the label that training put where it dropped the class."""
        return {"class_label": torch.full_like(conditions["class_label"], self.null_label)}

    def call(self, x_BCHW: torch.Tensor, t: torch.Tensor, conditions: dict[str, torch.Tensor]) -> torch.Tensor:
        """One pass: (B, C, H, W) in any float dtype, t () or (B,) -> (B, C, H, W) float32. A learned sigma, which
        comes as C more channels, is left out: guidance and DDIM use the mean only."""
        t_B = t.expand(x_BCHW.shape[0])
        output = self.denoiser(
            x_BCHW.to(self.dtype), timestep=t_B, class_labels=conditions["class_label"], return_dict=False
        )[0]
        return output[:, : self.channels].float()

    def images(self, latents_BCHW: torch.Tensor) -> torch.Tensor:
        """Latents (B, C, h, w) -> images (B, channels, H, W) uint8."""
        decoded = self.vae.decode((latents_BCHW / self.vae.config.scaling_factor).to(self.dtype)).sample
        return ((decoded.float() / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)


def _config(folder: Path) -> dict:
    return read_json(folder / "transformer" / "config.json", "num_embeds_ada_norm", "in_channels", "sample_size")


FAMILY = DiT
