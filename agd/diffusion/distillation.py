"""The distillation objective: one pass of the adapted model against stored guided outputs (arXiv 2503.07274)."""

import dataclasses
import math

import torch
from torch import nn

from agd.artifacts.pairs import Pairs
from agd.diffusion.batches import batch_of, conditions_of, on_device
from agd.runtime.devices import fitting
from agd.runtime.seeds import seed_of

_BASE_LOSS_PAIRS, _NOISE_LEVELS = 1024, 20


def learning_rate(step: int, steps: int, peak: float, warmup_fraction: float, final_fraction: float) -> float:
    """Return the learning rate of a step counted from 0: a linear warmup, then a cosine down to the final fraction."""
    warmup = round(warmup_fraction * steps)
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - 1 - warmup)
    return peak * (final_fraction + (1 - final_fraction) * (1 + math.cos(math.pi * done)) / 2)


class Distillation(nn.Module):
    """Compares one pass of the model with the stored guided outputs.

    A module, so that several devices can share the work.
    """

    def __init__(self, model):
        super().__init__()
        self.denoiser = model.denoiser
        self.model = model
        self.weights = lambda w_B, t_B: 1.0  # (guidance scales (B,), timesteps (B,)) -> weight of each pair's loss (B,)

    def forward(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Batch of pairs -> mean squared error of each pair (B,), and the same weighted, in float32."""
        output = self.model.call(batch["x"].float(), batch["timestep"], conditions_of(batch))
        error_B = (output - batch["target"].float()).square().flatten(1).mean(1)
        return error_B, error_B * self.weights(batch["guidance_scale"].float(), batch["timestep"].float())


@dataclasses.dataclass(frozen=True)
class Unadapted:
    """The base model against the guided outputs, over pairs drawn by the seed.

    loss: mean squared error; training should get below it. timesteps, guidance (n,): at n levels of noise, ascending, the
    mean squared guidance for each unit of (w - 1)^2.
    """

    loss: float
    timesteps: torch.Tensor
    guidance: torch.Tensor

    def weights(self, w_B: torch.Tensor, t_B: torch.Tensor) -> torch.Tensor:
        """Return the weight (B,) of each pair's loss: about the inverse of the guidance that there is to learn.

        Guidance grows with (w - 1)^2, and differs by orders of magnitude with the timestep. Without weights, training
        would look at the strongest only. The 0.1 keeps pairs with hardly any guidance from counting most.
        """
        timesteps, guidance = self.timesteps.to(t_B.device), self.guidance.to(t_B.device)
        right = torch.searchsorted(timesteps, t_B.contiguous()).clamp(1, max(1, len(timesteps) - 1))
        left, right = right - 1, right.clamp(max=len(timesteps) - 1)
        share = ((t_B - timesteps[left]) / (timesteps[right] - timesteps[left]).clamp(min=1e-6)).clamp(0, 1)
        level = torch.lerp(guidance[left].log(), guidance[right].log(), share).exp()
        return 1 / (((w_B - 1).square() + 0.1) * level)


@torch.no_grad()
def unadapted(distillation: Distillation, pairs: Pairs, number: int, micro_batch_size: int, seed: int) -> Unadapted:
    """Measure the unadapted base model over pairs drawn by the seed from the first `number` pairs."""
    generator = torch.Generator().manual_seed(seed_of(seed, "base loss", 0))
    chosen = torch.randint(number, (_BASE_LOSS_PAIRS,), generator=generator)
    device = distillation.model.device

    def measured(size: int) -> torch.Tensor:
        rows = []
        for part in chosen.split(size):
            batch = on_device(batch_of(pairs, part), device)
            rows.append(
                torch.stack([distillation(batch)[0], batch["timestep"].float(), batch["guidance_scale"].float()])
            )
        return torch.cat(rows, dim=1).double().cpu()

    loss_n, t_n, w_n = fitting(micro_batch_size, "micro_batch_size", measured)[0]
    order = t_n.argsort()
    levels = [part for part in order.tensor_split(_NOISE_LEVELS) if len(part)]
    # A ratio of sums: pairs with w near 1, whose own ratio is mostly rounding, hardly count.
    guidance = [loss_n[part].sum() / (w_n[part] - 1).square().sum().clamp(min=1e-12) for part in levels]
    return Unadapted(
        loss_n.mean().item(),
        torch.stack([t_n[part].mean() for part in levels]).float(),
        torch.stack(guidance).float().clamp(min=1e-12),
    )
