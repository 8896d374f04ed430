"""Stage `calculate_metrics`: measure the distance of samples from real images, and their cost."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from agd.artifacts.files import can_write, sha256
from agd.artifacts.images import list_images, read_images
from agd.artifacts.provenance import model_fingerprint, provenance
from agd.artifacts.sealed_json import absent, check_files, is_recorded, read_sealed, write_sealed
from agd.artifacts.trajectories import SUFFIX
from agd.measures import extractors, references
from agd.measures.clip import clip_score
from agd.runtime import devices
from agd.runtime.errors import UserError
from agd.runtime.progress import progress_bar
from agd.settings import configuration
from agd.settings.entry_points import entry_point

STAGE = "calculate_metrics"


@dataclasses.dataclass(frozen=True)
class Settings:
    """config/schema.yaml describes each field."""

    features: str
    features_weights: str
    image_size: int
    max_features: int
    assume_extractor: bool
    neighbours: int
    clip_model: str | None
    batch_size: int
    device: str


def find_samples(files) -> list[Path]:
    """Return the sample files to compare, sorted. Raises UserError if there are none."""
    if files.samples:
        return sorted(map(Path, files.samples))
    if files.dir is None:
        raise UserError("--dir: missing; give the folder of an adapter with samples, or --samples")
    folder = Path(files.dir) / "samples"
    recorded = {path.with_suffix(".zip") for path in folder.glob("*.json") if is_recorded(path.with_suffix(".zip"))}
    found = sorted(path for path in {*folder.glob("*.zip"), *recorded} if not path.name.endswith(SUFFIX))
    if missing := [path for path in found if not path.is_file()]:
        raise absent(missing[0], more=len(missing) - 1)
    if not found:
        raise UserError(f"{files.dir}/samples: holds no samples (*.zip); run sample --dir {files.dir} first")
    return found


def _comparable(made: dict) -> dict:
    """Return what must be equal in samples of one comparison. Commit, packages and device may differ between chunks."""
    adapter = {k: made.get("adapter", {}).get(k) for k in ("settings", "seed", "stage_version")}
    shared = {k: made.get(k) for k in ("guidance", "seed", "settings", "stage_version", "subjects", "follows")}
    return {**shared, "base": made["base"]["fingerprint"], "adapter": adapter}


def sample_features(paths: list[Path], extract: extractors.Extractor, batch_size: int) -> tuple[np.ndarray, dict]:
    """Return features (n, D) of all images in these sample files, and the samples' provenance.

    Raises UserError if the files don't belong together.
    """
    parts, made, seen = [], None, {}
    with progress_bar(paths, STAGE) as bar:
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
    """Yield every image of these sample files with its prompt. Raises UserError if they were not made from prompts."""
    with progress_bar(paths, "clip_score") as bar:
        for path in bar:
            images, manifest = read_images(path)
            for name, image in images.items():
                prompt = manifest.get("subjects", {}).get(Path(name).stem)
                if not isinstance(prompt, str):
                    raise UserError(f"clip_model: the samples in {path} have classes, not prompts; leave it empty")
                yield image, prompt


def prompt_score(paths: list[Path], settings: Settings, device) -> tuple[dict, dict]:
    """Return the CLIP score and its model's fingerprint, or two empty dicts if no model is set."""
    if not settings.clip_model:
        return {}, {}
    score = clip_score(with_prompts(paths), settings.clip_model, device, settings.batch_size)
    return {"clip_score": score}, {"clip_model": model_fingerprint(Path(settings.clip_model))}


def total_cost(paths: list[Path]) -> dict[str, float]:
    """Return nfe (counted evaluations of the denoiser per image) and seconds per image, over all files.

    Raises UserError, naming the file, if a cost does not belong to the images beside it.
    """
    costs = [read_sealed(path.with_suffix(".json")) for path in paths]
    for path, cost in zip(paths, costs, strict=True):
        check_files(path.with_suffix(".json"), cost, path.name)
    images = sum(cost["images"] for cost in costs)
    nfe = sum(cost["evaluations"] for cost in costs) / images
    return {
        "nfe": int(nfe) if nfe == int(nfe) else nfe,
        "seconds_per_image": sum(cost["seconds"] for cost in costs) / images,
    }


def open_reference(source: str, extract: extractors.Extractor, settings: Settings) -> references.Reference:
    """Read a prepared reference, or compute one. Raises UserError if it was prepared with another extractor."""
    if Path(source).suffix != ".npz":
        return references.compute_reference(source, extract, settings.max_features, settings.batch_size, STAGE)
    reference = references.read_reference(source)
    references.check_extractor(reference, source, extract.name, extract.image_size, settings.assume_extractor)
    if reference.extractor and reference.weights_sha256 != extract.weights_sha256:
        raise UserError(f"{source}: of {extract.name} with other weights than the given ones; prepare it again")
    own = (extract, settings.max_features, settings.batch_size, STAGE)
    return references.with_features(reference, source, *own)


def run(files, settings: Settings) -> None:
    """Write one JSON file of distances, costs and provenance."""
    samples = find_samples(files)
    if files.output is None and files.dir is None:
        raise UserError("--output: missing; say which file to write")
    output = can_write(files.output or Path(files.dir) / "metrics.json")
    if Path(files.ref).suffix != ".npz":
        list_images(files.ref)  # report a missing or empty folder before loading weights
    device = devices.device(settings.device)
    cost = total_cost(samples)
    score, scored_by = prompt_score(samples, settings, device)
    extract = extractors.extractor(settings.features, settings.features_weights, device, settings.image_size)
    reference = open_reference(files.ref, extract, settings)
    vectors, made = sample_features(samples, extract, settings.batch_size)
    smallest = min(len(vectors), len(reference.features) if reference.features is not None else len(vectors))
    if smallest <= settings.neighbours:
        raise UserError(
            f"neighbours: {settings.neighbours} needs more than the {smallest} images there are; sample more"
        )
    width = vectors.shape[1] - extract.spatial
    if width != len(reference.mu):
        raise UserError(
            f"{files.ref}: features of width {len(reference.mu)}, but {extract.name} gives {width}; prepare it again"
        )
    chosen = configuration.recorded(STAGE, settings)
    measured_by = scored_by | ({"reference": sha256(files.ref)} if Path(files.ref).suffix == ".npz" else {})
    record = {
        **references.compare(vectors, reference, settings.neighbours, extract),
        **score,
        **cost,
        "num_samples": len(vectors),
        "features": extract.name,
        "reference": {"source": reference.source, "images": reference.n}
        | ({} if reference.extractor else {"extractor": "assumed"}),
        "provenance": provenance(
            STAGE, chosen, devices.describe(device), samples=made, weights=extract.weights_sha256, **measured_by
        ),
    }
    write_sealed(output, record)


main = entry_point(STAGE)

if __name__ == "__main__":
    main()
