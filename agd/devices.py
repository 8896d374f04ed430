"""Names of devices and number formats -> torch's; what to do when a device is full."""

import contextlib
from collections.abc import Callable
from typing import TypeVar

import torch

from agd.errors import UserError

Result = TypeVar("Result")


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


def fitting(size: int, setting: str, work: Callable[[int], Result], alone: bool = True) -> tuple[Result, int]:
    """work(size), with the size halved until the GPU has room; returns the size that fitted too.

    setting: what the user knows the size as. alone: whether this process may choose a size of its own. Says in one line
    that it was halved; raises UserError if it can't be.
    """
    while True:
        # Left before the next try: what an exception's traceback holds on to is memory.
        with contextlib.suppress(torch.OutOfMemoryError):
            return work(size), size
        if size == 1 or not alone:
            what_to_do = "free it, or take a larger one" if size == 1 else "set a smaller one"
            raise UserError(f"{setting}: {size} at once is more than the GPU has room for; {what_to_do}")
        print(f"{setting}: {size} at once is more than the GPU has room for; going on with {size // 2}", flush=True)
        torch.cuda.empty_cache()
        size //= 2
