"""Writes docs/pipelines.md: every pipeline class of the installed diffusers that adapters could be asked for.

python docs/list_pipelines.py
"""

import inspect
from pathlib import Path

import diffusers

from agd.adapters import known_pipelines
from agd.settings import families

PAGE = Path(__file__).resolve().parent / "pipelines.md"
HEAD = """# Pipelines

`agd.load(pipe, ...)` serves the classes below: a call makes one pass per step, with the caller's `guidance_scale`. A test shows of each
that the denoiser gets the conditional half of what a guided call gives it, with the scale asked for, and that the pipeline without
adapters is the stock one again, bit for bit (`tests/adapters/test_known_pipelines.py`; of `DiTPipeline`, `test_public.py`). w is that of
diffusers: 1 is no guidance.

Of each class `tests/adapters/test_pipeline_properties.py` also asks what diffusers asks of its own: equal calls give equal bits, an image
does not depend on its batch, several images per prompt, bfloat16, saving and loading, prompts encoded beforehand, and callbacks. A callback
sees the caller's `guidance_scale`, and its change of `pipe._guidance_scale` holds for the steps to come; its tensors are those of one pass,
so it sees `do_classifier_free_guidance` False. `negative_prompt_embeds` that are the empty prompt's ask for nothing, and cost no second
pass; others are guided in two, as a negative prompt is.

A class of your own is served if it is one of these and changes no method or property of it but the constructor. For others, load on the
denoiser and call it with the scale: `agd.load(pipe.unet, folder)`, then `with pipe.unet.agd.scale(w):` and `guidance_scale=1`, if one
conditional pass is what that pipeline makes then.

A second pipeline over the same denoiser (`from_pipe`, `pipe.components`) is a stock one until `agd.load(second, folder)`: the base
guides it in two passes, and a warning says so. Where the adapter is merged (`fuse`), a call without a scale is refused.

`PYTHONPATH=. python docs/list_pipelines.py` makes this page from `agd/adapters/known_pipelines.py` and diffusers """


def guiding_classes() -> list[str]:
    """The pipeline classes of the installed diffusers whose denoiser takes adapters, and whose call takes a guidance scale."""
    found = []
    for name in dir(diffusers):
        if not name.endswith(("Pipeline", "PipelineSafe")):
            continue
        try:
            kind = getattr(diffusers, name)
            parts, arguments = inspect.signature(kind.__init__).parameters, inspect.signature(kind.__call__).parameters
        except (AttributeError, TypeError, ValueError, ImportError, RuntimeError):
            continue
        taken = [str(parts[part].annotation) for part in ("unet", "transformer") if part in parts]
        if "guidance_scale" in arguments and any(one in words for words in taken for one in families.denoisers()):
            found.append(name)
    return sorted(found)


def page() -> str:
    """The page's text."""
    lines = [f"{HEAD}{diffusers.__version__}.", "", "| class | |", "|---|---|"]
    for name in guiding_classes():
        why = known_pipelines.why_not(getattr(diffusers, name))
        lines.append(f"| `{name}` | {f'refused: {why}' if why else '**served**'} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
