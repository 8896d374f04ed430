"""Opens class-conditional diffusion transformers: any DiT that `DiTPipeline.from_pretrained` opens."""

from pathlib import Path

import torch
from diffusers import DiTPipeline
from diffusers.utils import logging

from agd.artifacts.labelled_images import pixels
from agd.artifacts.sealed_json import read_json
from agd.diffusion import base_models, schedulers
from agd.diffusion.sampling import eight_bits
from agd.dit.anatomy import ANATOMY
from agd.dit.options import DENOISER_FOLDER
from agd.runtime.errors import UserError
from agd.settings import written_values

logging.disable_progress_bar()  # a stage shows its own progress bar


_PARTS = {
    "transformer": base_models.Part(r"diffusers\.(DiT)?Transformer2DModel"),
    "vae": base_models.AUTOENCODER,
    "scheduler": base_models.SCHEDULER,
}


class DiT:
    """A DiT opened for a stage: it makes conditions, runs the denoiser and decodes latents."""

    anatomy = ANATOMY

    def __init__(
        self, name: str, dtype: torch.dtype, device: torch.device, conditions: bool = False, images: bool = False
    ):
        """Open a folder or hub id. images: load the autoencoder, in fp32. conditions: ignored, classes need no encoder.

        Raises UserError if it is not a DiT pipeline.
        """
        folder = base_models.locate(name)
        base_models.index(folder, ["DiTPipeline"], _PARTS)
        given = {} if images else {"vae": None}
        given["variant"] = base_models.variant(folder, [DENOISER_FOLDER, "vae"])
        dtypes = {"default": dtype, "vae": torch.float32}
        pipe = base_models.open_safely(DiTPipeline, folder, dtype=dtypes, **given)
        base_models.check_whole(folder, pipe.transformer, pipe.vae)
        self.denoiser = pipe.transformer.to(device).eval().requires_grad_(False)
        self.scheduler = pipe.scheduler
        self.vae = pipe.vae.to(device).eval().requires_grad_(False) if images else None
        self.device, self.dtype = device, dtype
        size, self.channels = self.denoiser.config.sample_size, self.denoiser.config.in_channels
        self.latent_shape = (self.channels, size, size)
        self.null_label = self.denoiser.config.num_embeds_ada_norm
        self.identity = base_models.identity(name, folder, DENOISER_FOLDER)

    @staticmethod
    def check(name: str, files, settings) -> tuple:
        """Return the settings and the classes. Reads the model's configuration, but no weights.

        Raises UserError if the settings don't fit this model.
        """
        folder = base_models.locate(name)
        base_models.index(folder, ["DiTPipeline"], _PARTS)
        described = _config(folder)
        labels = written_values.class_labels(settings.class_labels)
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

    @staticmethod
    def classes(name: str) -> int:
        """Return how many classes a model has. Reads no weights."""
        return _config(base_models.locate(name))["num_embeds_ada_norm"]

    def follow(self, files) -> dict:
        """Return no identities: a DiT has no guides other than the class."""
        return {}

    def conditions(self, subjects: list[int]) -> dict[str, torch.Tensor]:
        """Return the conditions of samples with these classes: {"class_label": (B,) int64}."""
        return {"class_label": torch.tensor(subjects, device=self.device)}

    def unconditional(self, conditions: dict[str, torch.Tensor], settings) -> dict[str, torch.Tensor]:
        """Return the null label for each sample: the label that training used when it dropped the class."""
        return {"class_label": torch.full_like(conditions["class_label"], self.null_label)}

    def call(self, x_BCHW: torch.Tensor, t: torch.Tensor, conditions: dict[str, torch.Tensor]) -> torch.Tensor:
        """Run the denoiser once: (B, C, H, W) in any float dtype, t () or (B,) -> (B, C, H, W) float32.

        A learned sigma, if any, is in C further channels and is dropped: guidance and DDIM use only the mean.
        """
        t_B = t.expand(x_BCHW.shape[0])
        output = self.denoiser(
            x_BCHW.to(self.dtype), timestep=t_B, class_labels=conditions["class_label"], return_dict=False
        )[0]
        return output[:, : self.channels].float()

    def attention_cache(self, settings) -> None:
        """Return no cache: a DiT has no cross-attention."""

    def encode(self, images: list) -> torch.Tensor:
        """Encode pictures to latents (B, C, h, w) float32, cropped at their centre to the model's size."""
        described = self.vae.config
        side = self.latent_shape[-1] * 2 ** (len(described.block_out_channels) - 1)
        x_BCHW = pixels(images, side, described.in_channels).to(self.device)
        return self.vae.encode(x_BCHW).latent_dist.mode() * described.scaling_factor

    def images(self, latents_BCHW: torch.Tensor) -> torch.Tensor:
        """Decode latents (B, C, h, w) to images (B, channels, H, W) uint8."""
        decoded = self.vae.decode(latents_BCHW.float() / self.vae.config.scaling_factor).sample
        return eight_bits(decoded)


def _config(folder: Path) -> dict:
    file = folder / "transformer" / "config.json"
    found = read_json(file, "num_embeds_ada_norm", "in_channels", "sample_size")
    for name in ("num_embeds_ada_norm", "in_channels", "sample_size", "num_layers"):
        if name in found and not (type(found[name]) is int and found[name] > 0):
            raise UserError(f"{file}: says {name} {found[name]!r}; fetch the model again")
    return found


MODEL_CLASS = DiT
