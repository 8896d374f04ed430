"""Times what agd adds to the model's own work, on a CPU: `python -m benchmarks.overhead`.

trajectories: the seconds of a stage over those that its calls of the denoiser took, measured inside of it.
training: the seconds of a training step over those of the plain forward and backward pass through the frozen base, in turn.
loading: pairs per second that a training's workers read and hand over, from shards of real shape filled with noise.

The digits' models have random weights here, which don't change the time.
"""

import argparse
import functools
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader

from agd import sample_trajectories, train
from agd.adapters.attaching import detach
from agd.artifacts import trajectories
from agd.artifacts.pairs import Pairs
from agd.artifacts.provenance import provenance
from agd.diffusion.batches import batch_indices, batches_from, with_conditions
from agd.diffusion.distillation import Distillation
from agd.digits.architectures import ARCHITECTURES, autoencoder
from agd.digits.data import captions, digits
from agd.runtime.progress import progress_bar
from agd.settings import configuration, families
from agd.settings.entry_points import settings_of
from benchmarks import record

MODELS = ("digits-dit", "digits-sd", "digits-sdxl")
# (steps, channels, height, width) of a trajectory, and conditions: what a shard of each large model holds.
SHAPES = {
    "dit": ((1000, 4, 32, 32), {"class_label": ((), np.int64)}),
    "sdxl": ((50, 4, 128, 128), {"prompt_embeds": ((77, 2048), np.float32), "text_embeds": ((1280,), np.float32)}),
}


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--shapes", nargs="*", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--rounds", type=record.positive, default=5)
    parser.add_argument("--number", type=record.positive, default=250, help="trajectories of a round")
    parser.add_argument("--steps", type=record.positive, default=20, help="training steps of a round")
    parser.add_argument("--output-dir", type=Path, default=record.RESULTS)
    return parser.parse_args()


def opened(name: str, folder: Path, config: dict):
    """Make a digits model with random weights and open it, as a stage would."""
    torch.manual_seed(0)
    _, labels = digits()
    kind = ARCHITECTURES[configuration.settings(config, name, "train_base")["architecture"]]
    kind(labels, captions()).pipeline(autoencoder()).save_pretrained(folder)
    family = config["models"][name]["family"]
    return families.model_class(family)(str(folder), torch.float32, torch.device("cpu"), conditions=True, images=True)


def subjects(name: str) -> list:
    """Return what the model's samples depict, in turn."""
    return list(range(10)) if name == "digits-dit" else captions()[:50]


class DenoiserClock:
    """The seconds spent in a model's denoiser, while attached."""

    def __init__(self, denoiser):
        self.seconds, self._began = 0.0, 0.0
        self._handles = [denoiser.register_forward_pre_hook(self._begin), denoiser.register_forward_hook(self._end)]

    def _begin(self, *_) -> None:
        self._began = time.perf_counter()

    def _end(self, *_) -> None:
        self.seconds += time.perf_counter() - self._began

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()


def sampled(name: str, model, settings, number: int, folder: Path) -> tuple[trajectories.Shard, float]:
    """Sample and write a shard, as the stage does. Returns it, and the seconds over those of the denoiser's calls."""
    study = sample_trajectories.Trajectories(model, settings, 0, subjects(name), None)
    clock, started = DenoiserClock(model.denoiser), time.perf_counter()
    with progress_bar(None, name, total=number * settings.num_inference_steps) as bar:
        shard = sample_trajectories.sample_shard(study, list(range(number)), bar)
    trajectories.write(folder / trajectories.shard_name(0), shard)
    ratio = (time.perf_counter() - started) / clock.seconds
    clock.remove()
    return shard, ratio


