"""Stage `measure_speed`: how fast an adapter samples, beside guidance in two passes and no guidance.

All methods sample the same batch, in turn, in one process, for several rounds. Jobs that ran at different times can't be
compared: other work may have slowed one of them. Each round gives a ratio of its own, so that the spread is known.
"""

import dataclasses
import functools
import json
import statistics
import time
from collections.abc import Callable

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
from agd.settings import configuration, schema, written_values
from agd.settings.entry_points import entry_point
from agd.settings.results import BUILT_IN, HALF, half
from agd.settings.validation import check_against

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


@dataclasses.dataclass(frozen=True)
class Way:
    """How a method samples. guidance: `none`, `cfg` or `adapter`. adapter: the folder of a trained one."""

    guidance: str
    settings: Settings
    adapter: str | None = None


class Race:
    """One batch, which several methods sample in turn."""

    def __init__(self, model, seed: int, subjects: list):
        self.model, self.seed, self.subjects = model, seed, subjects
        self.merged: set[str] = set()  # folders of adapters that were merged for sampling

    @torch.no_grad()
    def seconds(self, way: Way, number: int) -> float:
        """Sample and decode a batch of this number of images. Returns the seconds, without those of attaching adapters."""
        settings, indices = way.settings, list(range(number))
        if way.adapter:
            adapters = saving.load_at(self.model.denoiser, way.adapter, self.model.anatomy, settings.guidance_scale)
            self.merged |= {way.adapter} if adapters.fused is not None else set()
        try:
            started = time.perf_counter()
            start = noise(self.model.latent_shape, generators(self.seed, "speed", indices)).to(self.model.device)
            conditions = self.model.conditions(in_turn(self.subjects, indices))
            predict = predictor(self.model, conditions, settings, way.guidance, settings.guidance_scale)
            scheduler = schedulers.scheduler(self.model.scheduler, settings.scheduler)
            for *_, latents in denoise(predict, scheduler, start, settings.num_inference_steps):  # noqa: B007
                pass
            decoded(self.model, latents)  # its copy to the CPU waits for the GPU
            return time.perf_counter() - started
        finally:
            if way.adapter:
                detach(self.model.denoiser)


def compare(guided: list[float], own: list[float], number: int) -> dict:
    """Return a method's seconds per image (median), and how many times as fast as cfg it is: median and extremes.

    guided, own: seconds of cfg and of the method in each round, for a batch of this number.
    """
    ratios = [theirs / ours for theirs, ours in zip(guided, own, strict=True)]
    speedup = {"median": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios)}
    return {"seconds_per_image": statistics.median(own) / number, "speedup_over_cfg": speedup}


def further(text: str | None, settings: Settings, check: Callable[[Settings], Settings]) -> dict[str, Way]:
    """Read `--methods`: name -> folder of an adapter, or settings of a kind of cfg. check: resolves `auto` in settings.

    Raises UserError, naming the method, for anything else.
    """
    given, ways = _read_methods(text), {}
    names = schema.schema()["$defs"]["model"]["properties"]["adapters"]["propertyNames"]
    for name, value in given.items():
        if name in (*BUILT_IN, HALF):
            raise UserError(f"--methods: {name!r} is timed anyway; leave it out")
        check_against(names, name, "--methods")
        try:
            ways[name] = _adapter(value, settings) if isinstance(value, str) else _partial(value, settings, check)
        except UserError as error:
            raise UserError(f"--methods: {name}: {error}") from None
    return ways


def _read_methods(text: str | None) -> dict[str, str | dict]:
    def once(pairs: list[tuple]) -> dict:
        found = {}
        for name, value in pairs:
            if name in found:
                raise UserError(f"--methods: {name!r} is there twice; keep one")
            found[name] = value
        return found

    try:
        given = json.loads(text or "{}", object_pairs_hook=once)
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, dict) or not all(isinstance(value, str | dict) for value in given.values()):
        raise UserError(
            f"--methods: {text!r} is no JSON of methods; give {{name: folder of an adapter, or settings of cfg}}"
        )
    return given


