"""Measures how precise guidance is in a lower precision: `cond - uncond` is a small difference of two large outputs.

    error = sqrt(E ||d - d_32||^2 / E ||d_32||^2),      d = cond - uncond, d_32 the same in float32

over the steps of one short guided trajectory. An output that is right to 1 % may have a difference that is wrong by 40 %.
"""

import gc
import math
from collections.abc import Iterator

import torch

from agd.diffusion import schedulers
from agd.diffusion.guidance import two_passes
from agd.diffusion.sampling import denoise, generators, noise

_STEPS = 8
_TOO_MUCH = 0.05


class ExactGuidance:
    """The first subject's `cond - uncond` in float32 at the states that guided sampling visits, at w = 2.

    Opens the model in float32 and closes it again: it is not on the GPU together with another one.
    """

    @torch.no_grad()
    def __init__(self, name: str, model_class, settings, device: torch.device, seed: int, subjects: list):
        self.settings, self.subjects = settings, subjects[:1]
        exact = model_class(name, torch.float32, device, conditions=True)
        self.states = list(self._visit(exact, seed))
        self.differences = self._differences(exact)
        del exact
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()

    def _guided_of(self, model):
        return two_passes(model, model.conditions(self.subjects), self.settings, 2.0)

    def _visit(self, model, seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        start = noise(model.latent_shape, generators(seed, "precision", [0])).to(model.device)
        guided_of = self._guided_of(model)
        scheduler = schedulers.scheduler(model.scheduler, self.settings.scheduler)
        for t, x, *_ in denoise(lambda x, t: guided_of(x, t)[1], scheduler, start, _STEPS):
            yield x, t

    def _differences(self, model) -> torch.Tensor:
        guided_of = self._guided_of(model)
        pairs = [guided_of(x, t) for x, t in self.states]
        # At w = 2, guided - cond is cond - uncond.
        return torch.stack([guided - cond for cond, guided in pairs]).double().cpu()

    @torch.no_grad()
    def error(self, model) -> float:
        """Return the error of `cond - uncond` of the same model in another dtype, and say so if it is more than 5 %."""
        off = (self._differences(model) - self.differences).square().sum().item()
        error = math.sqrt(off / max(self.differences.square().sum().item(), 1e-30))
        if error > _TOO_MUCH:
            dtype = str(model.dtype).removeprefix("torch.")
            print(f"dtype: in {dtype}, guidance is wrong by {error:.0%}; float32 is slower and right", flush=True)
        return error


def open_measured(
    name: str,
    model_class,
    settings,
    dtype: torch.dtype,
    device: torch.device,
    seed: int,
    subjects: list,
    measure: bool,
    **parts,
) -> tuple:
    """Open a model in a dtype. Returns it, and {"guidance_error": error} for provenance.

    {} if nothing is to be measured, or if the dtype is float32. parts: which parts of the model to open.
    """
    if not measure or dtype is torch.float32:
        return model_class(name, dtype, device, **parts), {}
    exact = ExactGuidance(name, model_class, settings, device, seed, subjects)
    model = model_class(name, dtype, device, **parts)
    return model, {"guidance_error": exact.error(model)}
