"""Makes a folder's public names available without importing their modules first."""

import importlib
from collections.abc import Callable


def hand_on(package: str, **modules: list[str]) -> tuple[list[str], Callable[[str], object]]:
    """Return a package's `__all__` and `__getattr__` (PEP 562). modules: module -> its public names, imported on first
    use."""
    where = {name: module for module, names in modules.items() for name in names}

    def get(name: str):
        if name not in where:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{package}.{where[name]}"), name)

    return sorted(where), get
