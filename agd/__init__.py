"""Adapter Guidance Distillation: classifier-free guidance in one pass of a frozen diffusion model.

This is the public API. A function imports torch only when it is first used, so `import agd` is fast.

    load(pipe, folder_or_hub_id)       attach trained adapters: the pipeline then makes one pass per step
    unload(pipe)                       restore the pipeline
    attach(pipe, AdapterConfig(...))   attach new adapters to a frozen denoiser
    detach(pipe)                       restore the base model
    save(adapters, folder)             write adapter.safetensors, config.json and a model card
    export_lora(adapters, folder)      write an adapter of kind `lora` as an ordinary LoRA file
    push(adapters, repo_id)            publish the same files on the hub

`pipe` is a pipeline or its denoiser. Loaded adapters have `enable()`, `disable()`, `strength` and `scale(w)`;
those of kind `lora` also have `fuse(w)` and `unfuse()`.
"""

import os
import sys

from agd.runtime.lazy import hand_on

if sys.argv[:1] == ["-m"] and sys.path[:1] == [os.getcwd()]:
    # `python -m agd...` would look for every module in the working folder first, where data lies, and run a torch.py there.
    del sys.path[0]

__version__ = "0.1.0"
__all__, __getattr__ = hand_on(
    __name__,
    **{"adapters.public": ["AdapterConfig", "attach", "detach", "export_lora", "load", "push", "save", "unload"]},
)
