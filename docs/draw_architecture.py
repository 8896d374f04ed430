"""Draws the rooms of agd/ and the arrows between them into docs/architecture.md, from the imports themselves.

    python docs/draw_architecture.py

A room is a folder of agd/, or a file at its top. An arrow means "imports". `FLOORS` says which room may import which: those
on lower floors. tests/test_architecture.py holds the code and the drawing to it.
"""

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from agd.settings.fingerprints import imports  # noqa: E402

PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- drawn by docs/draw_architecture.py -->", "<!-- end of the drawing -->"
# From the top down.
FLOORS = [
    ["plan"],
    ["verify", "explain", "digits", "calculate_metrics", "prepare_reference", "prepare_base"],
    [
        "sample_trajectories",
        "train",
        "sample",
        "measure_fidelity",
        "measure_speed",
        "tabulate",
        "draw_curve",
        "tabulate_runs",
        "draw_runs",
        "draw_grid",
        "index_tables",
        "dit",
        "sd",
        "measures",
        "prepare_prompts",
    ],
    ["adapters", "diffusion", "download"],
    ["artifacts"],
    ["settings"],
    ["runtime"],
]


def room(name: str) -> str | None:
    """Dotted module name -> the room that it is in; None for the package itself and for other people's modules."""
    parts = name.split(".")
    return parts[1] if parts[0] == "agd" and len(parts) > 1 else None


def arrows() -> set[tuple[str, str]]:
    """(importing room, imported room) for every import between two rooms."""
    found = set()
    for file in sorted((ROOT / "agd").rglob("*.py")):
        ours = room(".".join(file.relative_to(ROOT).with_suffix("").parts))
        theirs = {room(name) for name in imports(ast.parse(file.read_text(encoding="utf-8")))}
        known = {
            other for other in theirs if other and (ROOT / "agd" / other).exists() | (ROOT / f"agd/{other}.py").exists()
        }
        found |= {(ours, other) for other in known if other != ours and ours != "__init__"}
    return found


def wrong(found: set[tuple[str, str]]) -> list[str]:
    """Arrows that do not point down, one sentence each."""
    floor = {name: number for number, names in enumerate(FLOORS) for name in names}
    if homeless := sorted({name for arrow in found for name in arrow} - set(floor)):
        return [f"{name} is on no floor; add it to FLOORS" for name in homeless]
    return [f"{a} imports {b}, which is not on a lower floor" for a, b in sorted(found) if floor[b] <= floor[a]]


def without_detours(found: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """The arrows less those that a longer way implies: what is left is easier to read."""
    below = {a: {b for c, b in found if c == a} for a, _ in found}

    def reaches(a: str, b: str) -> bool:
        return any(c == b or reaches(c, b) for c in below.get(a, ()))

    return {(a, b) for a, b in found if not any(reaches(c, b) for c in below[a] - {b})}


def drawing() -> str:
    """A Mermaid flowchart: a band per floor, and the arrows that no longer way implies."""
    lines = ["```mermaid", "flowchart TD"]
    for number, names in enumerate(FLOORS):
        lines += [f'  subgraph floor{number}[" "]', "    direction LR"]
        lines += [f'    {name}["{name}{"/" if (ROOT / "agd" / name).is_dir() else ".py"}"]' for name in names]
        lines += ["  end"]
    lines += [f"  {a} --> {b}" for a, b in sorted(without_detours(arrows()))]
    return "\n".join([*lines, "```"])


def drawn(page: str) -> str:
    """The page with the drawing as it is now."""
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n{drawing()}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    PAGE.write_text(drawn(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"{PAGE.relative_to(ROOT)}: {len(arrows())} arrows between {sum(map(len, FLOORS))} rooms")
