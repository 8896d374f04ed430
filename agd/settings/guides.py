"""Guides of a model: a ControlNet or an IP-Adapter, each with a picture, that images follow in addition to the prompt.

Samples of the method `agd+sketch` are those of agd with the model's guide `sketch`; so with every method. Imports nothing heavy:
Snakemake and every command line read it at their start.
"""

import functools
from collections.abc import Callable, Mapping

from agd.runtime.errors import UserError

# Network -> what else it needs.
NEEDED = {"ip_adapter": ("ip_adapter_image", "image_encoder"), "controlnet": ("controlnet_image",)}


def split(method: str | None) -> tuple[str | None, str | None]:
    """Return the method and the guide in {method} of a path, `agd` and `sketch` in `agd+sketch`. None: no guide."""
    name, plus, guide = (method or "").partition("+")
    return name or None, guide if plus else None


def check_complete(given: Mapping[str, str | None], spelt: Callable[[str], str]) -> None:
    """Raise UserError if a network lacks its picture, or the other way round. spelt: name -> how the user spells it."""
    for name, others in NEEDED.items():
        for other in others:
            if given.get(name) and not given.get(other):
                raise UserError(f"{spelt(other)}: missing; {spelt(name)} needs it")
            if given.get(other) and not given.get(name):
                raise UserError(f"{spelt(other)}: given without {spelt(name)}; give both")


def fits(method: str, followed: Mapping[str, str]) -> bool:
    """Return whether samples that say what they followed may be those of {method} of a path. Some don't say the guide's name."""
    guide = split(method)[1]
    return bool(followed) == (guide is not None) and followed.get("guide", guide) == guide


def key(model: str, guide: str, name: str) -> str:
    """Return the key of a guide's file in the configuration."""
    return f"models.{model}.guides.{guide}.{name}"


def check(config: dict, model: str) -> None:
    """Raise UserError if one of a model's guides is not whole."""
    for guide, given in config["models"][model].get("guides", {}).items():
        check_complete(given, functools.partial(key, model, guide))


def of(config: dict, model: str, method: str) -> dict[str, str]:
    """Return the guide of a method's images: name of an option of `sample` -> path. Raises UserError if it is not there."""
    guide, known = split(method)[1], config["models"][model].get("guides", {})
    if guide is None:
        return {}
    if guide not in known:
        raise UserError(
            f"models.{model}.guides: {guide!r} of {method!r} is not there; add it (known: {', '.join(known) or 'none'})"
        )
    return known[guide]