def trained(model, settings, pairs: Pairs, rounds: int, steps: int) -> dict:
    """Return the ratios of a training step's time to the plain passes' of the same batch, and the share that it waits."""
    accelerator = train.processes.accelerator(torch.device("cpu"), 1, settings.batch_size)
    distillation, ratios, waits = Distillation(model), [], []
    for turn in range(rounds):
        loader = batches_from(0, settings, turn, pairs, len(pairs), accelerator, settings.num_workers)
        adapters = train.new_adapters(model, settings, turn, 3.0)
        optimizer = torch.optim.AdamW(adapters.parameters(), lr=settings.learning_rate)
        waited, batches, started = 0.0, [], time.perf_counter()
        for _ in range(steps):
            asked = time.perf_counter()
            batch = next(loader)
            waited += time.perf_counter() - asked
            batches.append(batch)
            optimizer.zero_grad(set_to_none=True)
            adapters.current.set_scale(batch["guidance_scale"])
            distillation(batch)[1].mean().backward()
            optimizer.step()
        ours = time.perf_counter() - started
        detach(model.denoiser)
        started = time.perf_counter()
        for batch in batches:
            distillation({**batch, "x": batch["x"].requires_grad_()})[0].mean().backward()
        ratios.append(ours / (time.perf_counter() - started))
        waits.append(waited / ours)
    return {"step_over_plain_passes": record.spread(ratios), "share_waiting_for_data": record.spread(waits)}


def loaded(kind: str, rounds: int, folder: Path) -> dict:
    """Return the rates at which shards of a large model's shape are written, and pairs of them read by a training."""
    (steps, *latent), conditions = SHAPES[kind]
    config = configuration.shipped()
    settings = configuration.settings(config, kind, "train")
    number = max(1, (256 << 20) // (steps * 2 * int(np.prod(latent)) * 2))  # a quarter of a GiB
    random = np.random.default_rng(0)
    made = {name: random.standard_normal((number, *shape)).astype(dtype) for name, (shape, dtype) in conditions.items()}
    pairs = random.standard_normal((number, steps, 2, *latent), dtype=np.float32).astype(np.float16)
    about = provenance("sample_trajectories", {}, "cpu", base={"fingerprint": ""}, seed=0, subjects={})
    scales, timesteps = np.ones(number, np.float32), np.arange(steps, dtype=np.float32)
    shard = trajectories.Shard(pairs, timesteps, scales, np.arange(number), made, about)
    path, found = folder / trajectories.shard_name(0), {"write_mb_per_second": [], "pairs_per_second": []}
    size = settings["batch_size"]
    for turn in range(rounds):
        started = time.perf_counter()
        trajectories.write(path, shard)
        found["write_mb_per_second"].append(path.stat().st_size / 1e6 / (time.perf_counter() - started))
        read = Pairs([path], memory_bytes=0)
        chosen = [batch_indices(k, turn, len(read), size).tolist() for k in range(2, 18)]
        loader = DataLoader(read, batch_sampler=chosen, num_workers=settings["num_workers"])
        loader = (with_conditions(batch, read) for batch in loader)
        next(loader)  # the workers have started
        started = time.perf_counter()
        number_read = sum(len(batch["x"]) for batch in loader)
        found["pairs_per_second"].append(number_read / (time.perf_counter() - started))
    return {name: record.spread(values) for name, values in found.items()} | {"batch_size": size}


def main() -> None:
    asked, config, found = options(), configuration.shipped(), {}
    for name in asked.models:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            model = opened(name, folder / "base", config)
            few = {"num_trajectories": asked.number}
            chosen = configuration.settings(config, name, "sample_trajectories") | few
            settings = settings_of(sample_trajectories.Settings, chosen)
            sample = functools.partial(sampled, name, model, settings, asked.number, folder)
            sample()  # warm-up
            ratios = [sample()[1] for _ in range(asked.rounds)]
            pairs = Pairs([folder / trajectories.shard_name(0)])
            chosen = settings_of(train.Settings, configuration.settings(config, name, "train"))
            own = trained(model, chosen, pairs, asked.rounds, asked.steps)
            size = (folder / trajectories.shard_name(0)).stat().st_size / len(pairs)
            found[name] = {"trajectories_over_denoiser": record.spread(ratios), "bytes_per_pair": round(size), **own}
    for kind in asked.shapes:
        with tempfile.TemporaryDirectory() as place:
            found[kind] = loaded(kind, asked.rounds, Path(place))
    record.write("overhead", found, folder=asked.output_dir)


if __name__ == "__main__":
    main()
