"""Counts what each kind of adapter costs on SDXL, Stable Diffusion 2.1 and DiT-XL/2: `python -m benchmarks.adapter_cost`.

Builds the denoisers from their shapes on PyTorch's meta device: no weights, no memory, no time. For one pass of one
sample: parameters and floating-point operations (those of matrix products and convolutions) as shares of the base's, and
the number of operators that are called in addition (each about a GPU kernel, views not counted). "Merged" is what `sample`
does with a lora. "Training" is the operations of a step, forward and backward, over those of the plain passes through the
frozen base. Prints Markdown, and writes benchmarks/results/adapter_cost.json.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import DiTTransformer2DModel, UNet2DConditionModel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from agd.adapters.attaching import attach, detach, size
from agd.adapters.config import AdapterConfig
from agd.dit.anatomy import ANATOMY as DIT
from agd.sd.anatomy import ANATOMY as UNET
from benchmarks import record
from benchmarks.sdxl_memory import SDXL, SMALL

# Shapes of stabilityai/stable-diffusion-2-1/unet/config.json and of facebook/DiT-XL-2-256/transformer/config.json.
SD21 = dict(sample_size=96, attention_head_dim=(5, 10, 20, 20), cross_attention_dim=1024, use_linear_projection=True)
DIT_XL = dict(
    num_layers=28, sample_size=32, patch_size=2, num_attention_heads=16, attention_head_dim=72, out_channels=8
)

MODELS = ("SDXL", "SD 2.1", "DiT-XL/2")
KINDS = {
    "published, cross_attention": dict(kind="cross_attention", encoder="per_layer", hidden_size=320),
    "published, offset": dict(kind="offset", encoder="per_layer", hidden_size=256),
    "cross_attention": dict(kind="cross_attention", hidden_size=320),
    "cross_attention and embedding": dict(kind="cross_attention", embedding=True, gain=True, hidden_size=256),
    "bottleneck and embedding": dict(kind="bottleneck", embedding=True, gain=True, hidden_size=256),
    "embedding": dict(kind="embedding", gain=True, hidden_size=256),
    "low_rank 16 and embedding": dict(kind="low_rank", embedding=True, gain=True, hidden_size=256, rank=16),
    "lora 16 and embedding": dict(kind="lora", embedding=True, gain=True, hidden_size=256, rank=16),
    "lora 24 and embedding": dict(kind="lora", embedding=True, gain=True, hidden_size=256, rank=24),
    "lora 32 and embedding": dict(kind="lora", embedding=True, gain=True, hidden_size=256, rank=32),
    "lora 64 and embedding": dict(kind="lora", embedding=True, gain=True, hidden_size=256, rank=64),
    "lora 16": dict(kind="lora", gain=True, rank=16),
}


class Operators(TorchDispatchMode):
    """Counts the operators that are called, without views."""

    def __init__(self):
        super().__init__()
        self.number = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.number += not function.is_view
        return function(*args, **(kwargs or {}))


def unet(shapes: dict) -> tuple[UNet2DConditionModel, dict]:
    """Return a UNet without weights, and the arguments of one pass."""
    with torch.device("meta"):
        return UNet2DConditionModel(**shapes).to(torch.bfloat16).eval(), unet_arguments(shapes, 1)


def unet_arguments(shapes: dict, batch: int) -> dict:
    """Return the arguments of one pass of a UNet in bfloat16, on the default device."""
    side = shapes["sample_size"]
    found = dict(
        sample=torch.randn(batch, 4, side, side, dtype=torch.bfloat16),
        timestep=torch.full((batch,), 500.0),
        encoder_hidden_states=torch.randn(batch, 77, shapes["cross_attention_dim"], dtype=torch.bfloat16),
    )
    if "addition_embed_type" in shapes:
        pooled = shapes["projection_class_embeddings_input_dim"] - 6 * shapes["addition_time_embed_dim"]
        added = {
            "text_embeds": torch.randn(batch, pooled, dtype=torch.bfloat16),
            "time_ids": torch.full((batch, 6), 1024.0),
        }
        found["added_cond_kwargs"] = added
    return found


def dit(shapes: dict) -> tuple[DiTTransformer2DModel, dict]:
    """Return a DiT without weights, and the arguments of one pass."""
    with torch.device("meta"):
        return DiTTransformer2DModel(**shapes).to(torch.bfloat16).eval(), dit_arguments(shapes, 1)


def dit_arguments(shapes: dict, batch: int) -> dict:
    """Return the arguments of one pass of a DiT in bfloat16, on the default device."""
    side = shapes["sample_size"]
    return dict(
        hidden_states=torch.randn(batch, 4, side, side, dtype=torch.bfloat16),
        timestep=torch.full((batch,), 500.0),
        class_labels=torch.zeros(batch, dtype=torch.int64),
    )


def count(run: Callable) -> tuple[int, int]:
    """Return floating-point operations and the number of operators of one call."""
    with torch.no_grad(), FlopCounterMode(display=False) as flops:
        run()
    with torch.no_grad(), Operators() as operators:
        run()
    return flops.get_total_flops(), operators.number


def count_training(run: Callable, arguments: dict) -> int:
    """Return the floating-point operations of a forward and a backward pass, down to the input."""
    latents = next(iter(arguments.values()))
    with FlopCounterMode(display=False) as flops:
        run(latents.detach().requires_grad_()).sample.float().sum().backward()
    return flops.get_total_flops()


def added(base: tuple[int, int], adapters, run: Callable) -> tuple[float, int]:
    """Return the share of operations and the number of operators that these adapters add."""
    with adapters.scale(torch.full((1,), 5.0, device="meta")):
        flops, operators = count(run)
    return flops / base[0] - 1, operators - base[1]


def row(
    model, base: tuple[int, int], plain: int, run: Callable, arguments: dict, anatomy, config: AdapterConfig
) -> dict:
    """Return the figures of an adapter of this kind. base: what the base's pass counts; plain: operations of its
    training. run: the model's pass."""
    adapters = attach(model, config, anatomy).to("meta")
    operations, operators = added(base, adapters, run)
    with adapters.scale(torch.full((1,), 5.0, device="meta")):
        training = count_training(run, arguments) / plain - 1
    merged = (None, None)
    if config.kind == "lora":  # merged for one guidance scale, its layers are not called
        for handle in adapters.layer_handles:
            handle.remove()
        merged = added(base, adapters, run)
    counted = size(model)
    detach(model)
    return {
        "parameters": counted["parameters"],
        "of the base": counted["fraction_of_base"],
        "operations": operations,
        "operators": operators,
        "operations, merged": merged[0],
        "operators, merged": merged[1],
        "operations, training": training,
    }


