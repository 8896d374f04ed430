"""Stage `sample_trajectories`: sample with guidance, and store what the adapter has to learn.

For each class or prompt c, draw w ~ Unif(guidance_min, guidance_max) and noise, and denoise with

    guided = uncond + w * (cond - uncond)                                   (arXiv 2503.07274, section 3)

At every step, store the denoiser's input x_t, t, c, w and the guided output. Guided sampling visits these states, so
the adapter sees the same states when it is used.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
import torch

from agd.artifacts import trajectories
from agd.artifacts.files import make_folder
from agd.artifacts.provenance import digest, provenance
from agd.diffusion import schedulers
from agd.diffusion.guidance import two_passes
from agd.diffusion.precision import open_measured
from agd.diffusion.sampling import denoise, generators, in_batches, in_turn, noise, uniform
from agd.runtime import devices
from agd.runtime.errors import UserError
from agd.runtime.progress import progress_bar
from agd.settings import configuration
from agd.settings.entry_points import entry_point

STAGE = "sample_trajectories"


@dataclasses.dataclass(frozen=True)
class Settings:
    """config/schema.yaml describes each field."""

    num_trajectories: int
    chunk_size: int
    class_labels: str | None
    scheduler: str
    num_inference_steps: int
    guidance_min: float
    guidance_max: float
    guided_channels: int
    storage_dtype: str
    dtype: str
    batch_size: int
    device: str
    family_settings: dict


@torch.no_grad()
def sample_batch(
    model, settings: Settings, seed: int, indices: list[int], subjects: list
) -> Iterator[dict[str, np.ndarray]]:
    """Sample guided trajectories of these indices, and yield each step: timestep () and pair (B, 2, C, H, W).

    Each step also has guidance_scale (B,) and the conditions, the same at every step.
    """
    draw = generators(seed, "trajectory", indices)
    w_B = uniform(settings.guidance_min, settings.guidance_max, draw)
    start = noise(model.latent_shape, draw).to(model.device)
    conditions = model.conditions(in_turn(subjects, indices))
    guided_of = two_passes(model, conditions, settings, w_B.to(model.device))
    kept = {f"conditions/{k}": _array(v) for k, v in conditions.items()}
    scheduler = schedulers.scheduler(model.scheduler, settings.scheduler)
    for t, x, guided, _ in denoise(lambda x, t: guided_of(x, t)[1], scheduler, start, settings.num_inference_steps):
        pair = torch.stack([x.float(), guided], dim=1).cpu().numpy().astype(settings.storage_dtype)
        yield {"timestep": np.float32(t.cpu()), "pair": pair, "guidance_scale": w_B.numpy(), **kept}


def _array(values: torch.Tensor) -> np.ndarray:
    return (values.float() if values.is_floating_point() else values).cpu().numpy()  # numpy has no bfloat16


def sample_shard(
    model, settings: Settings, seed: int, indices: list[int], subjects: list, bar, **measured
) -> trajectories.Shard:
    """Sample the trajectories of these indices in batches, as one shard. Advances `bar` at each step.

    measured: more fields for the provenance.
    """

    def steps_of(batch: list[int]) -> list[dict[str, np.ndarray]]:
        steps = []
        for step in sample_batch(model, settings, seed, batch, subjects):
            steps.append(step)
            bar.update(len(batch))
        return steps

    parts = list(in_batches(indices, settings.batch_size, steps_of, bar))
    first = [steps[0] for steps in parts]
    made = provenance(
        STAGE,
        configuration.recorded(STAGE, settings),
        devices.describe(model.device),
        base=model.identity,
        seed=seed,
        subjects={"number": len(subjects), "sha256": digest(map(str, subjects))},
        **measured,
    )
    return trajectories.Shard(
        pairs=np.concatenate([np.stack([step["pair"] for step in steps], axis=1) for steps in parts]),
        timesteps=np.array([step["timestep"] for step in parts[0]]),
        guidance_scale=np.concatenate([step["guidance_scale"] for step in first]),
        index=np.array(indices),
        conditions={
            name.removeprefix("conditions/"): np.concatenate([step[name] for step in first])
            for name in first[0]
            if name.startswith("conditions/")
        },
        provenance=made,
    )


def run(files, settings: Settings, model_class) -> None:
    """Write `{output_dir}/{first}.zarr.zip`: one shard if --count is given, otherwise all shards.

    The first shard of all also records how precise guidance is in the settings' dtype.
    """
    folder = make_folder(files.output_dir)
    device = devices.device(settings.device)
    settings, subjects = model_class.check(files.base_model, files, settings)
    total = settings.num_trajectories
    if files.count is None and files.first >= total:
        raise UserError(f"--first: {files.first} is beyond the last trajectory, {total - 1}")
    size = files.count or settings.chunk_size
    stop = files.first + files.count if files.count else total
    opened = (files.base_model, model_class, settings, devices.dtype(settings.dtype), device)
    model, measured = open_measured(*opened, files.seed, subjects, measure=files.first == 0, conditions=True)
    with progress_bar(None, STAGE, total=(stop - files.first) * settings.num_inference_steps) as bar:
        for first in range(files.first, stop, size):
            indices = list(range(first, min(first + size, stop)))
            shard = sample_shard(model, settings, files.seed, indices, subjects, bar, **measured)
            trajectories.write(folder / trajectories.shard_name(first), shard)
            measured = {}


main = entry_point(STAGE)

if __name__ == "__main__":
    main()
