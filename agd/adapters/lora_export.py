"""Writes an adapter of kind `lora` as an ordinary LoRA file, which needs nothing of agd.

Keys are in the format of Kohya's trainer with diffusers' names of layers, which diffusers and most user interfaces read.
"""

import json
from pathlib import Path

import torch

from agd.adapters.anatomy import linears
from agd.adapters.module import Adapters
from agd.artifacts.files import make_folder, writing
from agd.runtime.errors import UserError

FILE, CARD = "pytorch_lora_weights.safetensors", "README.md"

_CARD = """---
library_name: diffusers
tags:
- lora
- guidance-distillation
---
# Guidance as a LoRA

A LoRA of {base}. Its strength is the guidance scale w: strength = (w - 1) / {span:g}. Switch the pipeline's own
guidance off (`guidance_scale=1`): one pass per step then gives about what guidance gives in two.

| guidance scale | strength |
|---|---|
{rows}

```python
pipe.load_lora_weights(folder, adapter_name="guidance")
pipe.set_adapters("guidance", {middle:.3g})  # as guidance_scale={w:g}
pipe("a prompt", guidance_scale=1)
```

It was trained for w up to {maximum:g}; more than strength 1 was not. Made by agd; {size} parameters, rank {rank}.
"""


def export_lora(adapters: Adapters, folder: str | Path) -> None:
    """Write `pytorch_lora_weights.safetensors`, which diffusers' `load_lora_weights` reads, and a card.

    The card says which strength is which guidance scale. Raises UserError if the adapter is more than a LoRA times a
    gain, or if diffusers has no LoRA loader for this denoiser.
    """
    config = adapters.config
    if config.kind != "lora" or config.embeds or not config.gain:
        raise UserError(
            f"export_lora: only an adapter of kind lora with gain and without embedding is an ordinary LoRA; this one is "
            f"{config.kind}{', embedding' if config.embeds else ''}{'' if config.gain else ', no gain'}"
        )
    if adapters.strength != 1:
        raise UserError(f"export_lora: strength is {adapters.strength:g}, which a LoRA's user chooses; set it to 1")
    if type(adapters.host).__name__ != "UNet2DConditionModel":
        raise UserError(f"export_lora: diffusers loads no LoRA into a {type(adapters.host).__name__}; use agd.save")
    from safetensors.torch import save_file

    weights = {}
    for name, layer in zip(linears(adapters.host), adapters.layers.values(), strict=True):
        key = f"lora_unet_{name.replace('.', '_')}"
        weights[f"{key}.lora_down.weight"] = layer.adapter.down.weight
        weights[f"{key}.lora_up.weight"] = layer.adapter.out.weight
        weights[f"{key}.alpha"] = torch.tensor(float(config.rank))  # divided by the rank: a scaling of 1
    folder = make_folder(folder)
    with writing(folder / FILE) as aside:
        kept = {name: weight.detach().cpu().contiguous() for name, weight in weights.items()}
        save_file(kept, aside, {"agd": json.dumps(_description(adapters), sort_keys=True)})
    with writing(folder / CARD) as aside:
        aside.write_text(
            _card(adapters, sum(weight.numel() for weight in weights.values() if weight.ndim)), encoding="utf-8"
        )


def _description(adapters: Adapters) -> dict:
    return {
        "guidance_scale_max": adapters.config.guidance_scale_max,
        "provenance": adapters.record.get("provenance", {}),
    }


def _card(adapters: Adapters, size: int) -> str:
    maximum = adapters.config.guidance_scale_max
    scales = torch.linspace(1, maximum, 6).tolist()
    made = adapters.record.get("provenance") or {}
    w = scales[3]
    return _CARD.format(
        base=(made.get("base") or {}).get("name", "a diffusion model"),
        span=maximum - 1,
        rows="\n".join(f"| {scale:.3g} | {(scale - 1) / (maximum - 1):.2f} |" for scale in scales),
        middle=(w - 1) / (maximum - 1),
        w=round(w, 2),
        maximum=maximum,
        size=size,
        rank=adapters.config.rank,
    )
