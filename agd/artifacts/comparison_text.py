"""Writes a model's main comparison as a few lines of text, fid.txt."""

from agd.settings.columns import DISTANCES

# Measured only with an Inception network, or with a CLIP model: title, width and digits of its column.
SOMETIMES = {"sfid": ("sFID", 9, 2), "inception_score": ("IS", 9, 2), "clip_score": ("CLIP", 8, 2)}
FIDELITY = ("unexplained", "captured", "divergence of latents", "divergence of images")


def table(record: dict, name: str) -> str:
    """Return the comparison as a few lines of text. name: the adapter's name."""
    assumed = ", of a reference whose extractor is assumed" if "extractor" in record["reference"] else ""
    distance = DISTANCES.get(record["features"], f"Fréchet distance ({record['features']})")
    head = f"{record['model']}: {record['num_samples']} images, w = {record['guidance_scale']}, {record['num_inference_steps']} steps, "
    head += f"seeds {', '.join(map(str, record['seeds']))}; distance is the {distance}{assumed}"
    more = {key: column for key, column in SOMETIMES.items() if any(key in row for row in record["methods"].values())}
    lines = [head, f"{'method':10}{'distance':>10}{'KID':>10}{'precision':>11}{'recall':>8}{'NFE':>6}{'ms/image':>10}"]
    timed = any("speedup_over_cfg" in row for row in record["methods"].values())
    lines[1] += f"{'speed':>8}" if timed else ""
    lines[1] += "".join(f"{title:>{width}}" for title, width, _ in more.values())
    for method, row in record["methods"].items():
        cells = [
            _cell(row["fid"], 10, 2),
            _cell(row["kid"], 10, 4),
            _cell(row["precision"], 11, 3),
            _cell(row["recall"], 8, 3),
        ]
        lines.append(f"{method:10}{''.join(cells)}{row['nfe']:>6g}{1000 * row['seconds_per_image']:>10.2f}")
        lines[-1] += _cell(row.get("speedup_over_cfg", {}).get("median"), 8, 2) if timed else ""
        lines[-1] += "".join(_cell(row.get(key), width, digits) for key, (_, width, digits) in more.items())
    adapter, rows = record["adapter"], record["methods"]
    lines.append(
        f"{name}: {rows[name]['nfe']:g} evaluations per image, cfg {rows['cfg']['nfe']:g}; {adapter['parameters']} parameters "
        f"({100 * adapter['fraction_of_base']:.1f} % of the base)"
    )
    if timed:  # milliseconds are of jobs that ran at different times: no ratio of those
        speed, settled = rows[name]["speedup_over_cfg"], record["speed"]
        lines.append(
            f"speed: how many times as fast as cfg, in turn in one process; {name} {speed['lowest']:.2f} to {speed['highest']:.2f} "
            f"in {settled['rounds']} round{'s' * (settled['rounds'] > 1)} of {settled['images']} images"
        )
    if record["fidelity"]:
        lines += ["", *fidelity_lines(record["fidelity"], name)]
    return "\n".join(lines)


def fidelity_lines(fidelity: dict[str, dict], name: str) -> list[str]:
    """Return a row for each figure of fidelity, and a column for each guidance scale."""
    head = (
        f"one pass of {name} against cfg, on trajectories that training never saw (best are captured 1, all others 0)"
    )
    lines = [head, f"{'w':26}{''.join(f'{w:>8}' for w in fidelity)}"]
    return lines + [f"{row:26}{''.join(_cell(at[row], 8, 3) for at in fidelity.values())}" for row in FIDELITY]


def _cell(value: float | None, width: int, digits: int) -> str:
    return f"{'-' if value is None else format(value, f'.{digits}f'):>{width}}"
