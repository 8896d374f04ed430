"""Batches of pairs: which ones a training step takes, and their conditions."""

from collections.abc import Iterable, Iterator

import torch
from torch.utils.data import DataLoader, default_collate

from agd.artifacts.pairs import Pairs
from agd.runtime.seeds import seed_of


def batch_indices(step: int, seed: int, pairs: int, batch_size: int) -> torch.Tensor:
    """Draw the pairs of one step (batch_size,), uniformly with repeats.

    Depends only on the study's seed and the step.
    """
    generator = torch.Generator().manual_seed(seed_of(seed, "batch", step))
    return torch.randint(pairs, (batch_size,), generator=generator)


def batches_from(
    start: int, settings, seed: int, pairs: Pairs, number: int, accelerator, workers: int
) -> Iterator[dict[str, torch.Tensor]]:
    """Yield this process's share of the batches of all steps from `start` on, drawn from the first `number` pairs.

    workers: processes that read pairs ahead.
    """
    rank = slice(accelerator.process_index, None, accelerator.num_processes)
    every = (batch_indices(k, seed, number, settings.batch_size) for k in range(start, settings.steps))
    chosen = [indices[rank].tolist() for indices in every]
    on_gpu = accelerator.device.type == "cuda"
    for batch in DataLoader(pairs, batch_sampler=chosen, num_workers=workers, pin_memory=on_gpu):
        yield with_conditions(batch, pairs)


def with_conditions(batch: dict[str, torch.Tensor], pairs: Pairs) -> dict[str, torch.Tensor]:
    """Return a batch of pairs with the conditions of their trajectories, under `conditions/`."""
    found = pairs.conditions(batch["trajectory"].tolist())
    batch = {name: values for name, values in batch.items() if name != "trajectory"}
    return batch | {f"conditions/{name}": torch.from_numpy(values) for name, values in found.items()}


def batch_of(pairs: Pairs, indices: Iterable[int]) -> dict[str, torch.Tensor]:
    """Return these pairs as one batch, with their conditions."""
    return with_conditions(default_collate([pairs[i] for i in indices]), pairs)


def conditions_of(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the conditions in a batch of pairs, by name."""
    return {name.removeprefix("conditions/"): v for name, v in batch.items() if name.startswith("conditions/")}


def on_device(batch: dict[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
    """Move a batch to a device."""
    return {name: values.to(device, non_blocking=True) for name, values in batch.items()}


def micro_batches(batch: dict[str, torch.Tensor], size: int) -> Iterator[tuple[dict[str, torch.Tensor], float]]:
    """Split a batch into parts of at most `size` pairs, each with its share: the parts' gradients add up to the
    batch's."""
    number = len(batch["x"])
    for first in range(0, number, size):
        part = {name: values[first : first + size] for name, values in batch.items()}
        yield part, len(part["x"]) / number
