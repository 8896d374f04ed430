"""Measures memory and time of training an adapter on SDXL's UNet: `python -m benchmarks.sdxl_memory --limit-gb 24`.

Builds the UNet from its configuration with random weights, whose values don't affect memory and time. Freezes it in
bfloat16, attaches float32 adapters, and runs optimiser steps as in the `train` stage, at 1024 x 1024: gradient
checkpointing, micro-batches, stored targets, no text encoder, no autoencoder. Prints a line of JSON for each size of a
micro-batch.
"""

import argparse
import json
import time

import torch
from diffusers import UNet2DConditionModel

from agd.adapters.attaching import attach, size
from agd.adapters.config import KINDS, AdapterConfig
from agd.adapters.diffusers_integration import enable_gradient_checkpointing
from agd.sd.anatomy import ANATOMY

# Shapes of stabilityai/stable-diffusion-xl-base-1.0/unet/config.json.
SDXL = dict(
    sample_size=128,
    block_out_channels=(320, 640, 1280),
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    transformer_layers_per_block=(1, 2, 10),
    attention_head_dim=(5, 10, 20),
    cross_attention_dim=2048,
    use_linear_projection=True,
    addition_embed_type="text_time",
    addition_time_embed_dim=256,
    projection_class_embeddings_input_dim=2816,
)
# The same kind of model, small enough to try the script on a CPU.
SMALL = SDXL | dict(
    sample_size=16,
    block_out_channels=(32, 64, 64),
    transformer_layers_per_block=1,
    attention_head_dim=4,
    cross_attention_dim=64,
    addition_time_embed_dim=8,
    projection_class_embeddings_input_dim=112,
)


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--limit-gb", type=float, help="fail beyond so many GB (10^9 bytes) of GPU memory")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--micro-batch-size", type=int, nargs="+", default=[4])
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--kind", choices=KINDS, default="cross_attention")
    parser.add_argument("--hidden-size", type=int, default=320)
    parser.add_argument("--rank", type=int, default=24, help="of low_rank and lora")
    parser.add_argument("--embedding", action=argparse.BooleanOptionalAction, default=False)
    parser.add_argument("--checkpointing", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--small", action="store_true", help="a small model of the same kind")
    return parser.parse_args()


def pairs(shapes: dict, number: int, device: str) -> dict[str, torch.Tensor]:
    """Draw random (trajectory, step) pairs with the shapes of stored pairs."""
    side, width = shapes["sample_size"], shapes["cross_attention_dim"]
    pooled = shapes["projection_class_embeddings_input_dim"] - 6 * shapes["addition_time_embed_dim"]
    return {
        "x": torch.randn(number, 4, side, side, device=device),
        "target": torch.randn(number, 4, side, side, device=device),
        "timestep": torch.randint(1000, (number,), device=device).float(),
        "guidance_scale": torch.rand(number, device=device) * 11 + 1,
        "prompt_embeds": torch.randn(number, 77, width, device=device),
        "text_embeds": torch.randn(number, pooled, device=device),
        "time_ids": torch.full((number, 6), 1024.0, device=device),
    }


def build(asked: argparse.Namespace, shapes: dict) -> UNet2DConditionModel:
    """Build the frozen UNet with adapters."""
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(asked.device):
        unet = UNet2DConditionModel(**shapes)
    torch.set_default_dtype(torch.float32)
    wanted = dict(kind=asked.kind, hidden_size=asked.hidden_size, rank=asked.rank, embedding=asked.embedding)
    attach(unet, AdapterConfig(**wanted, gain=asked.embedding), ANATOMY).train()
    if asked.checkpointing:
        enable_gradient_checkpointing(unet)
    return unet


def step(unet: UNet2DConditionModel, optimizer, asked: argparse.Namespace, shapes: dict, size: int) -> None:
    """Run one optimiser step in micro-batches of `size`."""
    for first in range(0, asked.batch_size, size):
        part = pairs(shapes, min(size, asked.batch_size - first), asked.device)
        unet.agd.current.set_scale(part["guidance_scale"])
        added = {name: part[name].bfloat16() for name in ("text_embeds", "time_ids")}
        output = unet(
            part["x"].bfloat16(), part["timestep"], part["prompt_embeds"].bfloat16(), added_cond_kwargs=added
        ).sample
        loss = torch.nn.functional.mse_loss(output.float(), part["target"]) * len(part["x"]) / asked.batch_size
        loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def measure(unet: UNet2DConditionModel, asked: argparse.Namespace, shapes: dict, size: int) -> dict:
    """Measure time and peak memory of training in micro-batches of `size`."""
    cuda = asked.device.startswith("cuda")
    optimizer = torch.optim.AdamW(unet.agd.parameters(), lr=1e-4, weight_decay=0.0)
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(asked.steps):
        started = time.perf_counter()
        step(unet, optimizer, asked, shapes, size)
        if cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return {
        "micro_batch_size": size,
        "peak_gb": torch.cuda.max_memory_allocated() / 1e9 if cuda else None,
        "reserved_gb": torch.cuda.max_memory_reserved() / 1e9 if cuda else None,
        "seconds_per_step": min(seconds),
    }


def main() -> None:
    asked = options()
    cuda = asked.device.startswith("cuda")
    if asked.limit_gb and cuda:
        total = torch.cuda.get_device_properties(asked.device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, asked.limit_gb * 1e9 / total))
    shapes = SMALL if asked.small else SDXL
    unet = build(asked, shapes)
    common = {
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "torch": torch.__version__,
        "kind": asked.kind,
        "batch_size": asked.batch_size,
        "gradient_checkpointing": asked.checkpointing,
        "adapter": size(unet),
        "adapted_layers": len(unet.agd.layers),
    }
    for number in asked.micro_batch_size:
        print(json.dumps(common | measure(unet, asked, shapes, number)), flush=True)


if __name__ == "__main__":
    main()
