"""Names of devices and number formats -> torch's."""

import torch

from agd.errors import UserError


def device(name: str) -> torch.device:
    """`auto` is a GPU where there is one. Raises UserError if the device that is asked for is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    wanted = torch.device(name)
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}[wanted.type]
    if not there or (wanted.index or 0) >= max(1, torch.cuda.device_count()):
        raise UserError(f"device: {name!r} is not on this machine; use auto or cpu")
    return wanted


def dtype(name: str) -> torch.dtype:
    """`float32` -> torch.float32."""
    return getattr(torch, name)


def describe(where: torch.device) -> str:
    """The device in words, for provenance: the kind of GPU, or `cpu`."""
    return torch.cuda.get_device_name(where) if where.type == "cuda" else where.type
