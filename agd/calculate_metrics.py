"""Stage `calculate_metrics`: how far samples are from real images, and what they cost."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from agd import config, devices, features
from agd.artifacts import can_write, sha256, writing
from agd.clip_score import clip_score
from agd.errors import UserError
from agd.images import list_images, read_images
from agd.progress import progress
from agd.provenance import model_fingerprint, provenance
from agd.records import check_files, read_sealed, sealed_json

STAGE = "calculate_metrics"


@dataclasses.dataclass(frozen=True)
class Settings:
    """config/schema.yaml says what each of these is."""

    features: str
    features_weights: str
    max_features: int
    neighbours: int
    clip_model: str | None
    batch_size: int
    device: str


def find_samples(files) -> list[Path]:
    """The sample files to compare, sorted. Raises UserError if there are none."""
    if files.samples:
        return sorted(map(Path, files.samples))
    if files.dir is None:
        raise UserError("--dir: missing; give the folder of an adapter with samples, or --samples")
    found = sorted((Path(files.dir) / "samples").glob("*.zip"))
    if not found:
        raise UserError(f"{files.dir}/samples: holds no samples (*.zip); run sample --dir {files.dir} first")
    return found


def _comparable(made: dict) -> dict:
    """What samples of one comparison share. Not the commit, packages or device: a chunk may be made again elsewhere."""
    adapter = {k: made.get("adapter", {}).get(k) for k in ("settings", "seed", "stage_version")}
    shared = {k: made.get(k) for k in ("guidance", "seed", "settings", "stage_version", "subjects")}
    return {**shared, "base": made["base"]["fingerprint"], "adapter": adapter}


def sample_features(paths: list[Path], extract: features.Extractor, batch_size: int) -> tuple[np.ndarray, dict]:
    """Features (n, D) of all images of these sample files, and how they were made. Raises UserError if they don't
    belong together."""
    parts, made, seen = [], None, {}
    with progress(paths, STAGE) as bar:
        for path in bar:
            images, manifest = read_images(path)
            made = made or manifest["provenance"]
            if _comparable(manifest["provenance"]) != _comparable(made):
                raise UserError(
                    f"{path}: made otherwise than {paths[0]} (see manifest.json in both); sample them again"
                )
            for name in images:
                if name in seen:
                    raise UserError(f"{path}: {name} is in {seen[name]} too; delete the file that is left over")
                seen[name] = path
            parts += extract(images.values(), batch_size)
    return np.concatenate(parts), made


def with_prompts(paths: list[Path]) -> Iterator[tuple[Image.Image, str]]:
    """Every image of these sample files, and its prompt. Raises UserError if they were not made from prompts."""
    with progress(paths, "clip_score") as bar:
        for path in bar:
            images, manifest = read_images(path)
            for name, image in images.items():
                prompt = manifest.get("subjects", {}).get(Path(name).stem)
                if not isinstance(prompt, str):
                    raise UserError(f"clip_model: the samples in {path} have classes, not prompts; leave it empty")
                yield image, prompt


def prompt_score(paths: list[Path], settings: Settings, device) -> tuple[dict, dict]:
    """The CLIP score and the identity of its model; neither, if no model is set."""
    if not settings.clip_model:
        return {}, {}
    score = clip_score(with_prompts(paths), settings.clip_model, device, settings.batch_size)
    return {"clip_score": score}, {"clip_model": model_fingerprint(Path(settings.clip_model))}


def total_cost(paths: list[Path]) -> dict[str, float]:
    """nfe (evaluations of the denoiser per image, as counted) and seconds per image, over all files. Raises UserError,
    naming the file, if a cost is not that of the images beside it."""
    costs = [read_sealed(path.with_suffix(".json")) for path in paths]
    for path, cost in zip(paths, costs, strict=True):
        check_files(path.with_suffix(".json"), cost, path.name)
    images = sum(cost["images"] for cost in costs)
    nfe = sum(cost["evaluations"] for cost in costs) / images
    return {
        "nfe": int(nfe) if nfe == int(nfe) else nfe,
        "seconds_per_image": sum(cost["seconds"] for cost in costs) / images,
    }


def open_reference(source: str, extract: features.Extractor, settings: Settings) -> features.Reference:
    """A prepared reference, or one computed here. Raises UserError if it was prepared with another extractor."""
    if Path(source).suffix != ".npz":
        return features.compute_reference(source, extract, settings.max_features, settings.batch_size, STAGE)
    reference = features.read_reference(source)
    # Statistics from elsewhere don't say what they were made with; ours do.
    if reference.extractor and (reference.extractor, reference.weights_sha256) != (
        extract.name,
        extract.weights_sha256,
    ):
        raise UserError(
            f"{source}: features of {reference.extractor} or other weights, not of {extract.name} as given; prepare it again"
        )
    return reference


def run(files, settings: Settings) -> None:
    """Write one JSON file of distances, costs and provenance."""
    samples = find_samples(files)
    if files.output is None and files.dir is None:
        raise UserError("--output: missing; say which file to write")
    output = can_write(files.output or Path(files.dir) / "metrics.json")
    if Path(files.ref).suffix != ".npz":
        list_images(files.ref)  # a missing or empty folder shows before any weights are loaded
    device = devices.device(settings.device)
    cost = total_cost(samples)
    score, scored_by = prompt_score(samples, settings, device)
    extract = features.extractor(settings.features, settings.features_weights, device)
    reference = open_reference(files.ref, extract, settings)
    vectors, made = sample_features(samples, extract, settings.batch_size)
    smallest = min(len(vectors), len(reference.features) if reference.features is not None else len(vectors))
    if smallest <= settings.neighbours:
        raise UserError(
            f"neighbours: {settings.neighbours} needs more than the {smallest} images there are; sample more"
        )
    if vectors.shape[1] != len(reference.mu):
        raise UserError(
            f"{files.ref}: features of width {len(reference.mu)}, but {extract.name} gives {vectors.shape[1]}; prepare it again"
        )
    chosen = config.what(STAGE, dataclasses.asdict(settings))
    measured_by = scored_by | ({"reference": sha256(files.ref)} if Path(files.ref).suffix == ".npz" else {})
    record = {
        **features.compare(vectors, reference, settings.neighbours),
        **score,
        **cost,
        "num_samples": len(vectors),
        "features": extract.name,
        "reference": {"source": reference.source, "images": reference.n},
        "provenance": provenance(
            STAGE, chosen, devices.describe(device), samples=made, weights=extract.weights_sha256, **measured_by
        ),
    }
    with writing(output) as aside:
        aside.write_bytes(sealed_json(record))
