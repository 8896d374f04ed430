"""Several training processes, one per GPU, as torchrun starts them."""

import accelerate
import torch

from agd.runtime.errors import UserError


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
