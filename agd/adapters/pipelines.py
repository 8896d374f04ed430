"""Makes a diffusers pipeline with an adapted denoiser run one pass per step, with the caller's guidance scale.

If an adapter can't do what a call asks, such as a negative prompt, the base model guides in two passes, with a warning.
"""

import contextlib
import functools
import inspect
import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from agd.adapters.diffusers_integration import set_flag
from agd.runtime.errors import UserError

_FLAG_IN_USE = threading.Lock()


def denoiser_of(pipe) -> nn.Module | None:
    """Return the UNet or transformer of a pipeline, also if it is compiled or wrapped."""
    return unwrapped(getattr(pipe, "unet", getattr(pipe, "transformer", None)))


def unwrapped(denoiser):
    """Return what is inside of torch.compile's, PEFT's, DataParallel's and DistributedDataParallel's wrappers."""
    while True:
        if hasattr(denoiser, "_orig_mod"):
            denoiser = denoiser._orig_mod
        elif isinstance(denoiser, nn.DataParallel | nn.parallel.DistributedDataParallel):
            denoiser = denoiser.module
        elif isinstance(denoiser, nn.Module) and hasattr(denoiser, "get_base_model"):  # PEFT's PeftModel
            denoiser = denoiser.get_base_model()
        else:
            return denoiser


def wrap(pipe) -> None:
    """Make the pipeline run one pass per step, for any way of giving the guidance scale.

    A second call changes nothing.
    """
    if not hasattr(pipe, "_stock_class"):
        pipe.__class__ = _wrapped(type(pipe))


def unwrap(pipe) -> bool:
    """Undo `wrap`. Returns whether the pipeline was wrapped."""
    wrapped = hasattr(pipe, "_stock_class")
    if wrapped:
        pipe.__class__ = pipe._stock_class
    return wrapped


@functools.cache
def _wrapped(stock: type) -> type:
    """Make a subclass that looks like its parent to saved configurations, `from_pipe`, isinstance and help()."""

    @functools.wraps(stock.__call__)
    def __call__(self, *args, **kwargs):
        return _call(self, stock, args, kwargs)

    def __reduce_ex__(self, protocol):  # pickle would look for this class under its parent's name
        return _unpickled, (stock,), self.__dict__

    own = {"__call__": __call__, "__reduce_ex__": __reduce_ex__, "_stock_class": stock}
    same = {name: getattr(stock, name) for name in ("__module__", "__qualname__", "__doc__")}
    return type(stock.__name__, (stock,), {**own, **same})


def _unpickled(stock: type):
    """Make an empty wrapped pipeline, which pickle fills."""
    return object.__new__(_wrapped(stock))


def _call(pipe, stock: type, args: tuple, kwargs: dict):
    """Run one call of a wrapped pipeline: in one pass, or in two if the adapter can't do what the call asks."""
    adapters = getattr(denoiser_of(pipe), "agd", None)
    if adapters is None or not adapters.enabled:
        return stock.__call__(pipe, *args, **kwargs)
    bound = inspect.signature(stock.__call__).bind(pipe, *args, **kwargs)
    defaults = {name: parameter.default for name, parameter in bound.signature.parameters.items()}
    given = defaults | bound.arguments
    chosen = adapters.current.guidance_scale  # set by `with adapters.scale(w)`: overrides the argument
    w = given["guidance_scale"] if chosen is None else chosen
    w = torch.tensor(w) if isinstance(w, list) else w

    reason = _beyond_adapters(given, defaults)
    if reason and _number(w) is None:
        raise UserError(
            f"{reason}: only with one guidance scale for all images and steps; give a number, or leave it out"
        )
    if reason and _number(w) > 1:
        adapters.check_not_fused(reason)
        adapters.say_once(
            f"{reason} is beyond the adapter: such calls are guided by the base model itself, in two passes"
        )
        bound.arguments["guidance_scale"] = _number(w)
        with _base_alone(adapters):
            return stock.__call__(*bound.args, **bound.kwargs)

    if given.get("ip_adapter_image_embeds") is not None and (_number(given["guidance_scale"]) or 2) > 1:
        # A guided call gets the embeddings of no picture, then those of the picture. One pass needs only the second.
        halves = [embeds.chunk(2)[1] for embeds in given["ip_adapter_image_embeds"]]
        bound.arguments["ip_adapter_image_embeds"] = halves
    bound.arguments["guidance_scale"] = 1.0
    with adapters.scale(_per_image(w, given)):
        result = stock.__call__(*bound.args, **bound.kwargs)
    if getattr(pipe, "_guidance_scale", 1.0) != 1.0:
        adapters.say_once(
            "a callback's change of the guidance scale has no effect; use `with adapters.scale(function of t):`"
        )
    return result


@contextlib.contextmanager
def _base_alone(adapters) -> Iterator[None]:
    """Let the base model guide by itself in this thread's call. Other threads' calls stay adapted.

    The flag is the denoiser's: off as long as any such call runs. Adapted calls of wrapped pipelines don't need it.
    """
    with _FLAG_IN_USE:
        adapters.alone.append(None)
        set_flag(adapters.host, on=False)
    adapters.current.off = True
    try:
        yield
    finally:
        adapters.current.off = False
        with _FLAG_IN_USE:
            adapters.alone.pop()
            set_flag(adapters.host, on=adapters.enabled and not adapters.alone)


def _number(w) -> float | None:
    """Return a guidance scale as a number, or None if it is several or a function."""
    if isinstance(w, torch.Tensor):
        return w.item() if w.numel() == 1 else None
    return None if callable(w) else float(w)


def _beyond_adapters(given: dict[str, Any], defaults: dict[str, Any]) -> str | None:
    """Return the first argument of a call that changes what guidance means. No trained adapter can do that."""
    for name, value in given.items():
        if name.startswith("negative_") and _says_something(value, defaults[name]):
            return name
    return "guidance_rescale" if given.get("guidance_rescale") else None


def _says_something(value, default) -> bool:
    if isinstance(value, torch.Tensor):
        return True
    texts = value if isinstance(value, list) else [value]
    return value != default and any(text != "" for text in texts)


def _per_image(w, given: dict[str, Any]):
    """Repeat one w per prompt for each of the prompt's images, which are consecutive.

    Return anything else unchanged.
    """
    images = given.get("num_images_per_prompt") or 1
    if images == 1 or not isinstance(w, torch.Tensor) or w.numel() == 1:
        return w
    prompt = given["prompt_embeds"] if given.get("prompt") is None else given["prompt"]
    prompts = 1 if isinstance(prompt, str) else len(prompt)
    return w.repeat_interleave(images) if len(w) == prompts else w
