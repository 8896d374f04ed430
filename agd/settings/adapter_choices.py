"""Which choices of an adapter go together. Checked before any job, and again for an adapter from elsewhere."""

from agd.runtime.errors import UserError

PUBLISHED = ("cross_attention", "offset")  # the paper's kinds


def check_adapter(kind: str, embedding: bool, encoder: str, gain: bool, where: str = "") -> None:
    """Raise UserError if an adapter's choices don't go together. where: prefix of the key in errors."""
    if encoder == "per_layer" and (kind not in PUBLISHED or embedding):
        raise UserError(
            f"{where}encoder: per_layer is for the kinds {' and '.join(PUBLISHED)} without embedding; choose shared, or set "
            "kind and embedding: false"
        )
    if kind == "full" and (gain or not embedding):
        raise UserError(f"{where}kind: full learns w by its embedding alone; set embedding: true and gain: false")


def check_gain(gain: bool, guidance_max: float, where: str = "gain") -> None:
    """Raise UserError if the trained guidance scales leave the gain nothing to grow to. where: the key in errors."""
    if gain and guidance_max <= 1:
        raise UserError(f"{where}: guidance_max is {guidance_max:g}, which is no guidance; raise it, or leave gain out")
