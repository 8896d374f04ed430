"""Adapter Guidance Distillation: classifier-free guidance in one pass of a frozen diffusion model.

The public door. Its functions import torch when they are called for: `import agd` costs nothing.

    attach(denoiser, AdapterConfig(...))   new adapters on a frozen denoiser
    detach(denoiser)                       the base model again
    load(denoiser, folder)                 trained adapters
    save(adapters, folder)                 adapter.safetensors and config.json
"""

__version__ = "0.1.0"
__all__ = ["AdapterConfig", "attach", "detach", "load", "save"]


def __getattr__(name: str):
    if name in __all__:
        from agd import door

        return getattr(door, name)
    raise AttributeError(f"module 'agd' has no attribute {name!r}")
