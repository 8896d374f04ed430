"""The pipeline classes that adapters serve: one pass per step then gives what guidance in two passes gave.

Guidance means something else in each pipeline, and no list of arguments can be right for a pipeline that nobody has seen. So a
class is served if a test shows that its adapted call gives the denoiser the conditional half of what its guided call gives it.
Others are refused, by one line.
"""

_SD = ("Pipeline", "Img2ImgPipeline", "InpaintPipeline", "AdapterPipeline")
_SD += ("ControlNetPipeline", "ControlNetImg2ImgPipeline", "ControlNetInpaintPipeline")
_PAG = ("PAGPipeline", "PAGImg2ImgPipeline", "PAGInpaintPipeline", "ControlNetPAGPipeline")
SERVED = frozenset(
    ["DiTPipeline", "KolorsPipeline", "KolorsImg2ImgPipeline", "KolorsPAGPipeline"]
    + [f"StableDiffusion{name}" for name in (*_SD, *_PAG, "ControlNetPAGInpaintPipeline")]
    + [f"StableDiffusionXL{name}" for name in (*_SD, *_PAG, "ControlNetPAGImg2ImgPipeline")]
)

_EDITS = "its call guides by more than the prompt"
_PICTURES = "its conditions are pictures, not the prompts that adapters are trained on"
_VIDEO = "it makes videos or sound"
_OWN_UNET = "its UNet takes other inputs than those of text to image"
_DISTILLED = "its UNet is itself distilled to take a guidance scale"
_OLD = "diffusers no longer keeps it up"
_UNTRIED = "no test shows that one pass of it is right"
# Why: classes of diffusers whose denoisers take adapters and whose calls take a guidance scale, but for those served.
REFUSED = {
    **dict.fromkeys(("StableDiffusionInstructPix2PixPipeline", "StableDiffusionXLInstructPix2PixPipeline"), _EDITS),
    **dict.fromkeys(
        ("SemanticStableDiffusionPipeline", "StableDiffusionPipelineSafe", "CycleDiffusionPipeline"), _EDITS
    ),
    **dict.fromkeys(("StableDiffusionDiffEditPipeline", "StableDiffusionPix2PixZeroPipeline"), _EDITS),
    **dict.fromkeys(("StableDiffusionAttendAndExcitePipeline", "StableDiffusionSAGPipeline"), _EDITS),
    **dict.fromkeys(("BlipDiffusionPipeline", "BlipDiffusionControlNetPipeline", "PaintByExamplePipeline"), _PICTURES),
    **dict.fromkeys(
        ("StableDiffusionImageVariationPipeline", "StableUnCLIPPipeline", "StableUnCLIPImg2ImgPipeline"), _PICTURES
    ),
    **dict.fromkeys(("StableDiffusionGLIGENPipeline", "StableDiffusionGLIGENTextImagePipeline"), _OWN_UNET),
    **dict.fromkeys(("StableDiffusionUpscalePipeline", "StableDiffusionLatentUpscalePipeline"), _OWN_UNET),
    **dict.fromkeys(
        (
            "StableDiffusionDepth2ImgPipeline",
            "StableDiffusionControlNetXSPipeline",
            "StableDiffusionXLControlNetXSPipeline",
        ),
        _OWN_UNET,
    ),
    **dict.fromkeys(("LatentConsistencyModelPipeline", "LatentConsistencyModelImg2ImgPipeline"), _DISTILLED),
    **dict.fromkeys(("TextToVideoZeroPipeline", "TextToVideoZeroSDXLPipeline", "MusicLDMPipeline"), _VIDEO),
    **dict.fromkeys(
        ("AltDiffusionPipeline", "AltDiffusionImg2ImgPipeline", "StableDiffusionModelEditingPipeline"), _OLD
    ),
    **dict.fromkeys(("StableDiffusionParadigmsPipeline",), _OLD),
    **dict.fromkeys(
        ("StableDiffusionLDM3DPipeline", "StableDiffusionPanoramaPipeline", "LDMTextToImagePipeline"), _UNTRIED
    ),
    **dict.fromkeys((f"StableDiffusionXLControlNetUnion{end}Pipeline" for end in ("", "Img2Img", "Inpaint")), _UNTRIED),
}
REFUSED_BEGINNINGS = {
    "IF": _OWN_UNET,
    "Kandinsky": _PICTURES,
    "AnimateDiff": _VIDEO,
    "AudioLDM": _VIDEO,
    "PIA": _VIDEO,
}


def why_not(kind: type) -> str | None:
    """Return why a class of pipelines is not served, or None if it is.

    A subclass is served as its parent is, if it changes no method and no property of it but the constructor.
    """
    stock = getattr(kind, "_stock_class", kind)
    line = list(stock.__mro__)
    known = next((i for i, one in enumerate(line) if _of_diffusers(one) and one.__name__ in SERVED), None)
    if known is None or (_of_diffusers(stock) and stock.__name__ not in SERVED):
        return _refusal(stock.__name__)
    parent, changed = line[known], [name for one in line[:known] for name in vars(one) if _changes(vars(one)[name])]
    changed = [name for name in changed if hasattr(parent, name) and name != "__init__"]
    return f"it changes {changed[0]} of {parent.__name__}" if changed else None


def _changes(what) -> bool:
    return callable(what) or isinstance(what, property | classmethod | staticmethod)


def _of_diffusers(kind: type) -> bool:
    return kind.__module__.split(".")[0] == "diffusers"


def _refusal(name: str) -> str:
    if name in REFUSED:
        return REFUSED[name]
    return next((why for start, why in REFUSED_BEGINNINGS.items() if name.startswith(start)), _UNTRIED)