def _adapter(folder: str, settings: Settings) -> Way:
    saving.read_whole(folder)
    return Way("adapter", settings, folder)


def _partial(given: dict, settings: Settings, check: Callable[[Settings], Settings]) -> Way:
    present = settings.family_settings | {k: v for k, v in dataclasses.asdict(settings).items() if v is not None}
    own = schema.of_cfg(STAGE, {name: spec for name, spec in schema.properties(STAGE).items() if name in present})
    check_against({"type": "object", "additionalProperties": False, "properties": own}, given, "")
    written_values.guided_sigmas(given.get("guided_sigmas", settings.guided_sigmas), "guided_sigmas")
    of_family = {name: given[name] for name in given if name in settings.family_settings}
    changed = {name: given[name] for name in given if name not in of_family}
    changed["family_settings"] = settings.family_settings | of_family
    return Way("cfg", check(dataclasses.replace(settings, **changed)))


def identity(way: Way) -> dict:
    """Return what a further method is, for provenance: its adapter's provenance, or its settings of cfg."""
    if way.adapter:
        return {"adapter": saving.read_description(way.adapter).get("provenance", {})}
    return {"settings": schema.of_cfg(STAGE, configuration.recorded(STAGE, way.settings))}


def run(files, settings: Settings, model_class) -> None:
    """Write one JSON file: for none, cfg, cfg in half the steps, the adapter and further methods, what `compare` says."""
    if files.dir is None:
        raise UserError("--dir: missing; give the folder of a trained adapter")
    output = can_write(files.output or f"{files.dir}/speed.json")
    description = saving.read_whole(files.dir)
    base = base_models.pinned(files.base_model, files.base_record) or saving.base_name(files.dir, description)
    device = devices.device(settings.device)
    settings, subjects = model_class.check(base, files, settings)
    others = further(files.methods, settings, lambda changed: model_class.check(base, files, changed)[0])
    model = model_class(base, devices.dtype(settings.dtype), device, conditions=True, images=True)
    in_half = dataclasses.replace(settings, num_inference_steps=half(settings.num_inference_steps))
    race, guided = Race(model, files.seed, subjects), Way("cfg", settings)
    compared = {
        "none": Way("none", settings),
        "cfg": guided,
        HALF: Way("cfg", in_half),
        "adapter": Way("adapter", settings, files.dir),
    }
    # By place, not by name: a further method may be called `adapter`.
    ways = [*compared.values(), *others.values()]
    seconds = [[] for _ in ways]
    with progress_bar(None, STAGE, total=(settings.rounds + 1) * len(ways)) as bar:
        # The first round warms up; cfg, which takes the most memory, finds the batch that fits.
        _, number = devices.fitting(settings.batch_size, "batch_size", functools.partial(race.seconds, guided))
        for turn in range(settings.rounds + 1):
            for way, own in zip(ways, seconds, strict=True):
                took = race.seconds(way, number)
                if turn:
                    own.append(took)
                bar.update()
    made = provenance(
        STAGE,
        configuration.recorded(STAGE, settings),
        devices.describe(device),
        base=model.identity,
        adapter=description.get("provenance", {}),
        seed=files.seed,
        **({"others": {name: identity(way) for name, way in others.items()}} if others else {}),
    )
    took = [compare(seconds[list(compared).index("cfg")], own, number) for own in seconds]
    found = {"images": number, "rounds": settings.rounds, "merged": files.dir in race.merged}
    found["methods"] = dict(zip(compared, took, strict=False))
    found |= {"others": dict(zip(others, took[len(compared) :], strict=True))} if others else {}
    write_sealed(output, {**found, "provenance": made})


main = entry_point(STAGE)

if __name__ == "__main__":
    main()
