"""Opens guides of the images in addition to the prompt: an IP-Adapter or a ControlNet, each with a picture."""

from pathlib import Path

import torch
from diffusers import ControlNetModel
from diffusers.models.embeddings import ImageProjection
from PIL import Image
from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

from agd.artifacts.files import sha256
from agd.artifacts.images import open_image
from agd.artifacts.provenance import model_fingerprint
from agd.artifacts.sealed_json import read_json
from agd.diffusion.base_models import check_weights
from agd.runtime.errors import UserError, errors_say, one_line
from agd.settings.command_line import flag
from agd.settings.guides import NEEDED, check_complete


def check(files) -> None:
    """Raise UserError if a file is missing or can't be read. Loads no weights. Stages without guides pass."""
    check_complete(vars(files), flag)
    for name, others in NEEDED.items():
        path = getattr(files, name, None)
        for other in others:
            if path and not Path(getattr(files, other)).exists():
                raise UserError(f"{flag(other)}: {getattr(files, other)} is not there; check the path")
        if path and not Path(path).exists():
            raise UserError(f"{flag(name)}: {path} is not there; check the path")
        if path:
            _picture(f"{name}_image", getattr(files, f"{name}_image"))
            _check_weights(name, files)


def _check_weights(name: str, files) -> None:
    if name == "ip_adapter" and Path(files.ip_adapter).suffix != ".safetensors":
        raise UserError(
            f"--ip-adapter: {files.ip_adapter} is not a .safetensors file, and nothing else is read; convert it"
        )
    folder = "image_encoder" if name == "ip_adapter" else name
    check_weights(Path(getattr(files, folder)), flag(folder))
    wanted = ControlNetModel.__name__
    if (
        name == "controlnet"
        and (kind := read_json(Path(files.controlnet) / "config.json").get("_class_name")) != wanted
    ):
        raise UserError(f"--controlnet: {files.controlnet} holds {kind}, not {wanted}; give a ControlNet")


def identities(files) -> dict[str, str]:
    """Return the sha256 of each picture, set of weights and network in use."""
    names = [name for others in NEEDED.items() for name in (others[0], *others[1]) if getattr(files, name)]
    return {name: _digest(Path(getattr(files, name))) for name in names}


def _digest(path: Path) -> str:
    return model_fingerprint(path) if path.is_dir() else sha256(path)


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
    picture = _picture("ip_adapter_image", files.ip_adapter_image)
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
    picture = _picture("controlnet_image", files.controlnet_image).resize((side, side))
    control = pipe.image_processor.numpy_to_pt(pipe.image_processor.pil_to_numpy(picture))
    return model, control.to(pipe.unet.device, dtype)


def _opened(name: str, kind, path: str, dtype: torch.dtype):
    problem, advice = f"{flag(name)}: {path} can't be opened", f"give a folder that holds a {kind.__name__}"
    with errors_say(f"{flag(name)}: {path}", lambda error: f"{problem} ({one_line(error)}); {advice}"):
        model, loading = kind.from_pretrained(path, dtype=dtype, use_safetensors=True, output_loading_info=True)
        if lacking := sorted(loading["missing_keys"]):
            raise ValueError(f"its weights lack {lacking[0]}, {len(lacking)} in all")
        return model


def _picture(name: str, path: str) -> Image.Image:
    try:
        return open_image(Path(path).read_bytes(), path).convert("RGB")
    except (OSError, UserError):
        raise UserError(f"{flag(name)}: {path} is not a picture that can be read; give a PNG or JPEG file") from None
