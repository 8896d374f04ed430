"""Puts the tables and figures of a digits study into docs/results.md. The sentences between them are written by hand. Tables that
the study hasn't made stay as they are, and are named.

python docs/renew_results.py results/tables/digits     (after `make tables`)
python docs/renew_results.py                           (says only which stages have changed since)
"""

import re
import shutil
import sys
from pathlib import Path

from agd.artifacts import table_text
from agd.index_tables import sentence
from agd.settings.versions import VERSIONS

PAGE = Path(__file__).resolve().parent / "results.md"
IMAGES = PAGE.parent / "images"
_LONG = 20  # rows; longer tables are folded


def shown_tables(page: str) -> list[str]:
    """Return the names of the tables that the page has marks for, in order."""
    return re.findall(r"<!-- table ([\w-]+) -->", page)


def between(page: str, name: str) -> tuple[int, int]:
    """Return where what stands between the marks of a name begins and ends, in the page."""
    first = page.index(f"<!-- {name} -->\n") + len(f"<!-- {name} -->\n")
    return first, page.index("<!-- end -->", first)


def filled(page: str, name: str, text: str) -> str:
    """Return the page with this text between the marks of a name."""
    first, last = between(page, name)
    return page[:first] + text + page[last:]


def stated(page: str) -> dict[str, int]:
    """Return stage -> version, as the page's tables state them. Raises ValueError if two tables differ."""
    found: dict[str, int] = {}
    for versions in re.findall(r"Stage versions: ([^.]+)\.", page):
        for stage, version in re.findall(r"(\w+) (\d+)", versions.replace("\\", "")):
            if found.setdefault(stage, int(version)) != int(version):
                raise ValueError(f"docs/results.md: tables of {stage} {found[stage]} and {version}; renew all of them")
    return found


def standing(page: str) -> str:
    """Return a sentence about the stages that have changed since the page's tables were made."""
    changed = {stage: VERSIONS.get(stage) for stage, then in stated(page).items() if VERSIONS.get(stage) != then}
    if not changed:
        return "All tables were made by the stages as they are now.\n"
    now = ", ".join(f"{stage} {version}" for stage, version in sorted(changed.items()))
    return f"Stages have changed since these tables were made ({now} now): `make tables` makes other numbers.\n"


def shown(folder: Path, name: str) -> str:
    """Return a table as the page shows it, and copy its pictures."""
    record = table_text.read_table(folder / f"{name}.json")
    said, text = table_text.paragraph(sentence(record)), table_text.markdown(record)
    table, _, below = text.partition("\n\n")
    if len(record["rows"]) > _LONG:
        table = f"<details><summary>The table, {len(record['rows'])} rows</summary>\n\n{table}\n\n</details>"
    parts = [said, table, below.strip()]
    for ending, wanted in (("", "figure"), ("-grid", "grid")):
        if wanted in record["definition"]:
            shutil.copyfile(folder / f"{name}{ending}.png", IMAGES / f"results-{name}{ending}.png")
            parts.append(f"![{record['definition']['title']}](images/results-{name}{ending}.png)")
    return "\n\n".join(part for part in parts if part) + "\n"


def renewed(page: str, folder: Path | None) -> str:
    """Return the page with what stands between its marks made again."""
    for name in shown_tables(page) if folder else []:
        if (folder / f"{name}.json").is_file():
            page = filled(page, f"table {name}", shown(folder, name))
        else:
            print(f"{name}: not in {folder}; the page keeps its own")
    return filled(page, "standing", standing(page))


if __name__ == "__main__":
    given = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    PAGE.write_text(renewed(PAGE.read_text(encoding="utf-8"), given), encoding="utf-8")
