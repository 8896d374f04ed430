"""Stage `train_base`: train a small diffusion model of handwritten digits, in a folder that diffusers opens.

`python -m agd.digits.train_base --output-dir BASE`, then `DiffusionPipeline.from_pretrained("BASE")`.

Trains an autoencoder first, as in every latent diffusion model. Then trains the denoiser on its latents, together with
the text encoders, if any. The class or caption is dropped once per sample, outside the model: each block of diffusers'
DiT has its own label embedder, and in training mode each would drop labels separately.
"""

import dataclasses
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiffusionPipeline
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers.utils import logging

from agd.artifacts.files import folder_aside, make_folder, settle
from agd.artifacts.provenance import provenance
from agd.artifacts.sealed_json import RECORD, check_folder, checksums, sealed_json
from agd.diffusion.base_models import locate, open_safely
from agd.digits.architectures import ARCHITECTURES, autoencoder
from agd.digits.data import captions, digits
from agd.runtime import devices
from agd.runtime.errors import UserError
from agd.runtime.progress import progress_bar
from agd.settings import configuration
from agd.settings.entry_points import entry_point

logging.disable_progress_bar()  # a stage shows its own progress bar

STAGE = "train_base"
_KL_WEIGHT = 1e-3
_VAE_LEARNING_RATE = 3e-3


@dataclasses.dataclass(frozen=True)
class Settings:
    """config/schema.yaml describes each field."""

    architecture: str
    continues: str
    slanted: bool
    vae_steps: int
    steps: int
    batch_size: int
    learning_rate: float
    label_dropout: float
    average_decay: float
    seed: int
    device: str


def fit(parameters, steps: int, peak: float, what: str, loss_of_step) -> None:
    """Minimise `loss_of_step(step)` with AdamW on a one-cycle schedule."""
    optimizer = torch.optim.AdamW(parameters, lr=peak, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak, total_steps=steps)
    with progress_bar(range(steps), f"{STAGE} ({what})") as bar:
        for step in bar:
            loss = loss_of_step(step)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            bar.set_postfix(loss=f"{loss.item():.4f}", refresh=False)


def train_autoencoder(x: torch.Tensor, settings: Settings) -> AutoencoderKL:
    """Train the autoencoder on images (n, 1, 8, 8) in [-1, 1], and store the latents' scaling factor in its
    configuration."""
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
    """Train one of agd.digits.architectures on scaled latents z (n, 1, 8, 8). Returns it with averaged weights.

    The model's scheduler decides whether it predicts noise or velocity.
    """
    model.to(z.device).eval()  # eval: no label dropout inside a DiT's blocks
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(settings.average_decay))
    # Sampling schedulers add noise differently; all models train with DDIM's.
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


def open_base(folder: str) -> DiffusionPipeline:
    """Open a base trained here. Raises UserError if it is not there, or damaged."""
    if not (locate(folder, "continues") / RECORD).is_file():
        raise UserError(
            f"continues: {folder} was not trained here (it has no {RECORD}); give a base that train_base made"
        )
    check_folder(folder)
    return open_safely(DiffusionPipeline, Path(folder))


def autoencoder_of(base: str, device: torch.device) -> AutoencoderKL:
    """Return the autoencoder of a base trained here."""
    return open_base(base).vae.to(device).eval()


def take_weights(model: nn.Module, base: str) -> None:
    """Give a model the weights of a base trained here. Raises UserError if that is of another architecture."""
    pipe = open_base(base)
    parts = {**pipe.components, "denoiser": pipe.components.get("unet") or pipe.components.get("transformer")}
    for name, part in model.named_children():
        try:
            part.load_state_dict(parts[name].state_dict())
        except (KeyError, RuntimeError):
            raise UserError(f"continues: {base} is of another architecture; give one of the same") from None


def run(files, settings: Settings) -> None:
    """Write the pipeline into `--output-dir`, with a `provenance.json` beside its index."""
    folder = make_folder(files.output_dir)
    device = devices.device(settings.device)
    torch.manual_seed(settings.seed)
    images, labels = (a.to(device) for a in digits(settings.slanted))
    x = images * 2 - 1
    vae = autoencoder_of(settings.continues, device) if settings.continues else train_autoencoder(x, settings)
    with torch.no_grad():
        z = vae.encode(x).latent_dist.mode() * vae.config.scaling_factor
    model = ARCHITECTURES[settings.architecture](labels, captions())
    if settings.continues:
        take_weights(model, settings.continues)
    model = train_denoiser(model, z, settings)
    made = provenance(STAGE, configuration.recorded(STAGE, settings), devices.describe(device))
    publish(model.cpu().pipeline(vae.cpu()), folder, made)


def publish(pipe: DiffusionPipeline, folder: Path, made: dict) -> None:
    """Save the pipeline and its checksums to a temporary folder, then move each file to its final name.

    The index is last: without it, diffusers does not open the folder as a pipeline.
    """
    with folder_aside(folder) as aside:
        pipe.save_pretrained(aside)
        names = [file.relative_to(aside) for file in aside.rglob("*") if file.is_file()]
        (aside / RECORD).write_bytes(sealed_json({"provenance": made, "files": checksums(aside, map(str, names))}))
        names.append(Path(RECORD))
        for name in sorted(names, key=lambda name: (name.name == "model_index.json", name)):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            settle(aside / name, folder / name)


main = entry_point(STAGE, model="digits-dit")

if __name__ == "__main__":
    main()
