"""Lists the files that this folder's stages make. Imports nothing heavy: the rules read it."""

_EVERY_BASE = ["model_index.json", "provenance.json", "scheduler/scheduler_config.json"]
_MODEL = ["config.json", "diffusion_pytorch_model.safetensors"]
_TOKENIZER = ["tokenizer.json", "tokenizer_config.json"]
_TEXT_ENCODER = ["config.json", "model.safetensors"]


def _within(files: list[str], *folders: str) -> list[str]:
    return [f"{folder}/{file}" for folder in folders for file in files]


_ONE_TEXT = _within(_TOKENIZER, "tokenizer") + _within(_TEXT_ENCODER, "text_encoder")
_TWO_TEXTS = _ONE_TEXT + _within(_TOKENIZER, "tokenizer_2") + _within(_TEXT_ENCODER, "text_encoder_2")
# Architecture -> files of its base, in results/{model}/base.
BASE_FILES = {
    "dit": _EVERY_BASE + _within(_MODEL, "transformer", "vae"),
    "sd": _EVERY_BASE + _within(_MODEL, "unet", "vae") + _ONE_TEXT,
    "sdxl": _EVERY_BASE + _within(_MODEL, "unet", "vae") + _TWO_TEXTS,
}
_ZIPS = ["images.zip", "annotations.zip"]
DATA_FILES = _within([*_ZIPS, "classifier.safetensors"], "results/digits") + _within(_ZIPS, "results/digits-slanted")
