"""Stage `train`: train adapters so that one pass of the adapted model equals the guided output of two.

    minimise  mean || eps_psi(x_t, t, c, w) - guided ||^2   over random (trajectory, step) pairs     (arXiv 2503.07274)

The base is frozen; psi are the adapters' parameters. Targets are stored, so no teacher, text encoder or autoencoder is
in memory. The batch and dropout of step k depend only on the study's seed and k. An interrupted training, continued
from its checkpoint, gives the same adapter as an uninterrupted one.
"""

import dataclasses
import json
from collections.abc import Callable

import torch
from torch import nn

from agd.adapters import saving
from agd.adapters.attaching import attach, size
from agd.adapters.config import AdapterConfig
from agd.adapters.diffusers_integration import enable_gradient_checkpointing
from agd.artifacts import checkpoints, training_cost, trajectories
from agd.artifacts.files import make_folder
from agd.artifacts.pairs import Pairs
from agd.artifacts.provenance import digest, provenance
from agd.artifacts.training_table import FIDELITY, TABLE, add_row, write_table
from agd.artifacts.zips import seal_of
from agd.diffusion import base_models
from agd.diffusion.batches import batches_from, micro_batches, on_device
from agd.diffusion.distillation import Distillation, learning_rate, unadapted
from agd.diffusion.fidelity import HeldOut, held_out_trajectories
from agd.runtime import devices, processes
from agd.runtime.errors import UserError
from agd.runtime.progress import progress_bar
from agd.runtime.seeds import seed_of
from agd.runtime.signals import Terminated, stop_when_safe
from agd.settings import configuration
from agd.settings.entry_points import entry_point

STAGE = "train"
CHECKPOINT = "checkpoint.safetensors"


@dataclasses.dataclass(frozen=True)
class Settings:
    """config/schema.yaml describes each field."""

    kind: str
    embedding: bool
    gain: bool
    encoder: str
    hidden_size: int
    rank: int
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
    loss_weighting: str
    held_out_fraction: float
    dtype: str
    log_interval: int
    checkpoint_interval: int
    num_workers: int
    device: str
    deterministic: bool
    family_settings: dict


def train(
    distill: nn.Module,
    adapters,
    optimizer,
    loader,
    settings: Settings,
    seed: int,
    fidelity: Callable[[], dict],
    at: checkpoints.Progress,
    accelerator,
    to_stop: list,
):
    """Run the training steps and update `at`. Yields after each step whether to stop, with equal answers in all
    processes. fidelity: gives a row's figures of fidelity.

    Raises UserError at the first row of the table whose loss is not finite.
    """
    size = settings.micro_batch_size
    for step, batch in zip(range(at.step, settings.steps), loader, strict=True):

        def gradients(size: int) -> torch.Tensor:
            """Compute the gradients of the step's whole batch anew, in parts of `size`. Returns the loss."""
            torch.manual_seed(seed_of(seed, f"dropout {accelerator.process_index}", step))  # noqa: B023, called below
            optimizer.zero_grad(set_to_none=True)
            total = torch.zeros((), device=accelerator.device)
            for part, share in micro_batches(on_device(batch, accelerator.device), size):  # noqa: B023
                adapters.current.set_scale(part["guidance_scale"])
                error_B, weighted_B = distill(part)
                accelerator.backward(weighted_B.mean() * share)
                total += error_B.detach().mean() * share
            return total

        for group in optimizer.param_groups:
            group["lr"] = rate(step, settings)
        # Several processes add up their gradients part by part: no process may change its number of parts alone.
        total, size = devices.fitting(size, "micro_batch_size", gradients, alone=accelerator.num_processes == 1)
        optimizer.step()
        at.step = step + 1
        said = torch.stack([total, torch.full_like(total, bool(to_stop))])
        loss, asked = accelerator.reduce(said, "mean").tolist()
        at.recent.append(loss)
        if at.step % settings.log_interval == 0 or at.step == settings.steps:
            add_row(at, rate(step, settings), fidelity())
        yield asked > 0


def rate(step: int, settings: Settings) -> float:
    """Return the learning rate of a step counted from 0."""
    fractions = (settings.warmup_fraction, settings.final_learning_rate_fraction)
    return learning_rate(step, settings.steps, settings.learning_rate, *fractions)


def open_base(files, settings: Settings, model_class, pairs: Pairs, device: torch.device):
    """Open the base model that the trajectories were sampled from. Raises UserError if another one is given."""
    sampled_from = pairs.provenance["base"]
    base = base_models.pinned(files.base_model, files.base_record) or sampled_from["name"]
    model = model_class(base, devices.dtype(settings.dtype), device)
    if model.identity["fingerprint"] != sampled_from["fingerprint"]:
        raise UserError(
            f"{pairs.paths[0]}: sampled from {sampled_from['name']}, which is another model than {base}; train on its own base"
        )
    return model


