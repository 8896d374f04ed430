"""The supported schedulers: deterministic ones, which give equal images for equal noise, in any batch."""

from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler, UniPCMultistepScheduler
from diffusers.schedulers.scheduling_utils import SchedulerMixin

from agd.artifacts.sealed_json import read_json
from agd.runtime.errors import UserError

BY_NAME = {
    # Latents have no range to clip to, whatever the checkpoint says. `from_config` from Euler would clip.
    "ddim": (DDIMScheduler, {"clip_sample": False}),
    "euler": (EulerDiscreteScheduler, {}),
    "dpmsolver++": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++"}),
    "unipc": (UniPCMultistepScheduler, {}),
}
# Their `step` draws no noise by default (see DDIM's eta, Euler's s_churn).
_DETERMINISTIC = {kind.__name__ for kind, _ in BY_NAME.values()} | {"PNDMScheduler", "DEISMultistepScheduler"}


def check(folder: Path, name: str, steps: int, model: str) -> None:
    """Raise UserError unless the pipeline's scheduler is deterministic, or replaced, and allows this number of steps.

    name: `default` (the model's own) or a key of BY_NAME. model: the user's name of the pipeline.
    """
    described = read_json(folder / "scheduler" / "scheduler_config.json", "_class_name", "num_train_timesteps")
    own = str(described["_class_name"])
    draws = own not in _DETERMINISTIC or "sde" in str(described.get("algorithm_type"))
    if name == "default" and draws:
        raise UserError(
            f"scheduler: default is {own} in {model}, which draws noise at every step; choose one of {', '.join(BY_NAME)}"
        )
    known = {key: type(described.get(key, 0)) is int for key in ("num_train_timesteps", "steps_offset")}
    known["prediction_type"] = described.get("prediction_type", "epsilon") in ("epsilon", "sample", "v_prediction")
    if odd := [key for key, is_known in known.items() if not is_known]:
        file = folder / "scheduler" / "scheduler_config.json"
        raise UserError(f"{file}: says {odd[0]} {described[odd[0]]!r}, which no scheduler knows; fetch the model again")
    trained = described["num_train_timesteps"]
    # `leading` schedulers add an offset to their timesteps. With too many steps, the first timestep would be outside
    # the range of training; some schedulers raise an error then, some don't.
    leading = described.get("timestep_spacing", "leading") == "leading"
    most = trained - (described.get("steps_offset", 0) if leading else 0)
    if steps > most:
        raise UserError(f"num_inference_steps: {steps} is more than the {most} that {model} and its scheduler allow")


def scheduler(own: SchedulerMixin, name: str) -> SchedulerMixin:
    """Return the model's own scheduler (`default`), or another one with the model's noise schedule."""
    if name == "default":
        return own
    kind, options = BY_NAME[name]
    return kind.from_config(own.config, **options)


def noise_level(own: SchedulerMixin, t) -> float:
    """Return sigma = sqrt((1 - alpha_bar) / alpha_bar) at a timestep: the noise's standard deviation over the image's.

    own: the model's own scheduler; others have its noise schedule. Between timesteps, log sigma is interpolated.
    """
    alpha_bar = np.asarray(own.alphas_cumprod, dtype=np.float64).clip(1e-9, 1 - 1e-9)
    return float(np.exp(np.interp(float(t), np.arange(len(alpha_bar)), 0.5 * np.log(1 / alpha_bar - 1))))


def noised(own: SchedulerMixin, latents: torch.Tensor, noise: torch.Tensor, t) -> torch.Tensor:
    """Return the denoiser's input at a timestep for these latents and this noise (B, C, H, W each).

        x_t = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) noise

    It is so for every supported scheduler: those that work with sigma scale their input to it.
    """
    share = 1 / (1 + noise_level(own, t) ** 2)
    return share**0.5 * latents + (1 - share) ** 0.5 * noise
