"""Stage `measure_fidelity`: how much of the guidance a method gives, at each w and noise level: an adapter in one pass,
or guidance at some of the steps.

Sample with guidance in two passes, from noise that training never saw. At every step, ask the method for the same input.
agd/diffusion/fidelity.py defines `unexplained` and `captured`. Then sample from the same noise with the method and without
guidance:

    divergence = E ||x_method - x_guided||^2 / E ||x_none - x_guided||^2          0: the same result, 1: as without guidance

of the latents after each step, and of the images.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import torch

from agd.adapters import saving
from agd.artifacts.provenance import digest, provenance
from agd.artifacts.sealed_json import write_sealed
from agd.diffusion import base_models, schedulers
from agd.diffusion.fidelity import compare, figures
from agd.diffusion.guidance import predictor, two_passes
from agd.diffusion.precision import open_measured
from agd.diffusion.sampling import decoded, denoise, generators, in_batches, in_turn, noise
from agd.runtime import devices
from agd.runtime.errors import UserError
from agd.runtime.progress import progress_bar
from agd.settings import configuration, written_values
from agd.settings.entry_points import entry_point

STAGE = "measure_fidelity"


@dataclasses.dataclass(frozen=True)
class Settings:
    """config/schema.yaml describes each field."""

    guidance_scales: str
    num_trajectories: int
    class_labels: str | None
    scheduler: str
    num_inference_steps: int
    guided_channels: int
    guided_sigmas: str
    guided_share: float
    dtype: str
    batch_size: int
    device: str
    family_settings: dict


@dataclasses.dataclass
class Sums:
    """Sums over the trajectories of one w. steps (T, 3): of `compare`. latents (T, 2), images (2,): squared distances from
    the guided result, with the method and without guidance; latents after each step.
    """

    steps: torch.Tensor
    latents: torch.Tensor
    images: torch.Tensor

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(self.steps + other.steps, self.latents + other.latents, self.images + other.images)


class Measurement:
    """One model with a method of guidance, and what is asked of it. adapters: None if the method has none."""

    def __init__(self, model, adapters, settings: Settings, asked: list[float], seed: int, subjects: list, bar):
        self.model, self.adapters, self.settings, self.asked = model, adapters, settings, asked
        self.seed, self.subjects, self.bar = seed, subjects, bar

    def sums(self, indices: list[int]) -> list[Sums]:
        """Sample the trajectories of these indices without guidance, and for each w with guidance and with the method."""
        start = noise(self.model.latent_shape, generators(self.seed, "held out", indices)).to(self.model.device)
        conditions = self.model.conditions(in_turn(self.subjects, indices))
        unguided = self.sampled(lambda x_BCHW, t: self.output(1.0, x_BCHW, t, conditions), start)
        return [self.sums_at(w, start, conditions, unguided) for w in self.asked]

    def sums_at(self, w: float, start: torch.Tensor, conditions: dict, unguided: tuple) -> Sums:
        """Compare, at one w, the method with guidance at each step, and the sampled results with each other."""
        guided_of, followed = two_passes(self.model, conditions, self.settings, w), self.method(w, conditions)
        compared = []

        def predict(x_BCHW, t):
            self.set_scale(1.0)
            cond, guided = guided_of(x_BCHW, t)
            compared.append(compare(followed(x_BCHW, t), cond, guided).sum(0).cpu())
            return guided

        guided = self.sampled(predict, start)
        ours = self.sampled(self.method(w, conditions), start)
        latents, images = (
            torch.stack([squared_distances(a, g), squared_distances(n, g)], dim=-1)
            for a, n, g in zip(ours, unguided, guided, strict=True)
        )
        return Sums(torch.stack(compared), latents, images)

    def method(self, w: float, conditions: dict) -> Callable:
        """Return a function (input, timestep) -> output of the method, for the steps of one sampling."""
        if self.adapters is None:
            return predictor(self.model, conditions, self.settings, "cfg", w)
        return lambda x_BCHW, t: self.output(w, x_BCHW, t, conditions)

    def set_scale(self, w: float) -> None:
        if self.adapters is not None:
            self.adapters.current.set_scale(w)

    def output(self, w: float, x_BCHW: torch.Tensor, t: torch.Tensor, conditions: dict) -> torch.Tensor:
        """Run the model once. At w = 1, and without adapters, it is the base model, bit for bit."""
        self.set_scale(w)
        return self.model.call(x_BCHW, t, conditions)

    def sampled(self, predict, start: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Denoise with one way of predicting. Returns latents (T, B, C, h, w) after each step, and images (B, channels, H,
        W), float in [0, 1]."""
        scheduler, after = schedulers.scheduler(self.model.scheduler, self.settings.scheduler), []
        for *_, latents in denoise(predict, scheduler, start, self.settings.num_inference_steps):
            after.append(latents.cpu())
            self.bar.update(len(start))
        return torch.stack(after), decoded(self.model, latents) / 255

    def timesteps(self) -> list[float]:
        scheduler = schedulers.scheduler(self.model.scheduler, self.settings.scheduler)
        scheduler.set_timesteps(self.settings.num_inference_steps)
        return [float(t) for t in scheduler.timesteps]


