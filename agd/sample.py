"""Stage `sample`: sample images without guidance (one pass per step), with guidance (two), or with an adapter (one).

Image i has the same class or prompt and the same starting noise with every method, so images of different methods can
be compared one by one.
"""

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from agd.adapters import saving
from agd.artifacts.files import make_folder
from agd.artifacts.images import to_pil, write_grid, write_images
from agd.artifacts.provenance import digest, provenance
from agd.artifacts.sealed_json import checksums, write_sealed
from agd.diffusion import base_models, schedulers
from agd.diffusion.guidance import predictor
from agd.diffusion.precision import open_measured
from agd.diffusion.sampling import EvaluationCounter, decoded, denoise, generators, in_batches, in_turn, noise
from agd.runtime import devices
from agd.runtime.errors import UserError
from agd.runtime.progress import progress_bar
from agd.settings import configuration
from agd.settings.entry_points import entry_point
from agd.settings.results import part

STAGE = "sample"


@dataclasses.dataclass(frozen=True)
class Settings:
    """config/schema.yaml describes each field."""

    num_samples: int
    chunk_size: int
    guidance_scale: float
    class_labels: str | None
    scheduler: str
    num_inference_steps: int
    guided_channels: int
    guided_sigmas: str
    guided_share: float
    dtype: str
    batch_size: int
    columns: int
    device: str
    deterministic: bool
    family_settings: dict


@torch.no_grad()
def sample_batch(
    model, settings: Settings, guidance: str, seed: int, indices: list[int], subjects: list
) -> Iterator[torch.Tensor]:
    """Denoise the samples of these indices. Yields the latents (B, C, H, W) after each step."""
    start = noise(model.latent_shape, generators(seed, "sample", indices)).to(model.device)
    conditions = model.conditions(in_turn(subjects, indices))
    predict = predictor(model, conditions, settings, guidance, settings.guidance_scale)
    scheduler = schedulers.scheduler(model.scheduler, settings.scheduler)
    for *_, latents in denoise(predict, scheduler, start, settings.num_inference_steps):
        yield latents


@torch.no_grad()
def sample_chunk(
    model, settings: Settings, guidance: str, seed: int, indices: list[int], subjects: list, bar
) -> tuple[np.ndarray, dict]:
    """Return images (n, channels, H, W) uint8 of these indices, and their cost.

    The cost has the counted evaluations of the denoiser, and the seconds of denoising and decoding.
    """

    def images_of(batch: list[int]) -> tuple[np.ndarray, int, float]:
        started = time.perf_counter()
        with EvaluationCounter(model.denoiser) as counter:
            for latents_BCHW in sample_batch(model, settings, guidance, seed, batch, subjects):
                bar.update(len(batch))
                last_BCHW = latents_BCHW
        return decoded(model, last_BCHW).numpy(), counter.evaluations, time.perf_counter() - started

    images, evaluations, seconds = zip(*in_batches(indices, settings.batch_size, images_of, bar), strict=True)
    cost = {"images": len(indices), "evaluations": sum(evaluations), "seconds": sum(seconds)}
    return np.concatenate(images), cost


def run(files, settings: Settings, model_class) -> None:
    """Write `{output_dir}/{first}.zip` (images), a `.json` beside it (cost) and, for the first chunk, a picture."""
    adapted = files.guidance == "adapter"
    if adapted and files.dir is None:
        raise UserError("--dir: missing; give the folder of a trained adapter, or --guidance cfg or none")
    if not adapted and files.base_model is None:
        raise UserError(f"--base-model: missing; --guidance {files.guidance} has no adapter to take it from")
    if files.output_dir is None and files.dir is None:
        raise UserError("--output-dir: missing; say where the images go")
    description = saving.read_whole(files.dir) if adapted else None
    base = base_models.pinned(files.base_model, files.base_record) or saving.base_name(files.dir, description)
    folder = make_folder(files.output_dir or Path(files.dir) / "samples")
    device = devices.device(settings.device, settings.deterministic)
    settings, subjects = model_class.check(base, files, settings)
    asked = part(files.first, files.count, settings.num_samples, "image")

    measure = files.guidance == "cfg" and files.first == 0
    opened = (base, model_class, settings, devices.dtype(settings.dtype), device)
    model, measured = open_measured(*opened, files.seed, subjects, measure=measure, conditions=True, images=True)
    followed = model.follow(files)
    made = {"guidance": files.guidance, "base": model.identity, "seed": files.seed, **measured}
    made["subjects"] = {"number": len(subjects), "sha256": digest(map(str, subjects))}
    made |= {"follows": followed} if followed else {}
    if adapted:
        saving.load_at(model.denoiser, files.dir, model.anatomy, settings.guidance_scale)
        made["adapter"] = description.get("provenance", {})
    record = provenance(STAGE, configuration.recorded(STAGE, settings), devices.describe(device), **made)

    size = files.count or settings.chunk_size
    with progress_bar(None, STAGE, total=len(asked) * settings.num_inference_steps) as bar:
        for first in asked[::size]:
            indices = list(range(first, min(first + size, asked.stop)))
            images, cost = sample_chunk(model, settings, files.guidance, files.seed, indices, subjects, bar)
            path = folder / f"{first:06d}.zip"
            names = [f"{i:06d}" for i in indices]
            shown = dict(zip(names, in_turn(subjects, indices), strict=True))
            write_images(path, images, names, {"provenance": record, "subjects": shown})
            write_sealed(path.with_suffix(".json"), {**cost, "files": checksums(folder, [path.name])})
            if first == files.first and files.count is None:
                first_ones = [to_pil(image) for image in images[: 4 * settings.columns]]
                rows = [first_ones[i : i + settings.columns] for i in range(0, len(first_ones), settings.columns)]
                write_grid(folder.parent / f"{folder.name}.png", rows)


main = entry_point(STAGE)

if __name__ == "__main__":
    main()