def new_adapters(model, settings: Settings, seed: int, guidance_max: float):
    """Attach untrained adapters to the model, with random weights drawn by the study's seed."""
    torch.manual_seed(seed_of(seed, "initial adapter", 0))
    own = {field.name for field in dataclasses.fields(AdapterConfig)}
    choices = {k: v for k, v in dataclasses.asdict(settings).items() if k in own}
    adapters = attach(model.denoiser, AdapterConfig(**choices, guidance_scale_max=guidance_max), model.anatomy)
    if settings.gradient_checkpointing:
        enable_gradient_checkpointing(model.denoiser)
    return adapters


def provenance_of(settings: Settings, seed: int, model, pairs: Pairs, device: torch.device) -> dict:
    """Return the adapter's provenance: settings, base model and trajectories."""
    return provenance(
        STAGE,
        configuration.recorded(STAGE, settings),
        devices.describe(device),
        base=model.identity,
        seed=seed,
        trajectories={
            "number": len(pairs.index),
            "sha256": digest(map(seal_of, pairs.paths)),
            "made": pairs.provenance,
        },
    )


def identity_of(made: dict, number: int) -> str:
    """Return what a checkpoint must be of to be continued: the same adapter, trained by the same number of processes."""
    return digest([json.dumps({**made, "commit": "", "packages": ""}, sort_keys=True), str(number)])


def readers(settings: Settings, pairs: Pairs, accelerator) -> int:
    """Return how many processes read pairs: as set, or as many as shared memory holds the batches of."""
    batch_bytes = settings.batch_size // accelerator.num_processes * pairs.bytes_each
    return processes.workers(settings.num_workers, batch_bytes, accelerator.num_processes)


def run(files, settings: Settings, model_class) -> None:
    """Write `adapter.safetensors`, `config.json`, `training.csv` and `cost.json` into `--dir`, and continue from a
    checkpoint there. The last `checkpoint.safetensors` stays."""
    folder = make_folder(files.dir)
    shards = trajectories.find(files.data_path)
    device = devices.device(settings.device, settings.deterministic)
    pairs = Pairs(shards)
    accelerator = processes.accelerator(device, settings.gpu, settings.batch_size)
    model = open_base(files, settings, model_class, pairs, accelerator.device)
    distillation = Distillation(model)
    kept_back = held_out_trajectories(settings.held_out_fraction, len(pairs.index))
    number = len(pairs) - kept_back * pairs.steps
    base = unadapted(distillation, pairs, number, settings.micro_batch_size, files.seed)
    held_out = HeldOut(model, pairs, kept_back, settings.micro_batch_size, files.seed)
    if settings.loss_weighting == "guidance":
        distillation.weights = base.weights
    sampled = pairs.provenance["settings"]
    adapters = new_adapters(model, settings, files.seed, sampled["guidance_max"])
    optimizer = torch.optim.AdamW(adapters.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)

    made = provenance_of(settings, files.seed, model, pairs, accelerator.device)
    identity = identity_of(made, accelerator.num_processes)
    saved = folder / CHECKPOINT
    at = checkpoints.resume(
        saved, adapters, optimizer, identity, say=lambda words: accelerator.print(f"{STAGE}: {words}", flush=True)
    )
    loader = batches_from(
        at.step, settings, files.seed, pairs, number, accelerator, readers(settings, pairs, accelerator)
    )
    adapters.train()
    distill = accelerator.prepare(distillation)
    cost = training_cost.Cost(at, accelerator.device)
    with stop_when_safe() as to_stop, progress_bar(None, STAGE, total=settings.steps, initial=at.step) as bar:
        work = (distill, adapters, optimizer, loader, settings, files.seed, held_out.measure)
        for stop in train(*work, at, accelerator, to_stop):
            bar.update()
            if at.rows:
                bar.set_postfix(loss=f"{at.rows[-1]['loss']:.4f}", base=f"{base.loss:.4f}", refresh=False)
            # Keep the last step's checkpoint: if the result is lost or in doubt, training restores it in seconds.
            due = at.step % settings.checkpoint_interval == 0 or at.step == settings.steps
            if accelerator.is_main_process and (stop or due):
                checkpoints.save(saved, adapters, optimizer, at, identity)
            if stop:
                accelerator.wait_for_everyone()  # the first process to leave ends the others
                raise Terminated

    if accelerator.is_main_process:
        cost.write(folder / training_cost.FILE)
        write_table(folder / TABLE, at.rows, base.loss)
        record = {
            "size": size(model.denoiser),
            "training": {"steps": at.step, "loss": at.rows[-1]["loss"], "base_loss": base.loss},
            "fidelity": {"trajectories": kept_back, **{name: at.rows[-1][name] for name in FIDELITY}},
            "guidance_scale_range": [sampled["guidance_min"], sampled["guidance_max"]],
            "guided_channels": sampled["guided_channels"],
            "provenance": made,
        }
        saving.save(adapters.eval(), folder, record, beside=[TABLE])
    accelerator.wait_for_everyone()
    accelerator.end_training()


main = entry_point(STAGE)

if __name__ == "__main__":
    main()
