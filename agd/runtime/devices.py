"""Converts names of devices and dtypes to torch's, and reduces batches that don't fit in memory."""

import contextlib
import os
from collections.abc import Callable
from typing import TypeVar

import torch

from agd.runtime.errors import UserError

Result = TypeVar("Result")
# cuBLAS and cuDNN allocate workspaces of their own and name a full GPU in these ways.
_FULL = (
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
)


def device(name: str, deterministic: bool = False) -> torch.device:
    """Return the torch device; `auto` takes a GPU if there is one. Raises UserError if the device is not available.

    deterministic: whether this process's work on a GPU is to give the same results each time, where PyTorch can.
    """
    found = _device(name)
    if deterministic and found.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it is first used
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = False
    return found


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    wanted = torch.device(name)
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}[wanted.type]
    if not there or (wanted.index or 0) >= max(1, torch.cuda.device_count()):
        raise UserError(f"device: {name!r} is not on this machine; use auto or cpu")
    return wanted


def dtype(name: str) -> torch.dtype:
    """Return the torch dtype of a name: `float32` -> torch.float32."""
    return getattr(torch, name)


def describe(where: torch.device) -> str:
    """Return the device's name for provenance: the kind of GPU, or `cpu`."""
    return torch.cuda.get_device_name(where) if where.type == "cuda" else where.type


@contextlib.contextmanager
def full_gpu_suppressed():
    """Suppress errors that say that the GPU is full: PyTorch's own, and those of the libraries beneath it."""
    try:
        yield
    except torch.OutOfMemoryError:
        pass
    except RuntimeError as error:
        if not any(said in str(error) for said in _FULL):
            raise


def fitting(size: int, setting: str, work: Callable[[int], Result], alone: bool = True) -> tuple[Result, int]:
    """Run work(size), and halve the size until the GPU has enough memory. Returns the result and the size that fitted.

    setting: the user's name of the size. alone: whether this process may change the size by itself. Prints a line for
    each halving. Raises UserError if the size can't be halved.
    """
    while True:
        # Leave this block before the next try: the exception's traceback keeps GPU memory in use.
        with full_gpu_suppressed():
            return work(size), size
        if size == 1 or not alone:
            what_to_do = "free it, or take a larger one" if size == 1 else "set a smaller one"
            raise UserError(f"{setting}: {size} at once is more than the GPU has room for; {what_to_do}")
        print(f"{setting}: {size} at once is more than the GPU has room for; going on with {size // 2}", flush=True)
        torch.cuda.empty_cache()
        size //= 2
