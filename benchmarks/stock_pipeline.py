"""Measures the cost of guidance in a stock diffusers pipeline, with and without an adapter:

    python -m benchmarks.stock_pipeline --base results/digits-sd/base --adapter results/digits-sd/seed0/adapters/agd

Calls the pipeline as users do. A hook on the denoiser counts its calls and the samples in them. Methods alternate in
rounds, so that a busy machine slows all of them equally. Prints one line of JSON.
"""

import argparse
import json
import statistics
import time

import torch
from diffusers import DiffusionPipeline

import agd
from agd.adapters.pipelines import denoiser_of


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", required=True, help="folder or hub id that diffusers opens")
    parser.add_argument("--adapter", required=True, help="folder or hub id of an adapter")
    parser.add_argument("--prompt", default="a handwritten three")
    parser.add_argument("--class-label", type=int, help="for a class-conditional model, in place of the prompt")
    parser.add_argument("--guidance-scale", type=float, default=1.5)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    return parser.parse_args()


class Usage:
    """Counts the calls of a denoiser and the samples in them."""

    def __init__(self, denoiser):
        self.calls = self.samples = 0
        denoiser.register_forward_hook(self.count)

    def count(self, module, args, output):
        self.calls += 1
        self.samples += len(output[0])


def call(pipe, asked: argparse.Namespace, guidance_scale: float):
    """Call the pipeline as a user does, with a fixed seed."""
    subject = [asked.class_label] if asked.class_label is not None else asked.prompt
    generator = torch.Generator().manual_seed(0)
    return pipe(
        subject,
        guidance_scale=guidance_scale,
        num_inference_steps=asked.steps,
        generator=generator,
        output_type="np",
    ).images


def measure(pipe, asked: argparse.Namespace, guidance_scale: float, usage: Usage) -> dict:
    usage.calls = usage.samples = 0
    started = time.perf_counter()
    images = call(pipe, asked, guidance_scale)
    return {"images": images, "calls": usage.calls, "samples": usage.samples, "seconds": time.perf_counter() - started}


def main() -> None:
    asked = options()
    pipe = DiffusionPipeline.from_pretrained(asked.base, dtype=getattr(torch, asked.dtype)).to(asked.device)
    pipe.set_progress_bar_config(disable=True)
    usage = Usage(denoiser_of(pipe))
    call(pipe, asked, asked.guidance_scale)  # warm-up
    found = {"none": [], "cfg": [], "agd": [], "cfg, after unload": []}
    for _ in range(asked.rounds):
        found["none"].append(measure(pipe, asked, 1.0, usage))
        found["cfg"].append(measure(pipe, asked, asked.guidance_scale, usage))
        agd.load(pipe, asked.adapter)
        found["agd"].append(measure(pipe, asked, asked.guidance_scale, usage))
        agd.unload(pipe)
        found["cfg, after unload"].append(measure(pipe, asked, asked.guidance_scale, usage))
    report = {
        name: {
            "calls": rounds[0]["calls"],
            "samples": rounds[0]["samples"],
            "seconds": statistics.median(r["seconds"] for r in rounds),
        }
        for name, rounds in found.items()
    }
    pairs = zip(found["cfg"], found["cfg, after unload"], strict=True)
    same = all((before["images"] == after["images"]).all() for before, after in pairs)
    quicker = statistics.median(c["seconds"] / a["seconds"] for c, a in zip(found["cfg"], found["agd"], strict=True))
    print(
        json.dumps(
            {
                "pipeline": type(pipe).__name__,
                "steps": asked.steps,
                "methods": report,
                "equal_after_unload": bool(same),
                "times_as_fast_as_cfg": quicker,
            }
        )
    )


if __name__ == "__main__":
    main()
