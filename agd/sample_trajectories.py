"""Stage `sample_trajectories`: sample with guidance, and store what the adapter has to learn.

For each class or prompt c, draw w ~ Unif(guidance_min, guidance_max) and noise, and denoise with

    guided = uncond + w * (cond - uncond)                                   (arXiv 2503.07274, section 3)

At every step, store the denoiser's input x_t, t, c, w and the guided output. Guided sampling visits these states, so
the adapter sees the same states when it is used.

To compare, `source: diffusion` stores what other distillations train on (Meng et al., arXiv 2210.03142): images x_0 with
noise of their own at every timestep, x_t = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) noise. x_0 are real images, if --images
gives them, or else samples of the base model without guidance.
"""

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
import torch

from agd.artifacts import trajectories
from agd.artifacts.files import make_folder
from agd.artifacts.labelled_images import LabelledImages
from agd.artifacts.provenance import digest, provenance
from agd.diffusion import base_models, schedulers
from agd.diffusion.guidance import two_passes
from agd.diffusion.precision import open_measured
from agd.diffusion.sampling import denoise, generators, in_batches, in_turn, noise, uniform
from agd.runtime import devices
from agd.runtime.errors import UserError
from agd.runtime.progress import progress_bar
from agd.settings import configuration
from agd.settings.entry_points import entry_point
from agd.settings.results import part

STAGE = "sample_trajectories"


@dataclasses.dataclass(frozen=True)
class Settings:
    """config/schema.yaml describes each field."""

    source: str
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
    deterministic: bool
    family_settings: dict


class Trajectories:
    """What a study's trajectories are made of. images: real images of `source: diffusion`, or None."""

    def __init__(self, model, settings: Settings, seed: int, subjects: list, images: LabelledImages | None):
        self.model, self.settings, self.seed, self.subjects, self.images = model, settings, seed, subjects, images

    @torch.no_grad()
    def steps(self, indices: list[int]) -> Iterator[dict[str, np.ndarray]]:
        """Make the trajectories of these indices, and yield each step: timestep () and pair (B, 2, C, H, W).

        Each step also has guidance_scale (B,) and the conditions, the same at every step.
        """
        draw = generators(self.seed, "trajectory", indices)
        w_B = uniform(self.settings.guidance_min, self.settings.guidance_max, draw)
        real = self.images.drawn(draw) if self.images else None
        conditions = self.model.conditions(real[1] if real else in_turn(self.subjects, indices))
        guided_of = two_passes(self.model, conditions, self.settings, w_B.to(self.model.device))
        kept = {f"conditions/{k}": _array(v) for k, v in conditions.items()}
        scheduler = schedulers.scheduler(self.model.scheduler, self.settings.scheduler)
        if self.settings.source == "guided":
            start = noise(self.model.latent_shape, draw).to(self.model.device)
            visited = denoise(lambda x, t: guided_of(x, t)[1], scheduler, start, self.settings.num_inference_steps)
        else:
            clean = self.model.encode(real[0]) if real else self.unguided(draw, conditions, scheduler)
            visited = self.noised(clean, guided_of, draw, scheduler)
        for t, x, guided, *_ in visited:
            pair = torch.stack([x.float(), guided], dim=1).cpu().numpy().astype(self.settings.storage_dtype)
            yield {"timestep": np.float32(t.cpu()), "pair": pair, "guidance_scale": w_B.numpy(), **kept}

    def unguided(self, draw: list[torch.Generator], conditions: dict, scheduler) -> torch.Tensor:
        """Sample without guidance. Returns latents (B, C, H, W)."""
        start = noise(self.model.latent_shape, draw).to(self.model.device)
        steps = self.settings.num_inference_steps
        for *_, latents in denoise(lambda x, t: self.model.call(x, t, conditions), scheduler, start, steps):  # noqa: B007
            pass
        return latents

    def noised(self, clean: torch.Tensor, guided_of: Callable, draw: list[torch.Generator], scheduler) -> Iterator:
        """Yield, at each timestep, t, clean latents with fresh noise as the denoiser's input, and the guided output."""
        scheduler.set_timesteps(self.settings.num_inference_steps, device=clean.device)
        for t in scheduler.timesteps:
            fresh = noise(self.model.latent_shape, draw).to(clean.device)
            x = schedulers.noised(self.model.scheduler, clean, fresh, t)
            yield t, x, guided_of(x, t)[1]


def _array(values: torch.Tensor) -> np.ndarray:
    return (values.float() if values.is_floating_point() else values).cpu().numpy()  # numpy has no bfloat16


def sample_shard(study: Trajectories, indices: list[int], bar, **more) -> trajectories.Shard:
    """Make the trajectories of these indices in batches, as one shard. Advances `bar` at each step.

    more: more fields for the provenance.
    """
    settings, model, subjects = study.settings, study.model, study.subjects

    def steps_of(batch: list[int]) -> list[dict[str, np.ndarray]]:
        steps = []
        for step in study.steps(batch):
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
        seed=study.seed,
        subjects={"number": len(subjects), "sha256": digest(map(str, subjects))},
        **more,
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


def images_of(files, base: str, settings: Settings, subjects: list, model_class) -> LabelledImages | None:
    """Return the real images of the command line. Raises UserError if these trajectories take none."""
    given = getattr(files, "images", None)
    if given and settings.source == "guided":
        raise UserError("--images: guided trajectories begin with noise; leave it out, or set --source diffusion")
    return LabelledImages(given, subjects, model_class.classes(base)) if given else None


def run(files, settings: Settings, model_class) -> None:
    """Write `{output_dir}/{first}.zarr.zip`: one shard if --count is given, otherwise all shards.

    The first shard of all also records how precise guidance is in the settings' dtype.
    """
    folder = make_folder(files.output_dir)
    device = devices.device(settings.device, settings.deterministic)
    base = base_models.pinned(files.base_model, files.base_record)
    settings, subjects = model_class.check(base, files, settings)
    asked = part(files.first, files.count, settings.num_trajectories, "trajectory")
    size = files.count or settings.chunk_size
    images = images_of(files, base, settings, subjects, model_class)
    opened = (base, model_class, settings, devices.dtype(settings.dtype), device)
    parts = {"conditions": True, "images": images is not None}
    model, measured = open_measured(*opened, files.seed, subjects, measure=files.first == 0, **parts)
    noisy = {} if settings.source == "guided" else {"noised": images.identity if images else "unguided samples"}
    study = Trajectories(model, settings, files.seed, subjects, images)
    with progress_bar(None, STAGE, total=len(asked) * settings.num_inference_steps) as bar:
        for first in asked[::size]:
            indices = list(range(first, min(first + size, asked.stop)))
            shard = sample_shard(study, indices, bar, **measured, **noisy)
            trajectories.write(folder / trajectories.shard_name(first), shard)
            measured = {}


main = entry_point(STAGE)

if __name__ == "__main__":
    main()
