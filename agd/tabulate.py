"""Stage `tabulate`: gather one model's main comparison over its seeds, as fid.json and pictures.

Uses the other stages' measurements, and measures nothing itself.
"""

import dataclasses
import statistics
from pathlib import Path

import pandas

from agd.adapters import saving
from agd.artifacts.files import make_folder, writing
from agd.artifacts.images import read_images, write_grid
from agd.artifacts.provenance import provenance
from agd.artifacts.sealed_json import check_files, checksums, read_json, read_sealed, write_sealed
from agd.runtime.errors import UserError
from agd.settings.entry_points import entry_point

STAGE = "tabulate"
_MEASURED = ("fid", "kid", "precision", "recall", "nfe", "seconds_per_image")
_SHARED = ("num_samples", "features", "reference")
_SOMETIMES = ("clip_score",)  # measured only if a CLIP model is set


@dataclasses.dataclass(frozen=True)
class Settings:
    """This stage has no settings."""


def method_of(made: dict, adapter: str) -> str:
    """Return the method of samples with this provenance: `none`, `cfg`, or the compared adapter's name."""
    return adapter if made["guidance"] == "adapter" else made["guidance"]


def gather(model: str, measured: list[dict], name: str, adapter: dict) -> dict:
    """Return the record of fid.json from the metrics of every method and seed. name, adapter: name and configuration.

    Raises UserError if the metrics were calculated with different settings.
    """
    for key in _SHARED:
        if any(metrics[key] != measured[0][key] for metrics in measured):
            raise UserError(f"{key}: differs between the metrics to compare; calculate them again with equal settings")
    methods: dict[str, dict[str, dict]] = {}
    for metrics in measured:
        made = metrics["provenance"]["samples"]
        methods.setdefault(method_of(made, name), {})[str(made["seed"])] = metrics
    rows = {method: _summary(per_seed) for method, per_seed in methods.items()}
    chosen = next(iter(methods[name].values()))["provenance"]["samples"]["settings"]
    return {
        "model": model,
        "guidance_scale": chosen["guidance_scale"],
        "num_inference_steps": chosen["num_inference_steps"],
        **{key: measured[0][key] for key in _SHARED},
        "seeds": [int(seed) for seed in methods[name]],
        "adapter": adapter["size"],
        "methods": rows,
        "speedup_over_cfg": rows["cfg"]["seconds_per_image"] / rows[name]["seconds_per_image"],
        "provenance": provenance(STAGE, {}, "cpu", adapter=adapter["provenance"]),
    }


def _summary(per_seed: dict[str, dict]) -> dict:
    """Return the means over the seeds, and each seed's values."""
    keys = [*_MEASURED, *(key for key in _SOMETIMES if all(key in metrics for metrics in per_seed.values()))]
    own = {seed: {key: metrics[key] for key in keys} for seed, metrics in per_seed.items()}
    return {**{key: _mean([figures[key] for figures in own.values()]) for key in keys}, "per_seed": own}


def _mean(values: list) -> float | None:
    return None if None in values else statistics.fmean(values) if len(set(values)) > 1 else values[0]


def table(record: dict, name: str) -> str:
    """Return the comparison as a few lines of text. name: the adapter's name."""
    distance = "FID" if record["features"] == "inception-v3" else f"Fréchet distance ({record['features']})"
    head = f"{record['model']}: {record['num_samples']} images, w = {record['guidance_scale']}, {record['num_inference_steps']} steps, "
    head += f"seeds {', '.join(map(str, record['seeds']))}; distance is the {distance}"
    scored = any("clip_score" in row for row in record["methods"].values())
    lines = [head, f"{'method':8}{'distance':>10}{'KID':>10}{'precision':>11}{'recall':>8}{'NFE':>6}{'ms/image':>10}"]
    lines[1] += f"{'CLIP':>8}" if scored else ""
    for method, row in record["methods"].items():
        cells = [
            _cell(row["fid"], 10, 2),
            _cell(row["kid"], 10, 4),
            _cell(row["precision"], 11, 3),
            _cell(row["recall"], 8, 3),
        ]
        lines.append(f"{method:8}{''.join(cells)}{row['nfe']:>6g}{1000 * row['seconds_per_image']:>10.2f}")
        lines[-1] += _cell(row.get("clip_score"), 8, 2) if scored else ""
    adapter, rows = record["adapter"], record["methods"]
    # No ratio of times: jobs ran at different times, on a machine that others may have used.
    lines.append(
        f"{name}: {rows[name]['nfe']:g} evaluations per image, cfg {rows['cfg']['nfe']:g}; {adapter['parameters']} parameters "
        f"({100 * adapter['fraction_of_base']:.1f} % of the base)"
    )
    return "\n".join(lines)


