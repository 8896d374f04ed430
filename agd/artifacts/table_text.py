"""Reads a table's record, and writes it as CSV, Markdown, LaTeX and HTML. Needs no torch."""

import html
import re
from collections.abc import Callable
from pathlib import Path

from agd.artifacts.files import writing
from agd.artifacts.sealed_json import read_json, read_sealed
from agd.runtime.errors import UserError
from agd.settings.columns import COLUMNS, DISTANCES, Column

_TEX = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"[": "{[}", "]": "{]}", "*": "{*}"},  # after a line's end they would be arguments of it
    **{"±": r"$\pm$", "↓": r"$\downarrow$", "↑": r"$\uparrow$", "—": "---"},
}
_ARROWS = {"less": " ↓", "more": " ↑", "": ""}
_STYLE = (
    "body{font-family:sans-serif;margin:2em}table{border-collapse:collapse;font-variant-numeric:tabular-nums}"
    "caption{text-align:left;max-width:60em;margin-bottom:1em}td,th{padding:.3em .8em;text-align:right;border-bottom:1px solid #ccc}"
    "td{white-space:nowrap}"
)


def read_table(path: str | Path) -> dict:
    """Read a table's record. Raises UserError, naming the file, if it is something else."""
    if not {"definition", "rows", "study", "table"} <= set(read_json(path)):
        raise UserError(f"{path}: not the record of a table; give what tabulate_runs wrote")
    return read_sealed(path)


def cell(value: dict, column: Column) -> str:
    """Return mean ± standard deviation, without the latter if there is one seed or all are equal; empty if not measured."""
    mean, spread = value["mean"], value["std"]
    if mean is None:
        return ""
    if not column.form:
        return "yes" if mean == 1 else "no"
    shown = format(mean * column.factor, column.form)
    return f"{shown} ± {format(spread * column.factor, column.form)}" if spread else shown


def keys(rows: list[dict], sampled: bool = True) -> list[str]:
    """Return what the first columns tell rows apart by; what all rows share stands in the caption.

    sampled: whether images were sampled, in some number of steps; fidelity and costs have none.
    """
    scales = {row["w"] for row in rows if row["method"] != "none"}
    several = {
        "model": len({row["model"] for row in rows}) > 1,
        "method": True,
        "w": len(scales) > 1,
        "steps": sampled and len({row["steps"] for row in rows}) > 1,
        "seeds": len({len(row["seeds"]) for row in rows if not row["elsewhere"]}) > 1,
    }
    return [name for name, shown in several.items() if shown]


def key(row: dict, name: str) -> str:
    """Return the text of one of the first columns."""
    if name == "method":
        return f"{row['method']} (elsewhere)" if row["elsewhere"] else row["method"]
    if name == "seeds":
        return "" if row["elsewhere"] else str(len(row["seeds"]))
    return row[name] if isinstance(row[name], str) else "" if row[name] is None else f"{row[name]:g}"


def is_sampled(record: dict) -> bool:
    """Return whether a table has measures of sampled images."""
    return "nfe" in record["rows"][0]["values"]


def is_measured(record: dict, name: str) -> bool:
    """Return whether any row has a value of a measure."""
    return any(row["values"][name]["mean"] is not None for row in record["rows"])


def headings(record: dict) -> list[str]:
    """Return the table's headings; arrows say where less or more is better."""
    columns = [COLUMNS[name] for name in record["definition"]["columns"]]
    return [*keys(record["rows"], is_sampled(record)), *(column.heading + _ARROWS[column.better] for column in columns)]


def cells(record: dict, escape: Callable[[str], str], bold: Callable[[str], str]) -> list[list[str]]:
    """Return the table's texts, a list per row. escape and bold are those of the format."""
    names, lines = record["definition"]["columns"], []
    for row in record["rows"]:
        line = [escape(key(row, name)) for name in keys(record["rows"], is_sampled(record))]
        for name in names:
            text = escape(cell(row["values"][name], COLUMNS[name]))
            line.append(bold(text) if name in row["best"] else text)
        lines.append(line)
    return lines


def caption(record: dict) -> str:
    """Return the caption: title, seeds, what all rows share, how to read the figures, and the stages' versions."""
    rows = [row for row in record["rows"] if not row["elsewhere"]]
    numbers = sorted({len(row["seeds"]) for row in rows})
    many = " or ".join(map(str, numbers))
    said = [f"{record['definition']['title']}."]
    said.append("One seed." if numbers == [1] else f"Mean ± standard deviation over {many} seeds.")
    scales, steps = {row["w"] for row in rows if row["method"] != "none"}, {row["steps"] for row in rows}
    said += [f"w = {scales.pop():g}."] if len(scales) == 1 else []
    said += [f"{steps.pop()} steps."] if len(steps) == 1 and is_sampled(record) else []
    said += by_model(record["shared"], lambda one: f"{one['num_samples']} images of each run and seed")
    if {"fid", "sfid"} & set(record["definition"]["columns"]):
        said += by_model(record["shared"], distance)
    if any(COLUMNS[name].source == "fidelity" for row in rows for name in row["best"]):
        said.append(
            "Bold: the best of a model at equal evaluations, or of fidelity at equal w, and what is within one standard deviation of it."
        )
    elif any(row["best"] for row in rows):
        said.append("Bold: the best of a model at equal evaluations, and what is within one standard deviation of it.")
    empty = [COLUMNS[name].heading for name in record["definition"]["columns"] if not is_measured(record, name)]
    said += [f"Not measured: {', '.join(empty)}."] if empty else []
    versions = ", ".join(f"{stage} {version}" for stage, version in sorted(record["versions"].items()))
    return " ".join([*said, f"Stage versions: {versions}."])


