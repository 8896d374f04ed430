"""Writes training.csv: how training went."""

import csv
import math
from pathlib import Path

from agd.artifacts.checkpoints import Progress
from agd.artifacts.files import writing
from agd.runtime.errors import UserError

TABLE = "training.csv"
FIDELITY = ("unexplained", "captured")


def add_row(at: Progress, used: float, fidelity: dict) -> None:
    """Add a row with the mean loss since the last row, and the fidelity. Raises UserError if the loss is not finite."""
    mean = sum(at.recent) / len(at.recent)
    if not math.isfinite(mean):
        raise UserError(
            f"loss: not finite at step {at.step}; lower --learning-rate, or use --dtype bfloat16 or float32"
        )
    at.rows.append({"step": at.step, "learning_rate": used, "loss": mean, **fidelity})
    at.recent.clear()


def write_table(path: Path, rows: list[dict], base_loss: float) -> None:
    """Write the table: step, learning_rate, loss (mean since the last row), fidelity on the trajectories held out (empty
    without any), base_loss (of the unadapted model)."""
    with writing(path) as aside, open(aside, "w", newline="") as file:
        table = csv.DictWriter(file, ["step", "learning_rate", "loss", *FIDELITY, "base_loss"], lineterminator="\n")
        table.writeheader()
        table.writerows({**row, "base_loss": base_loss} for row in rows)
