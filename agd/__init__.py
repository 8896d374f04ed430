"""Adapter Guidance Distillation: classifier-free guidance in one pass of a frozen diffusion model.

The public door. Its functions import torch when they are called for: `import agd` costs nothing.

    load(pipe, folder_or_hub_id)       trained adapters: the pipeline's own calls make one pass per step
    unload(pipe)                       the pipeline as it was
    attach(pipe, AdapterConfig(...))   new adapters on a frozen denoiser
    detach(pipe)                       the base model again
    save(adapters, folder)             adapter.safetensors, config.json and a model card
    push(adapters, repo_id)            the same, on the hub

Each takes a pipeline or its denoiser. What is loaded answers to `enable()`, `disable()`, `strength` and `scale(w)`.
"""

__version__ = "0.1.0"
__all__ = ["AdapterConfig", "attach", "detach", "load", "push", "save", "unload"]


def __getattr__(name: str):
    if name in __all__:
        from agd import door

        return getattr(door, name)
    raise AttributeError(f"module 'agd' has no attribute {name!r}")
