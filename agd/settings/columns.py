"""The measures that tables show: which file holds each, its heading and unit, its digits, and which is better."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Column:
    """A measure of a run.

    source: the kind of file that holds it (`tables.PATHS`). heading: its name with its unit. form: how Python formats it; empty
    for yes or no. better: `less` or `more`; empty where no value is the best. factor: from the stored unit to the shown one.
    least, most: what it can be, in the stored unit.
    """

    source: str
    heading: str
    form: str
    better: str = ""
    factor: float = 1
    least: float = 0
    most: float = 1e12


COLUMNS = {
    "fid": Column("metrics", "distance", ".2f", "less"),
    "kid": Column("metrics", "KID", ".4f", "less", least=-1e12),  # an unbiased estimate: it may be below 0
    "precision": Column("metrics", "precision", ".3f", "more", most=1),
    "recall": Column("metrics", "recall", ".3f", "more", most=1),
    "inception_score": Column("metrics", "Inception Score", ".2f", "more", least=1),
    "sfid": Column("metrics", "sFID", ".2f", "less"),
    "clip_score": Column("metrics", "CLIP score", ".2f", "more", least=-100, most=100),
    "nfe": Column("metrics", "evaluations per image", ".4g"),
    "seconds_per_image": Column("metrics", "seconds per image", ".3g"),
    "parameters": Column("adapter", "trained parameters", ",.0f"),
    "fraction_of_base": Column("adapter", "share of the base (%)", ".2f", factor=100, most=2),
    "unexplained_held_out": Column("adapter", "unexplained, of trajectories held out", ".3f", "less"),
    "training_seconds": Column("cost", "training (s)", ",.0f"),
    "peak_gpu_gb": Column("cost", "peak GPU memory (GB)", ".1f"),
    "fits_24gb": Column("cost", "fits in 24 GB", ""),
    "unexplained": Column("fidelity", "unexplained guidance", ".3f", "less"),
    "captured": Column("fidelity", "captured guidance", ".3f", least=-1e12),  # the best is 1: neither less nor more
    "divergence_latents": Column("fidelity", "divergence of latents", ".3f", "less"),
    "divergence_images": Column("fidelity", "divergence of images", ".3f", "less"),
}
# The extractors whose Fréchet distance is FID in the literature's sense, with its name.
DISTANCES = {"inception-v3": "FID", "adm-inception-v3": "FID of ADM's evaluator"}
# What a figure may have on its x axis, with the axis's label. The first three are measured, and may be columns too.
AXES = {
    **{name: COLUMNS[name].heading for name in ("nfe", "seconds_per_image", "parameters")},
    "w": "guidance scale w",
    "steps": "denoising steps",
    "timestep": "timestep (noise on the right)",
}
# What is measured at each timestep too, with its name in the records of measure_fidelity.
BY_TIMESTEP = {
    "unexplained": "unexplained_by_timestep",
    "captured": "captured_by_timestep",
    "divergence_latents": "divergence_by_timestep",
}
