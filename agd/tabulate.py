"""Stage `tabulate`: gather one model's main comparison over its seeds, as fid.json and pictures.

Uses the other stages' measurements, and measures nothing itself.
"""

import dataclasses
from pathlib import Path

import pandas

from agd.adapters import saving
from agd.artifacts.comparison_text import FIDELITY, SOMETIMES, table
from agd.artifacts.figures import figure
from agd.artifacts.files import make_folder, writing
from agd.artifacts.images import read_images, write_grid
from agd.artifacts.metrics import MEASURED, SHARED, mean, method_of, read_comparable, timed
from agd.artifacts.provenance import provenance
from agd.artifacts.sealed_json import check_files, checksums, read_json, read_sealed, write_sealed
from agd.runtime.errors import UserError
from agd.settings.entry_points import entry_point
from agd.settings.results import HALF

STAGE = "tabulate"


@dataclasses.dataclass(frozen=True)
class Settings:
    """This stage has no settings."""


def rows_of(samples: list[dict], adapter: str, given: list[str]) -> list[str]:
    """Return the row of each of several samples with these provenances.

    given: names of the rows, each for as many samples as the others; without any, the samples say what they are. Raises
    UserError if samples can't be of the row that they are given for.
    """
    if not given:
        methods = [method_of(made, adapter) for made in samples]
        steps = [made["settings"]["num_inference_steps"] for made in samples]
        whole = steps[methods.index(adapter)]
        return [HALF if (m, n == whole) == ("cfg", False) else m for m, n in zip(methods, steps, strict=True)]
    if len(samples) % len(given):
        raise UserError(f"--rows: {len(given)} names for {len(samples)} files; give one for each method")
    rows = [name for name in given for _ in range(len(samples) // len(given))]
    for row, made in zip(rows, samples, strict=True):
        kind = "cfg" if row == HALF else row
        wanted = {adapter: "adapter", "none": "none", "cfg": "cfg"}.get(kind, made["guidance"])
        if made["guidance"] != wanted:
            raise UserError(f"--rows: {row} is given for samples of --guidance {made['guidance']}; give them in order")
    return rows


def by_row(measured: list[dict], adapter: str, given: list[str]) -> dict[str, dict[str, dict]]:
    """Return row -> seed -> metrics. adapter, given: see `rows_of`."""
    samples, found = [metrics["provenance"]["samples"] for metrics in measured], {}
    for row, metrics, made in zip(rows_of(samples, adapter, given), measured, samples, strict=True):
        found.setdefault(row, {})[str(made["seed"])] = metrics
    return found


def gather(
    model: str,
    measured: list[dict],
    name: str,
    adapter: dict,
    fidelity: list[dict],
    given: list[str] | None = None,
    speed: dict | None = None,
) -> dict:
    """Return the record of fid.json from the metrics of every method and seed. name, adapter: name and configuration.

    fidelity: what measure_fidelity wrote, for each seed. given: see `rows_of`. speed: what measure_speed wrote.
    """
    methods = by_row(measured, name, given or [])
    chosen = next(iter(methods[name].values()))["provenance"]["samples"]["settings"]
    rows = {method: _summary(per_seed) for method, per_seed in methods.items()}
    for method in rows if speed else ():
        if found := timed(speed, method, name):
            rows[method]["speedup_over_cfg"] = found["speedup_over_cfg"]
    return {
        "model": model,
        "guidance_scale": chosen["guidance_scale"],
        "num_inference_steps": chosen["num_inference_steps"],
        **{key: measured[0][key] for key in SHARED},
        "seeds": [int(seed) for seed in methods[name]],
        **({"compared_adapter": name} if given else {}),
        "adapter": adapter["size"],
        "methods": rows,
        "fidelity": summary_of_fidelity(fidelity),
        **(
            {
                "speed": {key: speed[key] for key in ("images", "rounds", "merged")}
                | {"seed": speed["provenance"]["seed"]}
            }
            if speed
            else {}
        ),
        "provenance": provenance(STAGE, {}, "cpu", adapter=adapter["provenance"]),
    }


def _summary(per_seed: dict[str, dict]) -> dict:
    """Return the means over the seeds, each seed's values, and the number of steps."""
    keys = [*MEASURED, *(key for key in SOMETIMES if all(key in metrics for metrics in per_seed.values()))]
    own = {seed: {key: metrics[key] for key in keys} for seed, metrics in per_seed.items()}
    steps = next(iter(per_seed.values()))["provenance"]["samples"]["settings"]["num_inference_steps"]
    means = {key: mean([figures[key] for figures in own.values()]) for key in keys}
    return {**means, "num_inference_steps": steps, "per_seed": own}


def summary_of_fidelity(fidelity: list[dict]) -> dict[str, dict]:
    """Return guidance scale -> means over the seeds of `unexplained`, `captured` and `divergence`, and each seed's."""
    found = {}
    for w in fidelity[0]["by_guidance_scale"] if fidelity else ():
        records = [record["by_guidance_scale"][w] for record in fidelity]
        own = {
            str(record["provenance"]["seed"]): _figures(here) for record, here in zip(fidelity, records, strict=True)
        }
        found[w] = {name: mean([figures[name] for figures in own.values()]) for name in FIDELITY} | {"per_seed": own}
    return found


def _figures(record: dict) -> dict:
    far = {f"divergence of {what}": value for what, value in record["divergence"].items()}
    return {"unexplained": record["unexplained"], "captured": record["captured"], **far}


def draw_samples(path: Path, samples: list[Path], columns: int, name: str, given: list[str]) -> None:
    """Draw a row per method. Each column has one class or prompt and one starting noise. name: the adapter's name."""
    rows, made = [], []
    for file in samples:
        images, manifest = read_images(file)
        rows.append(list(images.values())[:columns])
        made.append(manifest["provenance"])
    write_grid(path, rows, rows_of(made, name, given))


def draw_training(path: Path, tables: list[Path]) -> None:
    """Plot loss against step, a line per seed, and the unadapted model's loss; and fidelity, if trajectories were held out."""
    seeds = {}
    for file in tables:
        description = saving.read_description(file.parent)
        check_files(file.with_name(saving.CONFIG), description, file.name)
        seeds[description["provenance"]["seed"]] = pandas.read_csv(file)
    held_out = all("unexplained" in rows and rows.unexplained.notna().all() for rows in seeds.values())
    with figure(path, columns=1 + held_out, width=9 + 3 * held_out) as (_, (loss, *others)):
        for seed, rows in seeds.items():
            (line,) = loss.plot(rows.step, rows.loss, label=f"adapter, seed {seed}")
            unadapted = dict(color=line.get_color(), linestyle="--", label=f"unadapted model, seed {seed}")
            loss.axhline(rows.base_loss[0], **unadapted)
            for axis in others:
                axis.plot(rows.step, rows.unexplained, color=line.get_color())
        loss.set(xlabel="training step", ylabel="mean squared error to the guided output")
        loss.set_ylim(0, 1.08 * max(max(rows.base_loss[0], rows.loss.max()) for rows in seeds.values()))
        loss.legend(fontsize="small")
        for axis in others:
            axis.set(xlabel="training step", ylabel="unexplained, of trajectories held out", ylim=(0, 1.05))


def draw_fidelity(path: Path, fidelity: list[dict]) -> None:
    """Plot fidelity against w (mean and range of the seeds), and against the timestep (mean of the seeds, a line per w)."""
    with figure(path, columns=3, width=14) as (_, (by_w, far, by_t)):
        found = summary_of_fidelity(fidelity)
        scales = [float(w) for w in found]
        for axis, names in ((by_w, FIDELITY[:2]), (far, FIDELITY[2:])):
            for name in names:
                means = [at[name] for at in found.values()]
                of_seeds = [[own[name] for own in at["per_seed"].values()] for at in found.values()]
                axis.plot(scales, means, marker="o", label=name)
                axis.fill_between(scales, *zip(*((min(v), max(v)) for v in of_seeds), strict=True), alpha=0.2)
            trained = fidelity[0]["guidance_scale_range"]
            if trained and scales[-1] > trained[1]:
                axis.axvspan(trained[1], scales[-1], color="grey", alpha=0.2)
            axis.set(xlabel="guidance scale w", ylim=(0, 1.05))
            axis.legend(fontsize="small")
        for w in found:
            records = [record["by_guidance_scale"][w] for record in fidelity]
            at_each = zip(*(record["unexplained_by_timestep"] for record in records), strict=True)
            by_t.plot(records[0]["timesteps"], [mean(list(values)) for values in at_each], label=f"w = {w}")
        by_t.set(xlabel="timestep (noise on the right)", ylabel="unexplained", ylim=(0, 1.05))
        by_t.legend(fontsize="small")


def read_of_adapter(path: str, what: str, key: str, adapter: dict) -> dict:
    """Read what `measure_{what}` wrote, which has this key. adapter: configuration of the adapter that is compared.

    Raises UserError, naming the file, if it is something else, or of another base model.
    """
    if key not in read_json(path):
        raise UserError(f"{path}: not a file of {what}; give what measure_{what} wrote")
    record = read_sealed(path)
    if record["provenance"]["base"]["fingerprint"] != adapter["provenance"]["base"]["fingerprint"]:
        raise UserError(f"{path}: measures an adapter of another base model; delete it and measure it again")
    measured, given = record["provenance"], adapter["provenance"]
    if measured["seed"] == given["seed"] and measured["adapter"] != given:
        raise UserError(f"{path}: measures another adapter than the one to compare; delete it and measure it again")
    return record


def check_timed(path: str, speed: dict, methods: dict[str, dict[str, dict]]) -> None:
    """Raise UserError, naming the file, if what was timed of a further method is not what its samples were made with.

    methods: row -> seed -> metrics.
    """
    for method, then in speed["provenance"].get("others", {}).items():
        metrics = methods.get(method, {}).get(str(speed["provenance"]["seed"]))
        if metrics is None:
            continue
        made, chosen = metrics["provenance"]["samples"], then.get("settings", {})
        same = all(made["settings"].get(name) == value for name, value in chosen.items())
        if not same or made.get("adapter") != then.get("adapter"):
            raise UserError(
                f"{path}: timed another {method} than its samples were made with; delete it and measure it again"
            )


def run(files, settings: Settings) -> None:
    """Write fid.json, fid.txt (the same as a small table, also printed), and the pictures."""
    if files.columns < 1:
        raise UserError(f"--columns: {files.columns} must be 1 or more")
    adapter = saving.read_description(files.adapter)
    measured = read_comparable(files.metrics, adapter)
    fidelity = [read_of_adapter(path, "fidelity", "by_guidance_scale", adapter) for path in files.fidelity]
    speed = read_of_adapter(files.speed, "speed", "rounds", adapter) if files.speed else None
    name = Path(files.adapter).resolve().name
    if speed:
        check_timed(files.speed, speed, by_row(measured, name, files.rows))
    record = gather(files.name, measured, name, adapter, fidelity, files.rows, speed)
    folder = make_folder(files.output_dir)
    draw_samples(folder / "samples.png", [Path(path) for path in files.samples], files.columns, name, files.rows)
    draw_training(folder / "training.png", [Path(path) for path in files.training])
    pictures = ["samples.png", "training.png"]
    if fidelity:
        draw_fidelity(folder / "fidelity.png", fidelity)
        pictures.append("fidelity.png")
    text = table(record, name)
    with writing(folder / "fid.txt") as aside:
        aside.write_bytes(f"{text}\n".encode())
    made = checksums(folder, ["fid.txt", *pictures])
    write_sealed(folder / "fid.json", {**record, "files": made})
    print(text)


main = entry_point(STAGE)

if __name__ == "__main__":
    main()