def by_model(shared: dict[str, dict], say: Callable[[dict], str]) -> list[str]:
    """Return a sentence about what models share; where they differ, one for each of the groups, which names its models."""
    found: dict[str, list[str]] = {}
    for model, one in shared.items():
        found.setdefault(say(one), []).append(model)
    if len(found) == 1:
        return [f"{next(iter(found))}."]
    return [f"{words} ({', '.join(models)})." for words, models in found.items()]


def distance(shared: dict) -> str:
    """Return words about the distance: only that of Inception's features is FID in the literature's sense."""
    assumed = ", of a reference whose extractor is assumed" if "extractor" in shared["reference"] else ""
    name = DISTANCES.get(shared["features"], f"the Fréchet distance of {shared['features']}")
    return f"The distance is {name}{assumed}"


def escape_tex(text: str) -> str:
    """Return text as LaTeX shows it."""
    return "".join(_TEX.get(sign, sign) for sign in " ".join(text.split()))


def escape_markdown(text: str) -> str:
    """Return text that Markdown shows as it is, within a line."""
    return re.sub(r"([\\|*_`<\[\]$~&])", r"\\\1", " ".join(text.split()))


def paragraph(text: str) -> str:
    """Return text that Markdown shows as a paragraph, however it begins."""
    return re.sub(
        r"^(\d+)([.)])|^([#>+-])", lambda begin: f"{begin[1] or ''}\\{begin[2] or begin[3]}", escape_markdown(text)
    )


def markdown(record: dict) -> str:
    """Return the table as Markdown, with its caption and its note below."""
    own = len(keys(record["rows"], is_sampled(record)))
    lines = [[escape_markdown(name) for name in headings(record)], ["---"] * own]
    lines[1] += ["---:"] * len(record["definition"]["columns"])
    lines += cells(record, escape_markdown, lambda text: f"**{text}**")
    below = [caption(record), *([record["definition"]["note"]] if "note" in record["definition"] else [])]
    return "\n".join([*(f"| {' | '.join(line)} |" for line in lines), "", "\n\n".join(map(paragraph, below))]) + "\n"


def latex(record: dict) -> str:
    """Return the table as LaTeX (needs the package booktabs)."""
    import pandas

    frame = pandas.DataFrame(
        cells(record, escape_tex, lambda text: rf"\textbf{{{text}}}"),
        columns=[escape_tex(name) for name in headings(record)],
    )
    own = len(keys(record["rows"], is_sampled(record)))
    # In one paragraph: LaTeX takes no other in a caption.
    below = " ".join([caption(record), *record["definition"].get("note", "").split()])
    places = {"column_format": "l" * own + "r" * (len(frame.columns) - own), "position": "ht"}
    label = f"tab:{record['study']}-{record['table']}"
    return frame.to_latex(index=False, escape=False, caption=escape_tex(below), label=label, **places)


def webpage(record: dict) -> str:
    """Return the table as a page of HTML, for Snakemake's report."""
    import pandas

    frame = pandas.DataFrame(
        cells(record, html.escape, lambda text: f"<b>{text}</b>"), columns=list(map(html.escape, headings(record)))
    )
    text = frame.to_html(index=False, escape=False, border=0)
    below = html.escape(" ".join([caption(record), record["definition"].get("note", "")]).strip())
    text = text.replace("<thead>", f"<caption>{below}</caption>\n  <thead>", 1)
    return f'<!DOCTYPE html>\n<meta charset="utf-8">\n<style>{_STYLE}</style>\n{text}\n'


def values(record: dict) -> str:
    """Return all values as CSV, in the units of the score files: mean, standard deviation and number of seeds."""
    import pandas

    lines = []
    for row in record["rows"]:
        line = {name: row[name] for name in ("model", "method", "w", "steps")}
        line |= {"seeds": len(row["seeds"]), "elsewhere": row["elsewhere"]}
        for name, value in row["values"].items():
            line |= {name: value["mean"], f"{name}_std": value["std"]}
        lines.append(line)
    # As objects, for an empty cell would make a column's integers 2.0.
    return pandas.DataFrame(lines, dtype=object).to_csv(index=False, lineterminator="\n")


FORMATS = {"csv": values, "md": markdown, "tex": latex, "html": webpage}


def write(folder: Path, record: dict) -> list[str]:
    """Write the table in each format. Returns the files' names."""
    for suffix, text in FORMATS.items():
        with writing(folder / f"{record['table']}.{suffix}") as aside:
            aside.write_bytes(text(record).encode())
    return [f"{record['table']}.{suffix}" for suffix in FORMATS]
