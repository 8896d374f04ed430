"""Stage `draw_curve`: distance and recall against evaluations of the denoiser, for none, cfg and one adapter.

An adapter halves the evaluations of each step; so does taking half as many steps. The curve shows which is better, and
where. Uses the other stages' measurements, and measures nothing itself.
"""

import dataclasses
from pathlib import Path

from agd.adapters import saving
from agd.artifacts.figures import figure
from agd.artifacts.files import make_folder
from agd.artifacts.metrics import SHARED, mean, method_of, read_comparable
from agd.artifacts.provenance import provenance
from agd.artifacts.sealed_json import checksums, write_sealed
from agd.settings.entry_points import entry_point

STAGE = "draw_curve"
_SHOWN = ("fid", "kid", "precision", "recall")


@dataclasses.dataclass(frozen=True)
class Settings:
    """This stage has no settings."""


def gather(measured: list[dict], name: str) -> dict[str, list[dict]]:
    """Return method -> points with rising evaluations, each the mean over the seeds and each seed's values."""
    points: dict[str, dict[float, dict[str, dict]]] = {}
    for metrics in measured:
        made = metrics["provenance"]["samples"]
        there = points.setdefault(method_of(made, name), {}).setdefault(metrics["nfe"], {})
        there[str(made["seed"])] = {key: metrics[key] for key in _SHOWN}
    return {
        method: [{"evaluations": number, **_point(per_seed)} for number, per_seed in sorted(at.items())]
        for method, at in points.items()
    }


def _point(per_seed: dict[str, dict]) -> dict:
    return {key: mean([own[key] for own in per_seed.values()]) for key in _SHOWN} | {"per_seed": per_seed}


def draw(path: Path, methods: dict[str, list[dict]], title: str) -> None:
    """Draw a line per method, with a bar over its seeds, in one picture for the distance and one for the recall."""
    with figure(path, columns=2, width=10) as (drawn, axes):
        for axis, key, label in zip(axes, ("fid", "recall"), ("distance (less is better)", "recall"), strict=True):
            for method, points in methods.items():
                shown = [point for point in points if point[key] is not None]
                numbers = [point["evaluations"] for point in shown]
                values = [[own[key] for own in point["per_seed"].values()] for point in shown]
                means = [point[key] for point in shown]
                spread = [
                    [m - min(v) for m, v in zip(means, values, strict=True)],
                    [max(v) - m for m, v in zip(means, values, strict=True)],
                ]
                axis.errorbar(numbers, means, yerr=spread, marker="o", markersize=4, capsize=3, label=method)
            ticks = sorted({point["evaluations"] for points in methods.values() for point in points})
            axis.set(xscale="log", xlabel="evaluations of the denoiser per image", ylabel=label)
            axis.set_xticks(ticks, [f"{number:g}" for number in ticks])
            axis.minorticks_off()
            axis.set_ylim(bottom=0)
        axes[0].legend()
        drawn.suptitle(title, fontsize="medium")


def run(files, settings: Settings) -> None:
    """Write curve.json and curve.png."""
    adapter = saving.read_description(files.adapter)
    name = Path(files.adapter).resolve().name
    measured = read_comparable(files.metrics, adapter)
    methods = gather(measured, name)
    samples = [metrics["provenance"]["samples"] for metrics in measured]
    scale = next(made["settings"]["guidance_scale"] for made in samples if method_of(made, name) == name)
    seeds = sorted({made["seed"] for made in samples})
    folder = make_folder(files.output_dir)
    shared = {key: measured[0][key] for key in SHARED}
    title = f"{files.name}: w = {scale:g}, {shared['num_samples']} images, seeds {', '.join(map(str, seeds))}"
    draw(folder / "curve.png", methods, title)
    record = {
        "model": files.name,
        "guidance_scale": scale,
        **shared,
        "seeds": seeds,
        "methods": methods,
        "provenance": provenance(STAGE, {}, "cpu", adapter=adapter["provenance"]),
    }
    write_sealed(folder / "curve.json", {**record, "files": checksums(folder, ["curve.png"])})


main = entry_point(STAGE)

if __name__ == "__main__":
    main()