def _cell(value: float | None, width: int, digits: int) -> str:
    return f"{'-' if value is None else format(value, f'.{digits}f'):>{width}}"


def draw_samples(path: Path, samples: list[Path], columns: int, name: str) -> None:
    """Draw a row per method. Each column has one class or prompt and one starting noise. name: the adapter's name."""
    rows, labels = [], []
    for file in samples:
        images, manifest = read_images(file)
        rows.append(list(images.values())[:columns])
        labels.append(method_of(manifest["provenance"], name))
    write_grid(path, rows, labels)


def draw_training(path: Path, tables: list[Path]) -> None:
    """Plot loss against step, a line per seed, and the unadapted model's loss for comparison."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 4), layout="constrained")
    top = 0.0
    for file in tables:
        description = saving.read_description(file.parent)
        check_files(file.with_name(saving.CONFIG), description, file.name)
        seed = description["provenance"]["seed"]
        rows = pandas.read_csv(file)
        (line,) = axes.plot(rows.step, rows.loss, label=f"adapter, seed {seed}")
        axes.axhline(rows.base_loss[0], color=line.get_color(), linestyle="--", label=f"unadapted model, seed {seed}")
        top = max(top, rows.base_loss[0], rows.loss.max())
    axes.set(xlabel="training step", ylabel="mean squared error to the guided output", ylim=(0, 1.08 * top))
    figure.legend(fontsize="small", loc="outside right upper")
    with writing(path) as aside:
        figure.savefig(aside, format="png", dpi=150)
    pyplot.close(figure)


def read_metrics(path: str) -> dict:
    """Read a file of `calculate_metrics`. Raises UserError, naming the file, if it is something else."""
    if not {*_MEASURED, *_SHARED, "provenance"} <= set(read_json(path)):
        raise UserError(f"{path}: not a file of metrics; give what calculate_metrics wrote")
    return read_sealed(path)


def check_one_base(paths: list[str], measured: list[dict], adapter: dict) -> None:
    """Raise UserError, naming the metrics file, if its samples are of another base model than the adapter's."""
    for path, metrics in zip(paths, measured, strict=True):
        if metrics["provenance"]["samples"]["base"]["fingerprint"] != adapter["provenance"]["base"]["fingerprint"]:
            raise UserError(
                f"{path}: measures samples of another base model than the adapter's; delete it and calculate it again"
            )


def run(files, settings: Settings) -> None:
    """Write fid.json, fid.txt (the same as a small table, also printed), samples.png and training.png."""
    if files.columns < 1:
        raise UserError(f"--columns: {files.columns} must be 1 or more")
    measured = [read_metrics(path) for path in files.metrics]
    adapter = saving.read_description(files.adapter)
    check_one_base(files.metrics, measured, adapter)
    name = Path(files.adapter).resolve().name
    record = gather(files.name, measured, name, adapter)
    folder = make_folder(files.output_dir)
    draw_samples(folder / "samples.png", [Path(path) for path in files.samples], files.columns, name)
    draw_training(folder / "training.png", [Path(path) for path in files.training])
    text = table(record, name)
    with writing(folder / "fid.txt") as aside:
        aside.write_bytes(f"{text}\n".encode())
    write_sealed(
        folder / "fid.json", {**record, "files": checksums(folder, ["fid.txt", "samples.png", "training.png"])}
    )
    print(text)


main = entry_point(STAGE)

if __name__ == "__main__":
    main()
