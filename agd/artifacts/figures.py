"""Writes figures of matplotlib, which opens no window and loads only here."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from agd.artifacts.files import writing

# Okabe and Ito's colours, which colour-blind readers can tell apart; yellow, which is pale on white, is left out.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS, _LINES = "os^Dv*PX<>", ("-", "--", "-.", ":")


@contextlib.contextmanager
def figure(path: Path, columns: int = 1, width: float = 9, height: float = 4) -> Iterator[tuple]:
    """Yield (figure, axes) with one row of axes, and write the figure as PNG, whole or not at all."""
    with panels([path], 1, columns, width, height) as (drawn, axes):
        yield drawn, axes[0]


@contextlib.contextmanager
def panels(paths: Sequence[Path], rows: int, columns: int, width: float, height: float) -> Iterator[tuple]:
    """Yield (figure, rows of axes), and write the figure to each path (.png or .svg), whole or not at all.

    Equal figures give equal bytes.
    """
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    drawn, axes = pyplot.subplots(rows, columns, figsize=(width, height), layout="constrained", squeeze=False)
    try:
        yield drawn, axes
        for path in paths:
            with writing(path) as aside, matplotlib.rc_context({"svg.hashsalt": "agd"}):
                undated = {"metadata": {"Date": None}} if path.suffix == ".svg" else {}
                drawn.savefig(aside, format=path.suffix[1:], dpi=150, **undated)
    finally:
        pyplot.close(drawn)


def style(place: int) -> dict:
    """Return colour, marker and line of the method at a place in a study: equal in all of its figures."""
    return {
        "color": COLOURS[place % len(COLOURS)],
        "marker": _MARKERS[place % len(_MARKERS)],
        "linestyle": _LINES[place // len(COLOURS) % len(_LINES)],
    }
