"""Classifier-free guidance: the formula, and its convention.

Convention (as in diffusers): `w = 1` is the conditional model itself, no guidance; `w > 1` moves away from the
unconditional one. Ho and Salimans (arXiv 2207.12598) write the same with `1 + w`.
"""

import torch


def guide(
    cond: torch.Tensor, uncond: torch.Tensor, w: torch.Tensor | float, guided_channels: int | None = None
) -> torch.Tensor:
    """`uncond + w * (cond - uncond)`: the output that two passes of the denoiser give and an adapter learns.

    cond, uncond: (B, C, H, W), raw outputs of the denoiser (noise, velocity or clean image: the weights 1 - w and w
    sum to one, so guidance commutes with the conversions between them).
    w: a number, or one per sample (B,).
    guided_channels: only the first so many channels are guided, the others are `cond`'s; None guides all. The
    original DiT code guides 3 of its 4 latent channels, diffusers all of them.
    """
    if torch.is_tensor(w) and w.ndim:
        w = w.to(cond).view(-1, *[1] * (cond.ndim - 1))
    guided = uncond + w * (cond - uncond)
    if guided_channels is None or guided_channels >= cond.shape[1]:
        return guided
    return torch.cat([guided[:, :guided_channels], cond[:, guided_channels:]], dim=1)
