"""Classifier-free guidance: the formula and its convention.

Convention (as in diffusers): `w = 1` is the conditional prediction, without guidance; `w > 1` moves away from the
unconditional prediction. Ho and Salimans (arXiv 2207.12598) write `1 + w` for this `w`.
"""

import contextlib
from collections.abc import Callable

import torch

from agd.diffusion import schedulers
from agd.settings.written_values import guided_sigmas


def guide(
    cond: torch.Tensor, uncond: torch.Tensor, w: torch.Tensor | float, guided_channels: int | None = None
) -> torch.Tensor:
    """Return `uncond + w * (cond - uncond)`: two passes of the denoiser give it, and an adapter learns it.

    cond, uncond: conditional and unconditional prediction (B, C, H, W), raw denoiser outputs: noise, velocity or clean
    image. The weights 1 - w and w sum to one, so guidance commutes with conversions between these.
    w: a number, or one per sample (B,).
    guided_channels: number of leading channels to guide; the other channels are those of `cond`. None guides all. The
    original DiT code guides 3 of its 4 latent channels, diffusers guides all.
    """
    if torch.is_tensor(w) and w.ndim:
        w = w.to(cond).view(-1, *[1] * (cond.ndim - 1))
    guided = uncond + w * (cond - uncond)
    if guided_channels is None or guided_channels >= cond.shape[1]:
        return guided
    return torch.cat([guided[:, :guided_channels], cond[:, guided_channels:]], dim=1)


def two_passes(model, conditions: dict[str, torch.Tensor], settings, w: torch.Tensor | float) -> Callable:
    """Return a function (input (B, C, H, W), timestep) -> conditional and guided prediction, both of its shape.

    model: agd.diffusion.model.Model. The two passes are one batch of twice the size.
    """
    without = model.unconditional(conditions, settings)
    both = {name: torch.cat([values, without[name]]) for name, values in conditions.items()}

    def predict(x_BCHW: torch.Tensor, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        cond, uncond = model.call(torch.cat([x_BCHW, x_BCHW]), t, both).chunk(2)
        return cond, guide(cond, uncond, w, settings.guided_channels or None)

    return predict


def predictor(model, conditions: dict[str, torch.Tensor], settings, guidance: str, w: float) -> Callable:
    """Return a function (input (B, C, H, W), timestep) -> output of its shape, to be called once per step, in order.

    guidance: `cfg` (two passes at the guided steps, one at the others), or another method of one pass: `none`, `adapter`.
    settings: of the stage: guided_channels, and guided_sigmas, guided_share, scheduler, num_inference_steps for `cfg`.
    """
    if guidance != "cfg":
        return lambda x_BCHW, t: model.call(x_BCHW, t, conditions)
    guided_of, cache = two_passes(model, conditions, settings, w), model.attention_cache(settings)
    low, high = guided_sigmas(settings.guided_sigmas)
    scheduler = schedulers.scheduler(model.scheduler, settings.scheduler)
    scheduler.set_timesteps(settings.num_inference_steps)
    last, done = int(settings.guided_share * len(scheduler.timesteps) + 0.5), 0  # PNDM makes more passes than steps

    def predict(x_BCHW: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        nonlocal done
        done += 1
        if done <= last and low <= schedulers.noise_level(model.scheduler, t) <= high:
            with cache.recording() if cache else contextlib.nullcontext():
                return guided_of(x_BCHW, t)[1]
        with cache.reusing() if cache else contextlib.nullcontext():
            return model.call(x_BCHW, t, conditions)

    return predict