def squared_distances(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """(..., B, C, H, W) each -> (...): squared distances, added up over the samples."""
    return (a - b).double().square().sum((-4, -3, -2, -1))


def scales(text: str, trained: list[float] | None) -> list[float]:
    """'1.5,3' -> [1.5, 3.0]. `auto`: parts of the trained range above 1, and one scale outside it.

    Raises UserError for `auto` if the adapter doesn't say what it was trained on.
    """
    if text != "auto":
        return written_values.guidance_scales(text)
    if trained is None or trained[1] <= 1:
        raise UserError("guidance_scales: auto, but no adapter says a range; give scales such as 1.5,2,3")
    return written_values.automatic_scales(trained[1])


def record_of(sums: Sums, timesteps: list[float]) -> dict:
    """Return the record of one w: figures over all steps and at each timestep, and how far the results diverge."""
    at_each = [figures(step_3) for step_3 in sums.steps]
    latents, images = ((far[..., 0] / far[..., 1].clamp(min=1e-30)).tolist() for far in (sums.latents, sums.images))
    return {
        **figures(sums.steps.sum(0)),
        "divergence": {"latents": latents[-1], "images": images},
        "timesteps": timesteps,
        "divergence_by_timestep": latents,
        **{f"{name}_by_timestep": [step[name] for step in at_each] for name in at_each[0]},
    }


@torch.no_grad()
def run(files, settings: Settings, model_class) -> None:
    """Write one JSON file: for each w, the record of `record_of`."""
    adapted = check_files(files)
    description = saving.read_whole(files.dir) if adapted else {}
    base = base_models.pinned(files.base_model, files.base_record) or saving.base_name(files.dir, description)
    trained = description.get("guidance_scale_range")
    asked = scales(settings.guidance_scales, trained)
    device = devices.device(settings.device)
    settings, subjects = model_class.check(base, files, settings)
    opened = (base, model_class, settings, devices.dtype(settings.dtype), device)
    model, measured = open_measured(*opened, files.seed, subjects, measure=True, conditions=True, images=True)
    adapters = saving.load(model.denoiser, files.dir, model.anatomy) if adapted else None
    number = settings.num_trajectories
    passes = (1 + 2 * len(asked)) * number * settings.num_inference_steps
    with progress_bar(None, STAGE, total=passes) as bar:
        measurement = Measurement(model, adapters, settings, asked, files.seed, subjects, bar)
        parts = list(in_batches(list(range(number)), settings.batch_size, measurement.sums, bar))
    totals = [sum(others, first) for first, *others in zip(*parts, strict=True)]
    found = {f"{w:g}": record_of(total, measurement.timesteps()) for w, total in zip(asked, totals, strict=True)}
    made = provenance(
        STAGE,
        configuration.recorded(STAGE, settings),
        devices.describe(device),
        base=model.identity,
        seed=files.seed,
        guidance=files.guidance,
        subjects={"number": len(subjects), "sha256": digest(map(str, subjects))},
        adapter=description.get("provenance", {}),
        **measured,
    )
    record = {
        "num_trajectories": number,
        "guidance_scale_range": trained,
        "by_guidance_scale": found,
        "provenance": made,
    }
    write_sealed(files.output or Path(files.dir) / "fidelity.json", record)


def check_files(files) -> bool:
    """Return whether the method is an adapter. Raises UserError if a file that it needs is missing."""
    if files.guidance == "adapter" and files.dir is None:
        raise UserError("--dir: missing; give the folder of a trained adapter, or --guidance cfg")
    if files.guidance == "cfg" and (files.base_model is None or files.output is None):
        raise UserError("--base-model, --output: --guidance cfg has no adapter to take them from; give both")
    return files.guidance == "adapter"


main = entry_point(STAGE)

if __name__ == "__main__":
    main()
