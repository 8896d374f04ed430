"""Fidelity: how much of the guidance one pass of the adapted model gives.

    unexplained = E ||adapted - guided||^2 / E ||cond - guided||^2                    0: all of it, 1: as without adapter
    captured    = E <adapted - cond, guided - cond> / E ||guided - cond||^2           1: all of it along its direction

cond is the conditional prediction of the base model, guided the guided output of two passes, at the same input.
"""

import math

import torch

from agd.artifacts.pairs import Pairs
from agd.diffusion.batches import batch_of, conditions_of, on_device
from agd.runtime.devices import fitting
from agd.runtime.seeds import seed_of

_HELD_OUT_PAIRS = 256


def compare(adapted: torch.Tensor, cond: torch.Tensor, guided: torch.Tensor) -> torch.Tensor:
    """(B, C, H, W) each -> (B, 3): ||adapted - guided||^2, <adapted - cond, guided - cond>, ||guided - cond||^2."""
    error, done, asked = (v.flatten(1).double() for v in (adapted - guided, adapted - cond, guided - cond))
    return torch.stack([error.square().sum(1), (done * asked).sum(1), asked.square().sum(1)], dim=1)


def figures(sums_3: torch.Tensor) -> dict[str, float | None]:
    """Return `unexplained` and `captured` from the sums (3,) of `compare`; None where there is no guidance at all."""
    error, inner, asked = sums_3.tolist()
    return {"unexplained": error / asked if asked else None, "captured": inner / asked if asked else None}


def held_out_trajectories(fraction: float, number: int) -> int:
    """Return how many of `number` trajectories are held out: at least one if any, but not all."""
    return min(math.ceil(fraction * number), number - 1)


class HeldOut:
    """Pairs of trajectories that training does not use, and the base model's outputs for them.

    Made before adapters are attached. number: how many trajectories, the last ones, are held out.
    """

    @torch.no_grad()
    def __init__(self, model, pairs: Pairs, number: int, batch_size: int, seed: int):
        generator = torch.Generator().manual_seed(seed_of(seed, "held out", 0))
        first = len(pairs) - number * pairs.steps
        drawn = first + torch.randperm(len(pairs) - first, generator=generator)[:_HELD_OUT_PAIRS]
        self.model, self.batch_size = model, batch_size
        self.batches = [batch_of(pairs, part) for part in drawn.split(batch_size)] if number else []
        self.cond = [self._outputs(batch) for batch in self.batches]

    def _outputs(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        here = on_device(batch, self.model.device)

        def outputs(size: int) -> torch.Tensor:
            parts = zip(*(values.split(size) for values in here.values()), strict=True)
            return torch.cat([self._output(dict(zip(here, part, strict=True))) for part in parts])

        found, self.batch_size = fitting(self.batch_size, "micro_batch_size", outputs)
        return found.cpu()

    def _output(self, part: dict[str, torch.Tensor]) -> torch.Tensor:
        if adapters := getattr(self.model.denoiser, "agd", None):
            adapters.current.set_scale(part["guidance_scale"])
        return self.model.call(part["x"].float(), part["timestep"], conditions_of(part))

    @torch.no_grad()
    def measure(self) -> dict[str, float | None]:
        """Return `unexplained` and `captured` of the adapters as they are. None if no trajectory is held out."""
        self.model.denoiser.agd.eval()
        compared = [
            compare(self._outputs(batch), cond, batch["target"].float())
            for batch, cond in zip(self.batches, self.cond, strict=True)
        ]
        self.model.denoiser.agd.train()
        # One sum over all pairs: the size of the parts must not change a digit.
        return figures(torch.cat(compared).sum(0) if compared else torch.zeros(3))
