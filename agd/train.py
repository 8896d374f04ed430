"""Stage `train`: train adapters so that one pass of the adapted model equals the guided output of two.

    minimise  mean || eps_psi(x_t, t, c, w) - guided ||^2   over random (trajectory, step) pairs     (arXiv 2503.07274)

The base is frozen; psi are the adapters. Targets are stored, so that no teacher, no text encoder and no autoencoder is in
memory. Step k's batch and dropout are functions of the study's seed and k: an interrupted training that goes on from its
checkpoint gives the same adapter as one that was never stopped.
"""

import csv
import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path

import accelerate
import torch
from torch import nn
from torch.utils.data import DataLoader, default_collate

from agd import checkpoint, config, devices, store, trajectories
from agd.adapters import AdapterConfig
from agd.artifacts import make_folder, seal_of, writing
from agd.errors import UserError
from agd.hooks import attach, enable_gradient_checkpointing, size
from agd.progress import progress
from agd.provenance import digest, provenance
from agd.sampling import seed_of
from agd.stopping import Terminated, when_asked

STAGE = "train"
CHECKPOINT, TABLE = "checkpoint.safetensors", "training.csv"
_BASE_LOSS_PAIRS = 1024


@dataclasses.dataclass(frozen=True)
class Settings:
    """config/schema.yaml says what each of these is."""

    kind: str
    encoder: str
    hidden_size: int
    use_timestep: bool
    use_condition: bool
    dropout: float
    zero_init: bool
    learning_rate: float
    weight_decay: float
    warmup_fraction: float
    final_learning_rate_fraction: float
    batch_size: int
    micro_batch_size: int
    gradient_checkpointing: bool
    gpu: int
    steps: int
    dtype: str
    log_interval: int
    checkpoint_interval: int
    num_workers: int
    device: str


def learning_rate(step: int, settings: Settings) -> float:
    """Learning rate of a step counted from 0: a linear rise over the first part, then a cosine to the final fraction."""
    warmup = round(settings.warmup_fraction * settings.steps)
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(1, settings.steps - 1 - warmup)
    low = settings.final_learning_rate_fraction
    return settings.learning_rate * (low + (1 - low) * (1 + math.cos(math.pi * done)) / 2)


def batch_indices(step: int, seed: int, pairs: int, batch_size: int) -> torch.Tensor:
    """The pairs of one step (batch_size,): drawn evenly, with repeats, by the study's seed and the step alone."""
    generator = torch.Generator().manual_seed(seed_of(seed, "batch", step))
    return torch.randint(pairs, (batch_size,), generator=generator)


