"""Stage `draw_grid`: draw images of a table's runs from the same noise, a row per run and a column per noise."""

import dataclasses
from pathlib import Path

from agd.artifacts.files import make_folder
from agd.artifacts.images import read_images, write_grid
from agd.artifacts.table_text import key, keys
from agd.runtime.errors import UserError
from agd.settings import tables
from agd.settings.entry_points import entry_point

STAGE = "draw_grid"


@dataclasses.dataclass(frozen=True)
class Settings:
    """This stage has no settings."""


def labels(runs: list[tables.Run]) -> list[str]:
    """Return the label of each run: what tells it from the others."""
    rows = [
        {**dataclasses.asdict(run), "w": float(run.scale), "seeds": run.seeds[:1], "elsewhere": False} for run in runs
    ]
    units = {"w": "w = {}", "steps": "{} steps"}
    return [", ".join(units.get(name, "{}").format(key(row, name)) for name in keys(rows)) for row in rows]


def run(files, settings: Settings) -> None:
    """Write {table}-grid.png."""
    complete = tables.read_definition(files.definition)
    if "grid" not in complete:
        raise UserError(f"{files.table}: its table has no grid; add the section grid to it")
    columns, rows, names = complete["grid"]["columns"], [], {}
    for one, place in zip(tables.runs(complete), tables.shown_samples(complete), strict=True):
        path = Path(files.results) / place
        images, manifest = read_images(path)
        shown = list(images)[:columns]
        if names.setdefault(one.model, (shown, manifest["subjects"])) != (shown, manifest["subjects"]):
            raise UserError(
                f"{path}: shows other prompts or classes than the first run of {one.model}; sample it again"
            )
        rows.append([images[name] for name in shown])
    write_grid(make_folder(files.output_dir) / f"{files.table}-grid.png", rows, labels(tables.runs(complete)))


main = entry_point(STAGE)

if __name__ == "__main__":
    main()
