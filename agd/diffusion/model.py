"""The interface between families and stages. Each family implements it; agd/settings/families.py is the registry."""

from typing import Protocol

import torch


class Model(Protocol):
    """A model opened for a stage: it makes conditions, runs the denoiser and decodes latents.

    A subject is what one image shows: a class (int) or a prompt (str). Conditions are the denoiser's inputs for
    subjects: name -> tensor (first dimension: sample). Trajectories store them by these names.
    """

    anatomy: object  # agd.adapters.anatomy.Anatomy
    denoiser: torch.nn.Module
    scheduler: object  # the model's own diffusers scheduler
    latent_shape: tuple[int, int, int]  # C, H, W
    device: torch.device
    dtype: torch.dtype
    identity: dict  # agd.diffusion.base_models.identity

    def __init__(
        self, name: str, dtype: torch.dtype, device: torch.device, conditions: bool = False, images: bool = False
    ):
        """Open a folder or hub id. conditions: load the text encoders, if any. images: load the autoencoder.

        Raises UserError if the model is not of this family.
        """

    @staticmethod
    def check(name: str, files, settings) -> tuple:
        """Return the settings, with `auto` resolved for this model, and the subjects. Loads no weights.

        Raises UserError if the settings don't fit this model, or a file named on the command line can't be read.
        """

    def follow(self, files) -> dict:
        """Load other guides of the images that the command line names. Returns their identities for provenance."""

    def conditions(self, subjects: list) -> dict[str, torch.Tensor]:
        """Return the conditions of samples with these subjects."""

    def unconditional(self, conditions: dict[str, torch.Tensor], settings) -> dict[str, torch.Tensor]:
        """Return unconditional conditions of the same shapes, for the unconditional prediction."""

    def call(self, x_BCHW: torch.Tensor, t: torch.Tensor, conditions: dict[str, torch.Tensor]) -> torch.Tensor:
        """Run the denoiser once: (B, C, H, W) in any float dtype, t () or (B,) -> (B, C, H, W) float32."""

    def attention_cache(self, settings):
        """Return a cache with the context managers `recording` and `reusing`, for passes that are guided and later ones
        that are not; or None, if none is asked for."""

    def images(self, latents_BCHW: torch.Tensor) -> torch.Tensor:
        """Decode latents (B, C, h, w) to images (B, channels, H, W) uint8."""


class ClassModel(Model, Protocol):
    """What families of classes answer beside: their images have labels, and can be noised in place of samples."""

    @staticmethod
    def classes(name: str) -> int:
        """Return how many classes a model has. Loads no weights."""

    def encode(self, images: list) -> torch.Tensor:
        """Encode pictures to latents (B, C, h, w) float32, cropped at their centre to the model's size. Needs the
        autoencoder."""