class Distillation(nn.Module):
    """One pass of the model against the stored guided outputs; a module, so that several devices can share the work."""

    def __init__(self, model):
        super().__init__()
        self.denoiser = model.denoiser
        self.model = model

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Batch of pairs -> mean squared error (), in float32."""
        conditions = {k.removeprefix("conditions/"): v for k, v in batch.items() if k.startswith("conditions/")}
        output = self.model.call(batch["x"].float(), batch["timestep"], conditions)
        return nn.functional.mse_loss(output, batch["target"].float())


def on(batch: dict[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
    """The same batch on a device."""
    return {name: values.to(device, non_blocking=True) for name, values in batch.items()}


def micro_batches(batch: dict[str, torch.Tensor], size: int) -> Iterator[tuple[dict[str, torch.Tensor], float]]:
    """A batch in parts of at most `size` pairs, and each part's share of it: gradients add up to the whole batch's."""
    number = len(batch["x"])
    for first in range(0, number, size):
        part = {name: values[first : first + size] for name, values in batch.items()}
        yield part, len(part["x"]) / number


@torch.no_grad()
def unadapted_loss(distillation: Distillation, pairs: trajectories.Pairs, settings: Settings, seed: int) -> float:
    """Mean squared error of the bare base model over pairs drawn by the seed: the line to beat."""
    generator = torch.Generator().manual_seed(seed_of(seed, "base loss", 0))
    chosen = torch.randint(len(pairs), (_BASE_LOSS_PAIRS,), generator=generator)
    device = distillation.model.device

    def mean(size: int) -> float:
        parts = (on(default_collate([pairs[i] for i in part]), device) for part in chosen.split(size))
        return sum(distillation(part).item() * len(part["x"]) for part in parts) / _BASE_LOSS_PAIRS

    return devices.fitting(settings.micro_batch_size, "micro_batch_size", mean)[0]


def train(
    distill: nn.Module,
    adapters,
    optimizer,
    loader,
    settings: Settings,
    seed: int,
    start: checkpoint.Progress,
    accelerator,
    to_stop: list,
):
    """The loop: yields after each step the progress, and whether to stop: all processes at the same step, once one is asked.

    Raises UserError at the first row of the table whose loss is not finite.
    """
    at, size = start, settings.micro_batch_size
    for step, batch in zip(range(at.step, settings.steps), loader, strict=True):

        def gradients(size: int) -> torch.Tensor:
            """Of the step's whole batch, from the start, in parts of `size`; returns the loss."""
            torch.manual_seed(seed_of(seed, f"dropout {accelerator.process_index}", step))  # noqa: B023, called below
            optimizer.zero_grad(set_to_none=True)
            total = torch.zeros((), device=accelerator.device)
            for part, share in micro_batches(on(batch, accelerator.device), size):  # noqa: B023
                adapters.current.guidance_scale = part["guidance_scale"]
                loss = distill(part) * share
                accelerator.backward(loss)
                total += loss.detach()
            return total

        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, settings)
        # Several processes add up their gradients part by part: none may change the number of parts alone.
        total, size = devices.fitting(size, "micro_batch_size", gradients, alone=accelerator.num_processes == 1)
        optimizer.step()
        at.step = step + 1
        said = torch.stack([total, torch.full_like(total, bool(to_stop))])
        loss, asked = accelerator.reduce(said, "mean").tolist()
        at.recent.append(loss)
        if at.step % settings.log_interval == 0 or at.step == settings.steps:
            mean = sum(at.recent) / len(at.recent)
            if not math.isfinite(mean):
                raise UserError(
                    f"loss: not finite at step {at.step}; lower --learning-rate, or use --dtype bfloat16 or float32"
                )
            at.rows.append({"step": at.step, "learning_rate": learning_rate(step, settings), "loss": mean})
            at.recent.clear()
        yield at, asked > 0


