"""Opens guides of the images in addition to the prompt: an IP-Adapter or a ControlNet, each with a picture."""

from pathlib import Path

import torch
from diffusers import ControlNetModel
from diffusers.models.embeddings import ImageProjection
from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

from agd.artifacts.provenance import fingerprint
from agd.diffusion import guide_files
from agd.runtime.errors import UserError, errors_say, one_line
from agd.settings.command_line import flag
from agd.settings.guides import NEEDED


def check(files) -> None:
    """Raise UserError if a file is missing or can't be read. Loads no weights. Stages without guides pass."""
    given = vars(files)
    guide_files.check(given, flag)
    if given.get("guide") and not any(given.get(name) for name in NEEDED):
        raise UserError(
            "--guide: given without --controlnet and --ip-adapter, which it names; give one, or leave it out"
        )


def identities(files) -> dict[str, str]:
    """Return the guide's name, if it has one, and the sha256 of each picture, set of weights and network in use."""
    names = [name for others in NEEDED.items() for name in (others[0], *others[1]) if getattr(files, name)]
    named = {"guide": files.guide} if files.guide else {}
    return named | {name: fingerprint(Path(getattr(files, name))) for name in names}


def open_ip_adapter(pipe, files, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Load an IP-Adapter into a pipeline.

    Returns embeddings (1, 1, D) or (1, n, D) of no picture and of the given one.
    """
    encoder = _opened("image_encoder", CLIPVisionModelWithProjection, files.image_encoder, pipe.unet.dtype)
    side = encoder.config.image_size
    pipe.register_modules(
        image_encoder=encoder.to(device).eval(), feature_extractor=CLIPImageProcessor(size=side, crop_size=side)
    )
    path = Path(files.ip_adapter)
    problem = f"--ip-adapter: {path} doesn't fit this model"
    with errors_say(f"--ip-adapter: {path}", lambda error: f"{problem} ({one_line(error)}); give one made for it"):
        pipe.load_ip_adapter(str(path.parent), subfolder="", weight_name=path.name, image_encoder_folder=None)
    (projection,) = pipe.unet.encoder_hid_proj.image_projection_layers
    tokens = not isinstance(projection, ImageProjection)
    picture = guide_files.picture(files.ip_adapter_image, flag("ip_adapter_image"))
    given, none = pipe.encode_image(picture, device, 1, tokens)
    return none[None], given[None]


def open_controlnet(pipe, files, dtype: torch.dtype, side: int) -> tuple[ControlNetModel, torch.Tensor]:
    """Open a ControlNet, and its picture (1, 3, side, side) in [0, 1]."""
    model = _opened("controlnet", ControlNetModel, files.controlnet, dtype).eval().requires_grad_(False)
    ours, theirs = (network.config.cross_attention_dim for network in (pipe.unet, model))
    if ours != theirs:
        raise UserError(
            f"--controlnet: {files.controlnet} reads prompts of width {theirs}, this model's are {ours}; give one made for it"
        )
    picture = guide_files.picture(files.controlnet_image, flag("controlnet_image")).resize((side, side))
    control = pipe.image_processor.numpy_to_pt(pipe.image_processor.pil_to_numpy(picture))
    return model, control.to(pipe.unet.device, dtype)


def _opened(name: str, kind, path: str, dtype: torch.dtype):
    problem, advice = f"{flag(name)}: {path} can't be opened", f"give a folder that holds a {kind.__name__}"
    with errors_say(f"{flag(name)}: {path}", lambda error: f"{problem} ({one_line(error)}); {advice}"):
        model, loading = kind.from_pretrained(path, dtype=dtype, use_safetensors=True, output_loading_info=True)
        if lacking := sorted(loading["missing_keys"]):
            raise ValueError(f"its weights lack {lacking[0]}, {len(lacking)} in all")
        return model
