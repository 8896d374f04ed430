"""Makes a diffusers pipeline with an adapted denoiser run one pass per step, with the caller's guidance scale.

If an adapter can't do what a call asks, such as a negative prompt, the base model guides in two passes, with a warning.
"""

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

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
    """Return whether a call makes two passes, whatever the denoiser's flag says, which all threads share."""
    if pipe._in_callback:  # it sees the caller's scale, but tensors of one pass
        return False
    adapters = getattr(denoiser_of(pipe), "agd", None)
    if adapters is not None and adapters.current.off:
        return pipe._guidance_scale > 1
    return stock.do_classifier_free_guidance.fget(pipe)


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

    reason = _beyond_adapters(pipe, given, defaults)
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
    with contextlib.ExitStack() as scales:
        scales.enter_context(adapters.scale(_per_image(w, given)))
        if callback := given.get("callback_on_step_end"):
            bound.arguments["callback_on_step_end"] = _with_scale(callback, adapters, scales)
            if hasattr(callback, "tensor_inputs"):  # diffusers takes these from its own callbacks only
                bound.arguments["callback_on_step_end_tensor_inputs"] = callback.tensor_inputs
        return stock.__call__(*bound.args, **bound.kwargs)


def _with_scale(callback: Callable, adapters, scales: contextlib.ExitStack) -> Callable:
    """Return a callback that sees the caller's guidance scale in the pipeline, and may set another for the steps to come."""

    def call(pipe, step: int, timestep, tensors: dict):
        w = adapters.current.guidance_scale
        shown = w(timestep) if callable(w) and not isinstance(w, torch.Tensor) else w
        several = isinstance(shown, torch.Tensor) and shown.numel() > 1
        shown = shown.clone() if several else _number(shown)
        pipe._guidance_scale, pipe._in_callback = shown.clone() if several else shown, True
        try:
            result = callback(pipe, step, timestep, tensors)
            changed = torch.as_tensor(pipe._guidance_scale, dtype=torch.float32)
        finally:
            pipe._guidance_scale, pipe._in_callback = 1.0, False
        if not torch.equal(changed.cpu(), torch.as_tensor(shown, dtype=torch.float32).cpu()):
            scales.enter_context(adapters.scale(changed))
        return result

    return call


@contextlib.contextmanager
def _base_alone(adapters) -> Iterator[None]:
    """Let the base model guide by itself in this thread's call. Other threads' calls stay adapted."""
    adapters.current.off = True
    try:
        yield
    finally:
        adapters.current.off = False


def _number(w) -> float | None:
    """Return a guidance scale as a number, or None if it is several or a function."""
    if isinstance(w, torch.Tensor):
        return w.item() if w.numel() == 1 else None
    return None if callable(w) else float(w)


def _beyond_adapters(pipe, given: dict[str, Any], defaults: dict[str, Any]) -> str | None:
    """Return the first argument of a call that changes what guidance means. No trained adapter can do that."""
    nothing = functools.cache(lambda: _embeds_of_nothing(pipe, given.get("clip_skip")))
    for name, value in given.items():
        if not name.startswith("negative_"):
            continue
        if isinstance(value, torch.Tensor):
            empty = any(_same(value, one) for one in nothing().get(name, []))
        else:
            texts = value if isinstance(value, list) else [value]
            empty = value == defaults[name] or all(text == "" for text in texts)
        if not empty:
            return name
    return "guidance_rescale" if given.get("guidance_rescale") else None


@torch.no_grad()
def _embeds_of_nothing(pipe, clip_skip: int | None) -> dict[str, list[torch.Tensor]]:
    """Return what `encode_prompt` gives for no negative prompt and for an empty one, by the name of the call's argument.

    Empty without text encoders: then nobody can tell what embeddings say.
    """
    encoders = [getattr(pipe, name) for name in ("text_encoder", "text_encoder_2") if hasattr(pipe, name)]
    if not encoders or None in encoders:
        return {}
    found: dict[str, list[torch.Tensor]] = {}
    for prompt in (None, ""):
        wanted = dict(device=pipe._execution_device, num_images_per_prompt=1, do_classifier_free_guidance=True)
        wanted |= {"clip_skip": clip_skip} if clip_skip is not None else {}  # not every class has it
        encoded = pipe.encode_prompt("", negative_prompt=prompt, **wanted)
        for name, value in zip(
            ("negative_prompt_embeds", "negative_pooled_prompt_embeds"), encoded[1::2], strict=False
        ):
            if value is not None:
                found.setdefault(name, []).append(value)
    return found


def _same(embeds: torch.Tensor, one: torch.Tensor) -> bool:
    """Return whether all of several embeddings (B, ...) are one (1, ...), but for the rounding of other batches."""
    if embeds.shape[1:] != one.shape[1:]:
        return False
    difference = (embeds.to(one.device, torch.float32) - one.float()).flatten(1).norm(dim=1)
    return bool((difference <= 0.01 * one.float().norm()).all())


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
