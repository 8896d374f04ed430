"""The family's constants that need no torch (agd/settings/families.py describes each name)."""

from agd.settings.stages import Argument

DENOISER = "UNet2DConditionModel"
DENOISER_FOLDER = "unet"
SUBJECTS = "prompts"

_UNCONDITIONAL = {
    "description": (
        "Embedding of the unconditional prediction. zeros: all zeros. empty: that of the empty prompt. auto: the stock "
        "pipeline's choice without a negative prompt. It is recorded with the trajectories."
    ),
    "enum": ["auto", "zeros", "empty"],
}
_CACHED = {
    "description": (
        "T-GATE (arXiv 2404.02747): at steps that cfg does not guide, cross-attentions give again what they gave at the last "
        "guided step."
    ),
    "only_for": "cfg",
    "type": "boolean",
}
SETTINGS = {
    "sample_trajectories": {"unconditional": _UNCONDITIONAL},
    "sample": {"unconditional": _UNCONDITIONAL | {"only_for": "cfg"}, "cached_cross_attention": _CACHED},
    "measure_fidelity": {"unconditional": _UNCONDITIONAL, "cached_cross_attention": _CACHED},
}

ARGUMENTS = {
    "sample": [
        Argument("--ip-adapter", dict(metavar="FILE", help="weights of an IP-Adapter (.safetensors)")),
        Argument("--ip-adapter-image", dict(metavar="IMAGE", help="picture that the IP-Adapter looks at")),
        Argument("--image-encoder", dict(metavar="FOLDER", help="image encoder of the IP-Adapter")),
        Argument("--controlnet", dict(metavar="FOLDER", help="ControlNet: folder that diffusers opens")),
        Argument("--controlnet-image", dict(metavar="IMAGE", help="picture that the ControlNet follows")),
        Argument("--guide", dict(metavar="NAME", help="a name for what the images follow, for their record")),
    ],
}
