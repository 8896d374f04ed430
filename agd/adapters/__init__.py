"""The adapters: layers, attaching to a frozen denoiser, work with diffusers, files, model card and the public API.

Imports agd.artifacts, agd.settings and agd.runtime. Each family says where adapters go (Anatomy). The public API finds
the family in the registry, agd/settings/families.py.
"""

from agd.runtime.lazy import hand_on

__all__, __getattr__ = hand_on(
    __name__,
    config=["AdapterConfig"],
    anatomy=["Anatomy"],
    module=["Adapters"],
    public=["attach", "detach", "load", "push", "save", "unload"],
)
