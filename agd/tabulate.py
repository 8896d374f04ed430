"""Stage `tabulate`: one model's main comparison over its seeds, as fid.json, and as pictures.

Gathers what the other stages measured; measures nothing itself.
"""

import argparse
import statistics
import sys
from pathlib import Path

import pandas

from agd.artifacts import writing
from agd.errors import UserError
from agd.images import read_images, write_grid
from agd.provenance import json_bytes, provenance, read_json

STAGE = "tabulate"
_MEASURED = ("fid", "kid", "precision", "recall", "nfe", "seconds_per_image")
_SHARED = ("num_samples", "features", "reference")


def method_of(made: dict) -> str:
    """`none`, `cfg` or `agd`, from the provenance of samples."""
    return "agd" if made["guidance"] == "adapter" else made["guidance"]


def gather(model: str, measured: list[dict], adapter: dict) -> dict:
    """The record of fid.json from metrics of every method and seed, and the adapter's configuration.

    Raises UserError if they were not measured alike.
    """
    for key in _SHARED:
        if any(metrics[key] != measured[0][key] for metrics in measured):
            raise UserError(f"{key}: differs between the metrics to compare; calculate them again with equal settings")
    methods: dict[str, dict[str, dict]] = {}
    for metrics in measured:
        made = metrics["provenance"]["samples"]
        methods.setdefault(method_of(made), {})[str(made["seed"])] = metrics
    rows = {name: _summary(per_seed) for name, per_seed in methods.items()}
    chosen = next(iter(methods["agd"].values()))["provenance"]["samples"]["settings"]
    return {
        "model": model,
        "guidance_scale": chosen["guidance_scale"],
        "num_inference_steps": chosen["num_inference_steps"],
        **{key: measured[0][key] for key in _SHARED},
        "seeds": [int(seed) for seed in methods["agd"]],
        "adapter": adapter["size"],
        "methods": rows,
        "speedup_over_cfg": rows["cfg"]["seconds_per_image"] / rows["agd"]["seconds_per_image"],
        "provenance": provenance(STAGE, {}, "cpu", adapter=adapter["provenance"]),
    }


def _summary(per_seed: dict[str, dict]) -> dict:
    """Means over the seeds, and each seed's own figures."""
    own = {seed: {key: metrics[key] for key in _MEASURED} for seed, metrics in per_seed.items()}
    return {**{key: _mean([figures[key] for figures in own.values()]) for key in _MEASURED}, "per_seed": own}


def _mean(values: list) -> float | None:
    return None if None in values else statistics.fmean(values) if len(set(values)) > 1 else values[0]


def table(record: dict) -> str:
    """The comparison as a few lines of text."""
    distance = "FID" if record["features"] == "inception-v3" else f"Fréchet distance ({record['features']})"
    head = f"{record['model']}: {record['num_samples']} images, w = {record['guidance_scale']}, {record['num_inference_steps']} steps, "
    head += f"seeds {', '.join(map(str, record['seeds']))}; distance is the {distance}"
    lines = [head, f"{'method':8}{'distance':>10}{'KID':>10}{'precision':>11}{'recall':>8}{'NFE':>6}{'ms/image':>10}"]
    for name, row in record["methods"].items():
        cells = [
            _cell(row["fid"], 10, 2),
            _cell(row["kid"], 10, 4),
            _cell(row["precision"], 11, 3),
            _cell(row["recall"], 8, 3),
        ]
        lines.append(f"{name:8}{''.join(cells)}{row['nfe']:>6g}{1000 * row['seconds_per_image']:>10.2f}")
    adapter = record["adapter"]
    lines.append(
        f"agd: {record['speedup_over_cfg']:.2f} x as fast as cfg, {adapter['parameters']} parameters "
        f"({100 * adapter['fraction_of_base']:.1f} % of the base)"
    )
    return "\n".join(lines)


def _cell(value: float | None, width: int, digits: int) -> str:
    return f"{'-' if value is None else format(value, f'.{digits}f'):>{width}}"


def draw_samples(path: Path, samples: list[Path], columns: int) -> None:
    """A row per method; each column has one class or prompt and one starting noise."""
    rows, labels = [], []
    for file in samples:
        images, manifest = read_images(file)
        rows.append(list(images.values())[:columns])
        labels.append(method_of(manifest["provenance"]))
    write_grid(path, rows, labels)


def draw_training(path: Path, tables: list[Path]) -> None:
    """Loss against step, a line per seed, and the loss of the unadapted model as the line to beat."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 4), layout="constrained")
    top = 0.0
    for file in tables:
        seed = read_json(file.with_name("config.json"))["provenance"]["seed"]
        rows = pandas.read_csv(file)
        (line,) = axes.plot(rows.step, rows.loss, label=f"adapter, seed {seed}")
        axes.axhline(rows.base_loss[0], color=line.get_color(), linestyle="--", label=f"unadapted model, seed {seed}")
        top = max(top, rows.base_loss[0], rows.loss.max())
    axes.set(xlabel="training step", ylabel="mean squared error to the guided output", ylim=(0, 1.08 * top))
    figure.legend(fontsize="small", loc="outside right upper")
    with writing(path) as aside:
        figure.savefig(aside, format="png", dpi=150)
    pyplot.close(figure)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m agd.tabulate", description=__doc__.splitlines()[0], allow_abbrev=False)
    add = parser.add_argument
    add("--name", required=True, help="the model's name")
    add("--metrics", nargs="+", required=True, metavar="JSON", help="metrics of every method and seed to compare")
    add("--samples", nargs="+", required=True, metavar="ZIP", help="sample files to show, a row each")
    add("--training", nargs="+", required=True, metavar="CSV", help="training.csv of each seed")
    add("--adapter", required=True, metavar="R", help="folder of the adapter that is compared")
    add("--columns", type=int, default=10, help="images per row")
    add("--output-dir", required=True, help="folder for fid.json, fid.txt, samples.png and training.png")
    return parser


def run(files: argparse.Namespace) -> None:
    """Write fid.json, fid.txt (the same as a small table, also printed), samples.png and training.png."""
    measured = [read_json(Path(path)) for path in files.metrics]
    record = gather(files.name, measured, read_json(Path(files.adapter) / "config.json"))
    folder = Path(files.output_dir)
    draw_samples(folder / "samples.png", [Path(path) for path in files.samples], files.columns)
    draw_training(folder / "training.png", [Path(path) for path in files.training])
    text = table(record)
    for name, data in (("fid.txt", f"{text}\n".encode()), ("fid.json", json_bytes(record))):
        with writing(folder / name) as aside:
            aside.write_bytes(data)
    print(text)


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    try:
        run(_parser().parse_args(argv))
    except UserError as error:
        print(f"agd.tabulate: error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
