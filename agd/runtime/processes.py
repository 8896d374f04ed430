"""Processes of a training: one per GPU, as torchrun starts them, and those that read its data."""

import shutil
from pathlib import Path

import accelerate
import torch

from agd.runtime.errors import UserError

_BATCHES_AHEAD = 2 + 1  # PyTorch's workers hold 2 each, and one is in the trainer's hands
_MB = 1_000_000


def accelerator(device: torch.device, gpu: int, batch_size: int) -> accelerate.Accelerator:
    """Return Accelerate's object for this process and its device, in full precision: `dtype` sets a stage's precision.

    gpu: the number of processes in the settings. Raises UserError if fewer were started, or if they can't share a batch
    evenly.
    """
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)  # otherwise Accelerator takes the first GPU
    try:
        found = accelerate.Accelerator(cpu=device.type == "cpu", mixed_precision="no")
    except ValueError as error:
        raise UserError(
            f"environment: WORLD_SIZE, LOCAL_RANK or an ACCELERATE_ variable can't be followed ({error}); unset it, or use `torchrun`"
        ) from None
    if gpu > found.num_processes:
        raise UserError(
            f"gpu: {gpu} GPUs want as many processes; start with `torchrun --standalone --nproc-per-node {gpu} -m`"
        )
    if batch_size % found.num_processes:
        raise UserError(f"batch_size: {batch_size} can't be shared by {found.num_processes} processes; give a multiple")
    return found


def workers(asked: int, batch_bytes: int, trainings: int = 1, shared: Path = Path("/dev/shm")) -> int:
    """Return how many processes may read data for a training: they hand over batches in shared memory, 2 ahead each.

    batch_bytes: size of one batch. trainings: how many trainings share the memory. Prints a line if it is fewer than asked.
    Containers often have 64 MB, and a worker that finds no room dies.
    """
    room = shutil.disk_usage(shared).free if shared.is_dir() else None
    ahead = _BATCHES_AHEAD * batch_bytes * trainings
    if room is None or asked * ahead <= room:
        return asked
    fit = int(room // ahead)
    what_to_do = f"`docker run --shm-size {-(-asked * ahead // _MB)}m` or the like gives more"
    print(
        f"num_workers: {asked} want {asked * ahead / _MB:.0f} MB in {shared}, which has {room / _MB:.0f}; "
        f"going on with {fit} ({what_to_do})",
        flush=True,
    )
    return fit
