"""Stage `measure_speed`: how fast an adapter samples, beside guidance in two passes and no guidance.

All methods sample the same batch, in turn, in one process, for several rounds. Jobs that ran at different times can't be
compared: other work may have slowed one of them. Each round gives a ratio of its own, so that the spread is known.
"""

import dataclasses
import functools
import statistics
import time

import torch

from agd.adapters import saving
from agd.adapters.attaching import detach
from agd.artifacts.files import can_write
from agd.artifacts.provenance import provenance
from agd.artifacts.sealed_json import write_sealed
from agd.diffusion import base_models, schedulers
from agd.diffusion.guidance import predictor
from agd.diffusion.sampling import decoded, denoise, generators, in_turn, noise
from agd.runtime import devices
from agd.runtime.errors import UserError
from agd.runtime.progress import progress_bar
from agd.settings import configuration
from agd.settings.entry_points import entry_point
from agd.settings.results import HALF, half

STAGE = "measure_speed"


@dataclasses.dataclass(frozen=True)
class Settings:
    """config/schema.yaml describes each field."""

    rounds: int
    guidance_scale: float
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


class Race:
    """One batch, which several methods sample in turn. adapter: the folder of a trained one."""

    def __init__(self, model, settings: Settings, adapter: str, seed: int, subjects: list):
        self.model, self.settings, self.adapter = model, settings, adapter
        self.seed, self.subjects = seed, subjects
        self.merged = False

    @torch.no_grad()
    def seconds(self, guidance: str, steps: int, number: int) -> float:
        """Sample and decode a batch of this number of images. Returns the seconds, without those of attaching adapters."""
        settings, indices = dataclasses.replace(self.settings, num_inference_steps=steps), list(range(number))
        if guidance == "adapter":
            adapters = saving.load_at(self.model.denoiser, self.adapter, self.model.anatomy, settings.guidance_scale)
            self.merged = adapters.fused is not None
        try:
            started = time.perf_counter()
            start = noise(self.model.latent_shape, generators(self.seed, "speed", indices)).to(self.model.device)
            conditions = self.model.conditions(in_turn(self.subjects, indices))
            predict = predictor(self.model, conditions, settings, guidance, settings.guidance_scale)
            scheduler = schedulers.scheduler(self.model.scheduler, settings.scheduler)
            for *_, latents in denoise(predict, scheduler, start, steps):  # noqa: B007
                pass
            decoded(self.model, latents)  # its copy to the CPU waits for the GPU
            return time.perf_counter() - started
        finally:
            if guidance == "adapter":
                detach(self.model.denoiser)


def compare(seconds: dict[str, list[float]], number: int) -> dict[str, dict]:
    """Return method -> seconds per image (median), and how many times as fast as cfg it is: median and extremes.

    seconds: method -> those of each round, for a batch of this number.
    """
    found = {}
    for method, own in seconds.items():
        ratios = [theirs / ours for theirs, ours in zip(seconds["cfg"], own, strict=True)]
        speedup = {"median": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios)}
        found[method] = {"seconds_per_image": statistics.median(own) / number, "speedup_over_cfg": speedup}
    return found


def run(files, settings: Settings, model_class) -> None:
    """Write one JSON file: for none, cfg, cfg in half the steps and the adapter, what `compare` says."""
    if files.dir is None:
        raise UserError("--dir: missing; give the folder of a trained adapter")
    output = can_write(files.output or f"{files.dir}/speed.json")
    description = saving.read_description(files.dir)
    base = base_models.pinned(files.base_model, files.base_record) or saving.base_name(files.dir, description)
    device = devices.device(settings.device)
    settings, subjects = model_class.check(base, files, settings)
    model = model_class(base, devices.dtype(settings.dtype), device, conditions=True, images=True)
    race, steps = Race(model, settings, files.dir, files.seed, subjects), settings.num_inference_steps
    methods = {
        "none": ("none", steps),
        "cfg": ("cfg", steps),
        HALF: ("cfg", half(steps)),
        "adapter": ("adapter", steps),
    }
    seconds = {method: [] for method in methods}
    with progress_bar(None, STAGE, total=(settings.rounds + 1) * len(methods)) as bar:
        # The first round warms up; cfg, which takes the most memory, finds the batch that fits.
        _, number = devices.fitting(settings.batch_size, "batch_size", functools.partial(race.seconds, "cfg", steps))
        for turn in range(settings.rounds + 1):
            for method, way in methods.items():
                took = race.seconds(*way, number)
                if turn:
                    seconds[method].append(took)
                bar.update()
    made = provenance(
        STAGE,
        configuration.recorded(STAGE, settings),
        devices.describe(device),
        base=model.identity,
        adapter=description.get("provenance", {}),
        seed=files.seed,
    )
    found = {"images": number, "rounds": settings.rounds, "merged": race.merged, "methods": compare(seconds, number)}
    write_sealed(output, {**found, "provenance": made})


main = entry_point(STAGE)

if __name__ == "__main__":
    main()
