"""Stage `tabulate_runs`: gather the scores of a table's runs, and write them as CSV, Markdown, LaTeX and HTML.

Of each measure, it gives the mean and the sample standard deviation over the seeds. It reads small files of scores, measures
nothing itself, and needs no torch.
"""

import dataclasses
import statistics

from agd.artifacts import table_text
from agd.artifacts.files import make_folder
from agd.artifacts.metrics import mean
from agd.artifacts.provenance import provenance
from agd.artifacts.scores import Scores, read_elsewhere
from agd.artifacts.sealed_json import checksums, write_sealed
from agd.settings import tables
from agd.settings.columns import COLUMNS
from agd.settings.entry_points import entry_point

STAGE = "tabulate_runs"


@dataclasses.dataclass(frozen=True)
class Settings:
    """This stage has no settings."""


def summary(per_seed: dict[str, float | None]) -> dict:
    """Return the mean, the sample standard deviation (None for one seed) and each seed's value. A missing one leaves both None."""
    values = list(per_seed.values())
    known = None not in values
    spread = statistics.stdev(values) if known and len(values) > 1 else None
    return {"mean": mean(values), "std": spread, "per_seed": per_seed}


def gather(complete: dict, scores: Scores) -> list[dict]:
    """Return the table's rows: our runs, in the definition's order, then those from elsewhere."""
    rows = []
    for run in tables.runs(complete):
        read = {str(seed): scores.read(run, seed) for seed in run.seeds}
        own = {name: summary({seed: values[name] for seed, (values, _) in read.items()}) for name in scores.measures}
        row = {"model": run.model, "method": run.method, "w": float(run.scale), "steps": run.steps}
        rows.append({**row, "seeds": list(run.seeds), "elsewhere": False, "values": own})
        if all(by_timestep for _, by_timestep in read.values()):
            rows[-1]["by_timestep"] = over_seeds([by_timestep for _, by_timestep in read.values()])
    for row in read_elsewhere(complete["elsewhere"]) if "elsewhere" in complete else ():
        given = {name: {"mean": row.get(name), "std": None, "per_seed": {}} for name in scores.measures}
        own = {name: row[name] for name in ("model", "method", "w", "steps")}
        rows.append({**own, "seeds": [], "elsewhere": True, "values": given})
    return rows


def over_seeds(records: list[dict]) -> dict:
    """Return the timesteps, and for each series the summaries at each of them."""
    series = {name.removeprefix("at_"): [record[name] for record in records] for name in records[0]}
    timesteps = series.pop("timesteps")[0]
    at_each = {
        name: [summary(dict(enumerate(at))) for at in zip(*lines, strict=True)] for name, lines in series.items()
    }
    return {
        "timesteps": timesteps,
        **{name: [{k: one[k] for k in ("mean", "std")} for one in found] for name, found in at_each.items()},
    }


def mark_best(rows: list[dict], columns: list[str]) -> None:
    """Set each row's `best`: the columns in which it is the best, or within one standard deviation of the best.

    Compares rows of one model, none from elsewhere: those with equal evaluations per image, and for fidelity, whose aim is
    another at each w, those with equal w. A row with nothing to compare with is not the best. Columns without a better
    direction have no best.
    """
    for row in rows:
        row["best"] = []
    for name in (name for name in columns if COLUMNS[name].better):
        groups: dict[tuple, list[dict]] = {}
        for row in (row for row in rows if not row["elsewhere"] and row["values"][name]["mean"] is not None):
            counted = row["values"].get("nfe", {"mean": None})
            equal = row["w"] if COLUMNS[name].source == "fidelity" else counted["mean"]
            groups.setdefault((row["model"], equal), []).append(row)
        for group in groups.values():
            if len({(row["method"], row["w"]) for row in group}) > 1:
                for row in _best(group, name):
                    row["best"].append(name)


def _best(rows: list[dict], name: str) -> list[dict]:
    pick = min if COLUMNS[name].better == "less" else max
    best = pick((row["values"][name] for row in rows), key=lambda value: value["mean"])
    return [row for row in rows if abs(row["values"][name]["mean"] - best["mean"]) <= (best["std"] or 0)]


def run(files, settings: Settings) -> None:
    """Write {table}.json and the table in each format; the Markdown is printed too."""
    complete = tables.read_definition(files.definition, "title", "columns", "styles")
    scores = Scores(complete, files.results)
    rows = gather(complete, scores)
    mark_best(rows, complete["columns"])
    folder = make_folder(files.output_dir)
    record = {
        "study": folder.resolve().name,
        "table": files.table,
        "definition": complete,
        "rows": rows,
        "shared": scores.shared,
        "versions": scores.table.versions,
        "provenance": provenance(STAGE, {}, "cpu"),
    }
    made = table_text.write(folder, record)
    write_sealed(folder / f"{files.table}.json", {**record, "files": checksums(folder, made)})
    print(table_text.markdown(record))


main = entry_point(STAGE)

if __name__ == "__main__":
    main()
