"""Stage `draw_runs`: draw the figure of a table, from the table's record alone, as SVG and PNG.

A line per method, with a band of one standard deviation over the seeds; a row of panels per model, and a panel per measure.
"""

import dataclasses
from pathlib import Path

from agd.artifacts.figures import panels, style
from agd.artifacts.files import make_folder
from agd.artifacts.table_text import distance, read_table
from agd.runtime.errors import UserError
from agd.settings.columns import COLUMNS
from agd.settings.entry_points import entry_point
from agd.settings.tables import axis_label

STAGE = "draw_runs"
_BETTER = {"less": " (less is better)", "more": " (more is better)", "": ""}


@dataclasses.dataclass(frozen=True)
class Settings:
    """This stage has no settings."""


@dataclasses.dataclass
class Line:
    """A line of a panel: where it is, its means and standard deviations (0 for one seed)."""

    label: str
    style: dict
    x: list[float]
    means: list[float]
    spreads: list[float]


def panel_rows(record: dict) -> dict[str, list[dict]]:
    """Return title -> rows of the table to draw in one row of panels: a model's, and with x: timestep one w's."""
    by_timestep = record["definition"]["figure"]["x"] == "timestep"
    rows = [row for row in record["rows"] if not by_timestep or "by_timestep" in row]
    if by_timestep:  # runs that differ only in their steps are measured once
        rows = list({(row["model"], row["method"], row["w"]): row for row in rows}.values())
    several = len({row["model"] for row in rows}) > 1
    found: dict[str, list[dict]] = {}
    for row in rows:
        words = [row["model"]] if several or not by_timestep else []
        words += [f"w = {row['w']:g}"] if by_timestep else []
        found.setdefault(", ".join(words), []).append(row)
    return found


def x_of(row: dict, name: str) -> float | None:
    """Return where a row stands on the x axis; None if that is not known."""
    return row[name] if name in ("w", "steps") else row["values"][name]["mean"]


def lines(record: dict, rows: list[dict], y: str) -> list[Line]:
    """Return the lines of one panel, in the order of the table's methods."""
    x = record["definition"]["figure"]["x"]
    if x == "timestep":
        return [_by_timestep(record, row, y) for row in rows]
    groups: dict[str, list[dict]] = {}
    for row in rows:
        if x_of(row, x) is not None and row["values"][y]["mean"] is not None:
            groups.setdefault(_label(row, rows, x), []).append(row)
    found = []
    for label, group in groups.items():
        group = sorted(group, key=lambda row: x_of(row, x))
        values = [row["values"][y] for row in group]
        where = [x_of(row, x) for row in group]
        found.append(
            Line(label, _style(record, group[0]), where, [v["mean"] for v in values], [v["std"] or 0 for v in values])
        )
    return found


def _by_timestep(record: dict, row: dict, y: str) -> Line:
    at, series = row["by_timestep"]["timesteps"], row["by_timestep"][y]
    means, spreads = [value["mean"] for value in series], [value["std"] or 0 for value in series]
    return Line(row["method"], {**_style(record, row), "marker": ""}, at, means, spreads)


def _label(row: dict, rows: list[dict], x: str) -> str:
    """Return the name of a row's line: its method, and what else tells lines apart."""
    if row["elsewhere"]:
        return f"{row['method']} (elsewhere)"
    own = [other for other in rows if other["method"] == row["method"] and not other["elsewhere"]]
    words = [row["method"]]
    if x != "w" and len({other["w"] for other in own}) > 1:
        words.append(f"w = {row['w']:g}")
    if x in ("w", "parameters") and len({other["steps"] for other in own}) > 1:
        words.append(f"{row['steps']} steps")
    return ", ".join(words)


def _style(record: dict, row: dict) -> dict:
    if row["elsewhere"]:
        return {"color": "grey", "marker": "x", "linestyle": ""}
    return style(record["definition"]["styles"][row["method"]])


