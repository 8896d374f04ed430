"""Stage `train_base`: a small diffusion model of handwritten digits, in a folder that diffusers opens.

`python -m agd.digits.train_base --output-dir BASE`, then `DiffusionPipeline.from_pretrained("BASE")`.

An autoencoder first (as for every latent diffusion model), then the denoiser on its latents, with its text encoders if it
has any. The class or caption is dropped once per sample, outside the model: the blocks of diffusers' DiT each own a label
embedder, and in training mode each would drop its own.
"""

import dataclasses
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiffusionPipeline
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers.utils import logging

from agd import devices
from agd.artifacts import folder_aside, make_folder, settle
from agd.cli import door
from agd.digits.architectures import ARCHITECTURES, autoencoder
from agd.digits.data import captions, digits
from agd.progress import progress
from agd.provenance import provenance
from agd.records import RECORD, sealed_json, vouch

logging.disable_progress_bar()  # a stage shows one bar of its own

STAGE = "train_base"
_KL_WEIGHT = 1e-3
_VAE_LEARNING_RATE = 3e-3


@dataclasses.dataclass(frozen=True)
class Settings:
    """config/schema.yaml says what each of these is."""

    architecture: str
    vae_steps: int
    steps: int
    batch_size: int
    learning_rate: float
    label_dropout: float
    average_decay: float
    seed: int
    device: str


def fit(parameters, steps: int, peak: float, what: str, loss_of_step) -> None:
    """Minimise with AdamW on a one-cycle schedule; `loss_of_step(step)` gives the loss and is told nothing else."""
    optimizer = torch.optim.AdamW(parameters, lr=peak, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak, total_steps=steps)
    with progress(range(steps), f"{STAGE} ({what})") as bar:
        for step in bar:
            loss = loss_of_step(step)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            bar.set_postfix(loss=f"{loss.item():.4f}", refresh=False)


def train_autoencoder(x: torch.Tensor, settings: Settings) -> AutoencoderKL:
    """Fit the autoencoder to images (n, 1, 8, 8) in [-1, 1], and note the latents' scale in its configuration."""
    vae = autoencoder().to(x.device)

    def loss_of_step(step: int) -> torch.Tensor:
        batch = x[torch.randint(len(x), (settings.batch_size,))]
        posterior = vae.encode(batch).latent_dist
        decoded = vae.decode(posterior.sample()).sample
        return nn.functional.mse_loss(decoded, batch) + _KL_WEIGHT * posterior.kl().mean() / batch[0].numel()

    fit(vae.parameters(), settings.vae_steps, _VAE_LEARNING_RATE, "autoencoder", loss_of_step)
    with torch.no_grad():
        vae.register_to_config(scaling_factor=1 / vae.encode(x).latent_dist.mode().std().item())
    return vae.eval()


def train_denoiser(model: nn.Module, z: torch.Tensor, settings: Settings) -> nn.Module:
    """Fit one of agd.digits.architectures to scaled latents z (n, 1, 8, 8): predict noise or velocity, as its scheduler
    says; returns it with the average of its weights."""
    model.to(z.device).eval()  # eval: no label dropout inside a DiT's blocks
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(settings.average_decay))
    # Schedulers for sampling disagree on how to add noise; training's is one for all.
    schedule = DDIMScheduler.from_config(model.scheduler.config)
    velocity = schedule.config.prediction_type == "v_prediction"

    def loss_of_step(step: int) -> torch.Tensor:
        if step:
            average.update_parameters(model)
        chosen = torch.randint(len(z), (settings.batch_size,))
        t = torch.randint(schedule.config.num_train_timesteps, (settings.batch_size,), device=z.device)
        dropped = torch.rand(settings.batch_size, device=z.device) < settings.label_dropout
        noise = torch.randn_like(z[chosen])
        predicted = model(schedule.add_noise(z[chosen], noise, t), t, chosen.to(z.device), dropped)
        target = schedule.get_velocity(z[chosen], noise, t) if velocity else noise
        return nn.functional.mse_loss(predicted, target)

    fit(model.parameters(), settings.steps, settings.learning_rate, "denoiser", loss_of_step)
    average.update_parameters(model)
    return average.module.eval()


def run(files, settings: Settings) -> None:
    """Write the pipeline into `--output-dir`, and `provenance.json` beside its index."""
    folder = make_folder(files.output_dir)
    device = devices.device(settings.device)
    torch.manual_seed(settings.seed)
    images, labels = (a.to(device) for a in digits())
    x = images * 2 - 1
    vae = train_autoencoder(x, settings)
    with torch.no_grad():
        z = vae.encode(x).latent_dist.mode() * vae.config.scaling_factor
    model = train_denoiser(ARCHITECTURES[settings.architecture](labels, captions()), z, settings)
    chosen = {k: v for k, v in dataclasses.asdict(settings).items() if k != "device"}
    made = provenance(STAGE, chosen, devices.describe(device))
    publish(model.cpu().pipeline(vae.cpu()), folder, made)


def publish(pipe: DiffusionPipeline, folder: Path, made: dict) -> None:
    """Save aside, with a record that vouches for every file, then move each to its final name, the index last: without
    it the folder opens as no pipeline."""
    with folder_aside(folder) as aside:
        pipe.save_pretrained(aside)
        names = [file.relative_to(aside) for file in aside.rglob("*") if file.is_file()]
        (aside / RECORD).write_bytes(sealed_json({"provenance": made, "files": vouch(aside, map(str, names))}))
        names.append(Path(RECORD))
        for name in sorted(names, key=lambda name: (name.name == "model_index.json", name)):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            settle(aside / name, folder / name)


main = door(STAGE, model="digits-dit")

if __name__ == "__main__":
    main()
