"""Stage `index_tables`: put a study's tables in order on one page, each with a sentence that its numbers say.

The sentence counts: at equal evaluations, or at equal w, how often one method is better than each other by more than one
standard deviation (the larger of the two).
"""

import dataclasses

from agd.artifacts.files import make_folder, writing
from agd.artifacts.provenance import provenance
from agd.artifacts.sealed_json import checksums, write_sealed
from agd.artifacts.table_text import FORMATS, escape_markdown, markdown, read_table
from agd.settings.columns import COLUMNS
from agd.settings.entry_points import entry_point

STAGE = "index_tables"
_MORE = 8 / 7


@dataclasses.dataclass(frozen=True)
class Settings:
    """This stage has no settings."""


def pairs(rows: list[dict], of: str, at: str, measure: str) -> dict[str, list[tuple[dict, dict]]]:
    """Return method -> the pairs of a row of the method `of` and one of that method, equal at `at`. Only our own rows, and
    those with the measure."""
    found: dict[str, list[tuple[dict, dict]]] = {}
    ours = [row for row in rows if not row["elsewhere"]]
    ours = [row for row in ours if row["values"][measure]["mean"] is not None]
    for method in dict.fromkeys(row["method"] for row in ours if row["method"] != of):
        for row in (row for row in ours if row["method"] == of):
            others = [one for one in ours if (one["model"], one["method"]) == (row["model"], method)]
            scales = {one["w"] for one in ours if (one["model"], one["method"]) == (row["model"], of)}
            others = _equal_evaluations(row, others, len(scales)) if at == "nfe" else _equal_steps(row, others)
            found.setdefault(method, []).extend((row, other) for other in others)
    return {method: those for method, those in found.items() if those}


def _equal_steps(row: dict, others: list[dict]) -> list[dict]:
    return [one for one in others if (one["w"], one["steps"]) == (row["w"], row["steps"])]


def _equal_evaluations(row: dict, others: list[dict], scales_of_row: int) -> list[dict]:
    """Return the runs of another method with as many evaluations, or the fewest up to a seventh more: guidance at some of the
    steps can't have every number. They have the same w, or each its own, if both methods are given at one w alone."""
    nfe, scales = row["values"]["nfe"]["mean"], {one["w"] for one in others}
    near = [one for one in others if nfe <= one["values"]["nfe"]["mean"] <= _MORE * nfe]
    near = [one for one in near if one["w"] == row["w"] or one["method"] == "none" or len(scales) == scales_of_row == 1]
    fewest = min((one["values"]["nfe"]["mean"] for one in near), default=None)
    return [one for one in near if one["values"]["nfe"]["mean"] == fewest]


def difference(row: dict, other: dict, measure: str) -> int:
    """Return 1 if a row is better than another by more than one standard deviation, -1 if worse, 0 if neither."""
    ours, theirs = row["values"][measure], other["values"][measure]
    if ours["mean"] is None or theirs["mean"] is None:
        return 0
    gain = ours["mean"] - theirs["mean"] if COLUMNS[measure].better == "more" else theirs["mean"] - ours["mean"]
    return 0 if abs(gain) <= max(ours["std"] or 0, theirs["std"] or 0) else 1 if gain > 0 else -1


def sentence(record: dict) -> str:
    """Return what the table's numbers say, as its `compare` asks; empty without one."""
    if "compare" not in record["definition"]:
        return ""
    measure, of, at = (record["definition"]["compare"][name] for name in ("measure", "of", "at"))
    named = {"nfe": "equal evaluations (of others up to a seventh more)", "w": "equal w and steps"}[at]
    compared = pairs(record["rows"], of, at, measure)
    if not compared:
        return f"No other method has runs at {named} with {of}."
    words = {"less": ("smaller", "larger"), "more": ("larger", "smaller")}[COLUMNS[measure].better]
    article = "an" if measure == "inception_score" else "a"
    parts = []
    for method, those in compared.items():
        signs = [difference(row, other, measure) for row, other in those]
        comparisons = "" if parts else " comparisons"
        parts.append(
            f"than {method} in {signs.count(1)} of {len(signs)}{comparisons} ({words[1]} in {signs.count(-1)})"
        )
    several = any(len(row["seeds"]) > 1 for row in record["rows"])
    counted = "differences of more than one standard deviation" if several else "every difference (one seed)"
    return (
        f"At {named}, {of} has {article} {words[0]} {COLUMNS[measure].heading} {', '.join(parts)}, counting {counted}."
    )


def extras(record: dict) -> list[str]:
    """Return the names of a table's figure and grid, if it has them."""
    name, wanted = record["table"], record["definition"]
    figures = [f"{name}.svg", f"{name}.png"] if "figure" in wanted else []
    return figures + ([f"{name}-grid.png"] if "grid" in wanted else [])


def section(record: dict) -> list[str]:
    """Return the paragraphs of one table."""
    name, title = record["table"], record["definition"]["title"]
    said = [f"## {escape_markdown(title)}", escape_markdown(sentence(record)), markdown(record).strip()]
    said += [f"![{escape_markdown(title)}]({file})" for file in extras(record) if file != f"{name}.png"]
    links = [f"[{suffix}]({name}.{suffix})" for suffix in [*FORMATS, "json"]]
    return [part for part in [*said, f"Files: {', '.join(links)}."] if part]


def run(files, settings: Settings) -> None:
    """Write index.md, index.json with the checksums of what it shows, and the empty file `all`."""
    folder = make_folder(files.output_dir)
    records = [read_table(path) for path in files.tables]
    study = folder.resolve().name
    parts = [f"# Tables of the study {study}", f"Made by `snakemake --cores 1 results/tables/{study}/all`."]
    for record in records:
        parts += section(record)
    with writing(folder / "index.md") as aside:
        aside.write_bytes(("\n\n".join(parts) + "\n").encode())
    shown = [file for record in records for file in extras(record)]
    made = {
        "tables": [record["table"] for record in records],
        "sentences": {record["table"]: sentence(record) for record in records},
        "files": checksums(folder, ["index.md", *shown]),
        "provenance": provenance(STAGE, {}, "cpu"),
    }
    write_sealed(folder / "index.json", made)
    with writing(folder / "all"):
        pass


main = entry_point(STAGE)

if __name__ == "__main__":
    main()