def draw_lines(axis, drawn: list[Line]) -> None:
    """Draw lines with their bands; a single point has an error bar. Lines of one method differ in how much is filled."""
    used: dict[str, int] = {}
    for line in drawn:
        colour = line.style["color"]
        number = used[colour + line.style["marker"]] = used.get(colour + line.style["marker"], -1) + 1
        face = ("none", colour)[number % 2 == 0]
        axis.plot(
            line.x,
            line.means,
            label=plain(line.label),
            markersize=4,
            markerfacecolor=face,
            alpha=max(0.4, 1 - 0.2 * number),
            **line.style,
        )
        if len(line.x) > 1:
            lower = [m - s for m, s in zip(line.means, line.spreads, strict=True)]
            upper = [m + s for m, s in zip(line.means, line.spreads, strict=True)]
            axis.fill_between(line.x, lower, upper, color=colour, alpha=0.15, linewidth=0)
        elif any(line.spreads):
            axis.errorbar(line.x, line.means, yerr=line.spreads, color=colour, capsize=3, linestyle="")


def set_ticks(axis, at: list[float]) -> None:
    """Make the x axis logarithmic, with ticks at values that are there and not too near each other."""
    ticks: list[float] = []
    for value in sorted(set(at)):
        if not ticks or value >= 1.2 * ticks[-1]:
            ticks.append(value)
    axis.set_xscale("log")
    axis.set_xticks(ticks, [f"{value:g}" for value in ticks])
    axis.minorticks_off()


def draw(folder: Path, record: dict) -> None:
    """Draw the figure as {table}.svg and {table}.png."""
    shown, rows = record["definition"]["figure"], panel_rows(record)
    names, x = shown["y"], shown["x"]
    paths = [folder / f"{record['table']}{suffix}" for suffix in (".svg", ".png")]
    width, height = 1 + 4.5 * len(names), 1.3 + 3.4 * len(rows)
    with panels(paths, len(rows), len(names), width, height) as (drawn, axes):
        labelled = {}
        for (title, own), line_of_axes in zip(rows.items(), axes, strict=True):
            for name, axis in zip(names, line_of_axes, strict=True):
                found = lines(record, own, name)
                if not found:
                    table = f"{record['study']}/{record['table']}"
                    raise UserError(
                        f"tables.{table}.figure: no run of {title} has both {x} and {name}; choose other measures"
                    )
                draw_lines(axis, found)
                at = [value for line in found for value in line.x]
                if x in ("nfe", "steps", "parameters") and at and min(at) > 0:
                    set_ticks(axis, at)
                axis.set(
                    xlabel=axis_label(x),
                    ylabel=COLUMNS[name].heading + _BETTER[COLUMNS[name].better],
                    title=plain(title),
                )
                axis.grid(alpha=0.25)
                labelled |= {label: handle for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
        drawn.legend(
            labelled.values(),
            labelled,
            loc="outside lower center",
            ncols=min(len(labelled), 2 * len(names)),
            fontsize="small",
        )
        drawn.suptitle(title_of(record), fontsize="medium")


def plain(text: str) -> str:
    """Return text that matplotlib draws as it is: a dollar sign would begin a formula."""
    return text.replace("$", r"\$")


def title_of(record: dict) -> str:
    """Return the figure's title: the table's, and what the bands and the distance are."""
    numbers = sorted({len(row["seeds"]) for row in record["rows"] if not row["elsewhere"]})
    several = (
        f"; bands: standard deviation over {' or '.join(map(str, numbers))} seeds" if numbers != [1] else "; one seed"
    )
    kinds = {distance(one) for one in record["shared"].values()}
    named = f"\n{' '.join(sorted(kinds))}" if {"fid", "sfid"} & set(record["definition"]["figure"]["y"]) else ""
    return plain(f"{record['definition']['title']}{several}{named}")


def run(files, settings: Settings) -> None:
    """Write {table}.svg and {table}.png."""
    record = read_table(files.table)
    if "figure" not in record["definition"]:
        raise UserError(f"{files.table}: its table has no figure; add the section figure to it")
    if not panel_rows(record):
        raise UserError(f"{files.table}: has nothing at each timestep; add methods whose fidelity is measured")
    draw(make_folder(files.output_dir), record)


main = entry_point(STAGE)

if __name__ == "__main__":
    main()
