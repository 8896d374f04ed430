"""Writes figures of matplotlib, which opens no window and loads only here."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from agd.artifacts.files import writing


@contextlib.contextmanager
def figure(path: Path, columns: int = 1, width: float = 9, height: float = 4) -> Iterator[tuple]:
    """Yield (figure, axes) with one row of axes, and write the figure as PNG, whole or not at all."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    drawn, axes = pyplot.subplots(1, columns, figsize=(width, height), layout="constrained", squeeze=False)
    try:
        yield drawn, axes[0]
        with writing(path) as aside:
            drawn.savefig(aside, format="png", dpi=150)
    finally:
        pyplot.close(drawn)
