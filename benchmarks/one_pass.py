"""Times one adapted pass against one plain pass and against guidance: `python -m benchmarks.one_pass`.

Full-size denoisers with random weights, whose values don't affect the time, in bfloat16. `--shapes thin` keeps their depth, and
makes all else small: what is left is the time in which Python and PyTorch call the operators. The plain pass, guidance (one
pass of twice the batch, as pipelines do) and each kind of adapter take turns in one process, for several rounds. Every
figure is a ratio to the plain pass of the same round: the median, the lowest and the highest. Prints a line of JSON for
each model and batch size, and writes benchmarks/results/one_pass-{shapes}-{device}.json.
"""

import argparse
import contextlib
import functools
import json
import statistics
import time
from pathlib import Path

import torch
from diffusers import DiTTransformer2DModel, UNet2DConditionModel

from agd.adapters.attaching import attach, detach
from agd.adapters.config import AdapterConfig
from agd.dit.anatomy import ANATOMY as DIT
from agd.sd.anatomy import ANATOMY as UNET
from benchmarks import record
from benchmarks.adapter_cost import DIT_XL, KINDS, SD21, dit_arguments, unet_arguments
from benchmarks.sdxl_memory import SDXL, SMALL

MERGED = "lora 16 and embedding, merged"  # what `sample` does with a default adapter
THIN_SDXL = dict(sample_size=16, block_out_channels=(32, 32, 64), attention_head_dim=(2, 2, 4), cross_attention_dim=32)
THIN_SD21 = dict(sample_size=16, block_out_channels=(32, 32, 64, 64), attention_head_dim=4, cross_attention_dim=32)
MODELS = {
    "SDXL": (UNet2DConditionModel, {"full": SDXL, "small": SMALL, "thin": SDXL | THIN_SDXL}, unet_arguments, UNET),
    "SD 2.1": (
        UNet2DConditionModel,
        {"full": SD21, "small": SD21 | dict(sample_size=16, block_out_channels=(32,) * 4), "thin": SD21 | THIN_SD21},
        unet_arguments,
        UNET,
    ),
    "DiT-XL/2": (
        DiTTransformer2DModel,
        {
            "full": DIT_XL,
            "small": DIT_XL | dict(num_layers=2),
            "thin": DIT_XL | dict(sample_size=8, attention_head_dim=4),
        },
        dit_arguments,
        DIT,
    ),
}


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--kinds", nargs="+", choices=[*KINDS, MERGED], default=[*KINDS, MERGED])
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1, 4, 8])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--passes", type=int, default=5, help="timed together in a round")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--shapes", choices=["full", "thin", "small"], default="full", help="of the models")
    parser.add_argument("--output-dir", type=Path, default=record.RESULTS)
    return parser.parse_args()


def seconds(call, passes: int, device: str) -> float:
    """Time some calls together, in seconds."""
    cuda = device.startswith("cuda")
    if cuda:
        torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(passes):
        call()
    if cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - started


@contextlib.contextmanager
def adapted(model, anatomy, kind: str):
    """Attach adapters of a kind for the time of a block, at w = 5."""
    chosen = KINDS[kind.removesuffix(", merged")]
    adapters = attach(model, AdapterConfig(**chosen, zero_init=False), anatomy, freeze=False).eval()
    try:
        if kind.endswith(", merged"):
            adapters.fuse(5.0)
        with adapters.scale(5.0):
            yield
        if kind.endswith(", merged"):
            adapters.unfuse()
    finally:
        detach(model)


def measure(model, arguments, twice, anatomy, asked: argparse.Namespace) -> dict:
    """Return for each way of sampling the ratios of its time to the plain pass's: median, lowest, highest."""

    def plain():
        model(**arguments)

    def guided():
        model(**twice)

    ways = {"guidance": (contextlib.nullcontext, guided)}
    ways |= {kind: (functools.partial(adapted, model, anatomy, kind), plain) for kind in asked.kinds}
    seconds(plain, 2, asked.device)  # warm-up
    ratios, of_plain = {name: [] for name in ways}, []
    for _ in range(asked.rounds):
        for name, (way, call) in ways.items():
            of_plain.append(seconds(plain, asked.passes, asked.device))
            with way():
                seconds(call, 1, asked.device)  # attaching is outside the timed part, and so is the first pass
                ratios[name].append(seconds(call, asked.passes, asked.device) / of_plain[-1])
    found = {name: dict(median=statistics.median(r), lowest=min(r), highest=max(r)) for name, r in ratios.items()}
    return {"seconds_per_plain_pass": statistics.median(of_plain) / asked.passes, "ratios": found}


@torch.no_grad()
def main() -> None:
    asked, records = options(), []
    for name in asked.models:
        kind, by_size, make_arguments, anatomy = MODELS[name]
        shapes = by_size[asked.shapes]
        torch.manual_seed(0)
        torch.set_default_dtype(torch.bfloat16)
        with torch.device(asked.device):
            model = kind(**shapes).eval()
        torch.set_default_dtype(torch.float32)
        for batch in asked.batch_sizes:
            with torch.device(asked.device):
                arguments, twice = make_arguments(shapes, batch), make_arguments(shapes, 2 * batch)
            found = {
                "model": name,
                "device": torch.cuda.get_device_name() if asked.device.startswith("cuda") else "cpu",
                "torch": torch.__version__,
                "batch_size": batch,
                **measure(model, arguments, twice, anatomy, asked),
            }
            print(json.dumps(found), flush=True)
            records.append(found)
        del model
    device = "gpu" if asked.device.startswith("cuda") else "cpu"
    record.write(f"one_pass-{asked.shapes}-{device}", records, device, asked.output_dir, say=False)


if __name__ == "__main__":
    main()
