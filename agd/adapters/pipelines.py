"""Makes a diffusers pipeline with an adapted denoiser run one pass per step, with the caller's guidance scale.

If an adapter can't do what a call asks, such as a negative prompt, the base model guides in two passes, with a warning.
"""

import contextlib
import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from agd.adapters.beyond_adapters import beyond_adapters
from agd.adapters.forward_pass import ForwardPass, Scale, checked
from agd.runtime.errors import UserError


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

    def save_pretrained(self, *args, **kwargs):
        if (adapters := getattr(denoiser_of(self), "agd", None)) is not None:
            adapters.check_not_fused("save_pretrained")  # before the first part of the pipeline is written
        return stock.save_pretrained(self, *args, **kwargs)

    own = {"__call__": __call__, "__reduce_ex__": __reduce_ex__, "_stock_class": stock, "_in_callback": False}
    own["save_pretrained"] = functools.wraps(stock.save_pretrained)(save_pretrained)
    if hasattr(stock, "do_classifier_free_guidance"):
        own["do_classifier_free_guidance"] = property(functools.partial(_guides_twice, stock=stock))
    same = {name: getattr(stock, name) for name in ("__module__", "__qualname__", "__doc__")}
    return type(stock.__name__, (stock,), {**own, **same})


def _guides_twice(pipe, stock: type) -> bool:
    """Return whether a call makes two passes. A callback sees the caller's scale, but tensors of one pass."""
    return not pipe._in_callback and stock.do_classifier_free_guidance.fget(pipe)


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
    if "guidance_scale" not in given:
        raise UserError(
            f"{stock.__name__}: its call was replaced by one that doesn't name guidance_scale; wrap it with functools.wraps"
        )
    current = adapters.current
    current.refresh()
    # What the user set by `with adapters.scale(w)` overrides the argument; what a call has set that is around this one,
    # made in its callback, does not.
    chosen = None if current.by_call else current.guidance_scale
    asked = given["guidance_scale"] if chosen is None else chosen
    w = checked(asked, "guidance_scale")
    if reason := beyond_adapters(pipe, given, defaults):
        if _number(w) is None:
            raise UserError(
                f"{reason}: only with one guidance scale for all images and steps; give a number, or leave it out"
            )
        if _number(w) > 1:
            adapters.check_not_fused(reason)
            adapters.say_once(
                f"{reason} is beyond the adapter: such calls are guided by the base model itself, in two passes"
            )
            bound.arguments["guidance_scale"] = asked if isinstance(asked, float | int) else _number(w)
            if callback := given.get("callback_on_step_end"):
                bound.arguments["callback_on_step_end"] = _apart(callback, current)
                _keep_inputs(callback, bound)
            with current.scale(Scale(None, by_call=True, off=True)):
                return stock.__call__(*bound.args, **bound.kwargs)
    return _one_pass(pipe, stock, bound, given, w)


def _one_pass(pipe, stock: type, bound: inspect.BoundArguments, given: dict[str, Any], w):
    """Run a call in one pass per step."""
    adapters, w = denoiser_of(pipe).agd, _per_image(w, given)
    asked = _number(checked(given["guidance_scale"], "guidance_scale"))
    if given.get("ip_adapter_image_embeds") is not None and (asked is None or asked > 1):
        # A guided call gets the embeddings of no picture, then those of the picture. One pass needs only the second.
        halves = [embeds.chunk(2)[1] for embeds in given["ip_adapter_image_embeds"]]
        bound.arguments["ip_adapter_image_embeds"] = halves
    bound.arguments["guidance_scale"] = 1.0
    with contextlib.ExitStack() as scales:
        scales.enter_context(adapters.current.scale(Scale(adapters.checked(w), by_call=True)))
        if callback := given.get("callback_on_step_end"):
            bound.arguments["callback_on_step_end"] = _with_scale(callback, adapters, scales, given)
            _keep_inputs(callback, bound)
        try:
            return stock.__call__(*bound.args, **bound.kwargs)
        finally:
            vars(pipe).pop("_in_callback", None)
            if "_guidance_scale" in vars(pipe):
                pipe._guidance_scale = given["guidance_scale"]  # what the caller gave, as after a call in two passes


def _keep_inputs(callback: Callable, bound: inspect.BoundArguments) -> None:
    if hasattr(callback, "tensor_inputs"):  # diffusers takes these from its own callbacks only
        bound.arguments["callback_on_step_end_tensor_inputs"] = callback.tensor_inputs


def _apart(callback: Callable, current: ForwardPass) -> Callable:
    """Return a callback in which the scale of the call around it does not count: it may call other pipelines."""

    def call(*arguments):
        with current.scale(Scale(None, by_call=True)):
            return callback(*arguments)

    return call


def _with_scale(callback: Callable, adapters, scales: contextlib.ExitStack, given: dict[str, Any]) -> Callable:
    """Return a callback that sees the caller's guidance scale in the pipeline, and may set another for the steps to come."""

    def call(pipe, step: int, timestep, tensors: dict):
        adapters.current.refresh()
        w = adapters.current.guidance_scale
        shown = w(timestep) if callable(w) and not isinstance(w, torch.Tensor) else w
        several = isinstance(shown, torch.Tensor) and shown.numel() > 1
        shown = shown.clone() if several else _number(shown)
        sizes = {name: len(value) for name, value in tensors.items() if isinstance(value, torch.Tensor) and value.ndim}
        pipe._guidance_scale, pipe._in_callback = shown.clone() if several else shown, True
        try:
            result = _apart(callback, adapters.current)(pipe, step, timestep, tensors)
            changed = checked(pipe._guidance_scale, "guidance_scale")
        finally:
            pipe._guidance_scale, pipe._in_callback = 1.0, False
        for name, value in (result or {}).items():
            if name in sizes and len(value) != sizes[name]:
                raise UserError(
                    f"callback_on_step_end: gave {name} of {len(value)} and got {sizes[name]}; an adapted call has one pass, so "
                    "there is no half to take"
                )
        if callable(changed) or not torch.equal(changed.float().cpu(), torch.as_tensor(shown).float().cpu()):
            new = adapters.checked(_per_image(changed, given))
            scales.enter_context(adapters.current.scale(Scale(new, by_call=True)))
        return result

    return call


def _number(w) -> float | None:
    """Return a guidance scale as a number, or None if it is several or a function."""
    if isinstance(w, torch.Tensor):
        return w.item() if w.numel() == 1 else None
    return None if callable(w) else float(w)


def _per_image(w, given: dict[str, Any]):
    """Repeat one w per prompt for each of the prompt's images, which are consecutive. Return anything else unchanged.

    Raises UserError if there is neither one w, nor one per prompt, nor one per image.
    """
    if not isinstance(w, torch.Tensor) or w.numel() == 1:
        return w
    images = given.get("num_images_per_prompt") or 1
    subjects = (given.get(name) for name in ("prompt", "prompt_embeds", "class_labels"))
    subject = next((one for one in subjects if one is not None), None)
    prompts = 1 if isinstance(subject, str | int) else len(subject)
    if len(w) not in (prompts, prompts * images):
        raise UserError(
            f"guidance_scale: {len(w)} values for {prompts} prompts of {images} images; give one, one per prompt, or one per image"
        )
    return w.repeat_interleave(images) if len(w) == prompts else w
