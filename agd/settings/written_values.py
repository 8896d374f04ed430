"""Reads settings that are written as text: guidance scales, noise levels, classes. Imports nothing heavy."""

import math

from agd.runtime.errors import UserError


def guidance_scales(text: str, where: str = "guidance_scales") -> list[float]:
    """'1.5,3' -> [1.5, 3.0]. Raises UserError if a scale is no guidance."""
    scales = [float(part) for part in text.split(",")]
    if min(scales) <= 1:
        raise UserError(
            f"{where}: {min(scales):g} is no guidance, so that there is nothing to measure; give more than 1"
        )
    return scales


def automatic_scales(highest: float) -> list[float]:
    """Return the scales to measure fidelity at: parts of the trained range above 1, and one scale outside it."""
    return [1 + (highest - 1) * part for part in (0.125, 0.25, 0.5, 1, 1.5)]


def guided_sigmas(text: str, where: str = "guided_sigmas") -> tuple[float, float]:
    """'0.3-5' -> (0.3, 5.0), `all` -> (0, inf). Raises UserError if no noise level is inside."""
    if text == "all":
        return 0.0, math.inf
    low, high = map(float, text.split("-"))
    if low >= high:
        raise UserError(f"{where}: {text!r} has no noise level inside; give the lower one first, such as 0.3-5")
    return low, high


def class_labels(text: str, where: str = "class_labels") -> list[int]:
    """'0-2,7' -> [0, 1, 2, 7]."""
    labels = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        if len(last or first) > 6:
            raise UserError(f"{where}: {part!r} is beyond the classes of any model; give numbers below a million")
        if last and int(first) > int(last):
            raise UserError(f"{where}: {part!r} is reversed; write it as {last}-{first}")
        labels += range(int(first), int(last or first) + 1)
    return labels