def cells(figures: dict) -> str:
    """Return the figures as cells of a table."""
    shown = []
    for name, value in figures.items():
        if value is None:
            shown.append("-")
        elif name == "parameters":
            shown.append(f"{value / 1e6:.1f} M")
        else:
            shown.append(str(value) if "operators" in name else f"{value:.2%}")
    return " | ".join(shown)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="small models of the same kinds")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--output-dir", type=Path, default=record.RESULTS)
    asked = parser.parse_args()
    small = asked.small
    models = {
        "SDXL": lambda: (*unet(SMALL if small else SDXL), UNET),
        "SD 2.1": lambda: (
            *unet(SD21 | (dict(sample_size=16, block_out_channels=(32, 64, 64, 64)) if small else {})),
            UNET,
        ),
        "DiT-XL/2": lambda: (*dit(DIT_XL | (dict(num_layers=2) if small else {})), DIT),
    }
    found = []
    for name in asked.models:
        model, arguments, anatomy = models[name]()
        model.requires_grad_(False)

        def plain(latents=None):
            first = {} if latents is None else {next(iter(arguments)): latents}  # noqa: B023, called within the loop's turn
            return model(**arguments | first)  # noqa: B023

        base, training = count(plain), count_training(plain, arguments)
        for kind, chosen in KINDS.items():
            figures = row(model, base, training, plain, arguments, anatomy, AdapterConfig(**chosen))
            if not found:
                print(f"| model | kind | {' | '.join(figures)} |\n|{'---|' * (len(figures) + 2)}")
            print(f"| {name} | {kind} | {cells(figures)} |", flush=True)
            found.append({"model": name, "kind": kind, "operators of the base": base[1], **figures})
    record.write("adapter_cost", found, folder=asked.output_dir, say=False)


if __name__ == "__main__":
    main()