def run(files, settings: Settings, family) -> None:
    """Write `adapter.safetensors`, `config.json` and `training.csv` into `--dir`, going on from a checkpoint there; the last
    one, `checkpoint.safetensors`, stays."""
    folder = make_folder(files.dir)
    shards = trajectories.find(files.data_path)
    device = devices.device(settings.device)
    pairs = trajectories.Pairs(shards)
    base = files.base_model or pairs.provenance["base"]["name"]

    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)  # or Accelerator takes the first
    try:  # `dtype` says the precision, whatever it is launched with
        accelerator = accelerate.Accelerator(cpu=device.type == "cpu", mixed_precision="no")
    except ValueError as error:
        raise UserError(
            f"environment: WORLD_SIZE, LOCAL_RANK or an ACCELERATE_ variable can't be followed ({error}); unset it, or use `torchrun`"
        ) from None
    if settings.gpu > accelerator.num_processes:
        raise UserError(
            f"gpu: {settings.gpu} GPUs want as many processes; start with `torchrun --standalone --nproc-per-node {settings.gpu} -m`"
        )
    if settings.batch_size % accelerator.num_processes:
        raise UserError(
            f"batch_size: {settings.batch_size} can't be shared by {accelerator.num_processes} processes; give a multiple"
        )
    model = family(base, devices.dtype(settings.dtype), accelerator.device)
    if model.identity["fingerprint"] != pairs.provenance["base"]["fingerprint"]:
        raise UserError(
            f"{shards[0]}: sampled from {pairs.provenance['base']['name']}, which is another model than {base}; train on its own base"
        )
    distillation = Distillation(model)
    base_loss = unadapted_loss(distillation, pairs, settings, files.seed)

    torch.manual_seed(seed_of(files.seed, "initial adapter", 0))
    own = {field.name for field in dataclasses.fields(AdapterConfig)}
    sampled = pairs.provenance["settings"]
    choices = {k: v for k, v in dataclasses.asdict(settings).items() if k in own}
    adapters = attach(
        model.denoiser, AdapterConfig(**choices, guidance_scale_max=sampled["guidance_max"]), model.anatomy
    )
    if settings.gradient_checkpointing:
        enable_gradient_checkpointing(model.denoiser)
    optimizer = torch.optim.AdamW(adapters.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)

    made = provenance(
        STAGE,
        config.what(STAGE, dataclasses.asdict(settings)),
        devices.describe(accelerator.device),
        base=model.identity,
        seed=files.seed,
        trajectories={
            "number": len(pairs.index),
            "sha256": digest(map(seal_of, shards)),
            "made": pairs.provenance,
        },
    )
    identity = digest(
        [json.dumps({**made, "commit": "", "packages": ""}, sort_keys=True), str(accelerator.num_processes)]
    )
    saved = folder / CHECKPOINT
    at = checkpoint.load(saved, adapters, optimizer, identity)
    if at:
        accelerator.print(f"{STAGE}: going on from step {at.step} of {saved}", flush=True)
    elif saved.exists():
        accelerator.print(f"{STAGE}: {saved} belongs to another training or is damaged; beginning anew", flush=True)
    start = at or checkpoint.Progress()

    rank = slice(accelerator.process_index, None, accelerator.num_processes)
    batches = [
        batch_indices(k, files.seed, len(pairs), settings.batch_size)[rank].tolist()
        for k in range(start.step, settings.steps)
    ]
    loader = DataLoader(
        pairs, batch_sampler=batches, num_workers=settings.num_workers, pin_memory=accelerator.device.type == "cuda"
    )
    adapters.train()
    distill = accelerator.prepare(distillation)
    with when_asked() as to_stop, progress(None, STAGE, total=settings.steps, initial=start.step) as bar:
        at = start
        for at, stop in train(distill, adapters, optimizer, loader, settings, files.seed, start, accelerator, to_stop):
            bar.update()
            if at.rows:
                bar.set_postfix(loss=f"{at.rows[-1]['loss']:.4f}", base=f"{base_loss:.4f}", refresh=False)
            # The last step's stays: whoever loses the result, or doesn't know that it is whole, has it again in seconds.
            due = at.step % settings.checkpoint_interval == 0 or at.step == settings.steps
            if accelerator.is_main_process and (stop or due):
                checkpoint.save(saved, adapters, optimizer, at, identity)
            if stop:
                accelerator.wait_for_everyone()  # the first to leave takes the others with it
                raise Terminated

    if accelerator.is_main_process:
        write_table(folder / TABLE, at.rows, base_loss)
        figures = {"steps": at.step, "loss": at.rows[-1]["loss"], "base_loss": base_loss}
        record = {
            "size": size(model.denoiser),
            "training": figures,
            "guidance_scale_range": [sampled["guidance_min"], sampled["guidance_max"]],
            "guided_channels": sampled["guided_channels"],
            "provenance": made,
        }
        adapters.eval()
        store.save(adapters, folder, record, beside=[TABLE])
    accelerator.wait_for_everyone()
    accelerator.end_training()


def write_table(path: Path, rows: list[dict], base_loss: float) -> None:
    """training.csv: step, learning_rate, loss (mean since the row before), base_loss (of the unadapted model)."""
    with writing(path) as aside, open(aside, "w", newline="") as file:
        table = csv.DictWriter(file, ["step", "learning_rate", "loss", "base_loss"], lineterminator="\n")
        table.writeheader()
        table.writerows({**row, "base_loss": base_loss} for row in rows)
