"""Puts adapters on a frozen diffusers denoiser, and takes them off again.

All adapters live in one module at the top of the denoiser (`denoiser.agd`); native PyTorch hooks carry the conditions
in and the adapters' outputs back. Nothing inside the base is wrapped or renamed, so its state dict keeps its names and
everything else that diffusers offers (LoRA, IP-Adapter, offloading, compiling, deepcopy) finds what it expects.
"""

import contextlib
import dataclasses
import inspect
import warnings
from collections.abc import Callable, Iterator

import torch
import torch.utils.checkpoint
from torch import nn

from agd.adapters import LAYERS, AdapterConfig, ConditionEncoder
from agd.errors import UserError
from agd.manners import acquire, decode, enable_gradient_checkpointing, execution_device, flag, flagged, relinquish

__all__ = ["Adapters", "Anatomy", "Pass", "attach", "detach", "enable_gradient_checkpointing", "size"]


@dataclasses.dataclass(frozen=True)
class Anatomy:
    """Where a kind of denoiser takes adapters; its family knows.

    entry: name of a submodule that every pass calls first, before any block and outside gradient checkpointing.
    attentions: denoiser -> {name: attention module}, those that are adapted.
    widths: denoiser -> {"timestep": width, "class" or "prompt": width} of the embeddings that `embed` returns.
    embed: (denoiser, arguments of the pass by name, output of the entry) -> {name: (B, m, width)}.
    """

    entry: str
    attentions: Callable[[nn.Module], dict[str, nn.Module]]
    widths: Callable[[nn.Module], dict[str, int]]
    embed: Callable[[nn.Module, dict, torch.Tensor], dict[str, torch.Tensor]]


def _constant(number: float) -> torch.Tensor:
    """A number that may change without compiling anew; on the CPU even where another device is the default."""
    return torch.tensor(number, dtype=torch.float32, device="cpu")


@dataclasses.dataclass(eq=False)
class Pass:
    """What one forward pass of the denoiser carries to its adapters: a plain object, so that hooks in any thread and a
    later recomputation find it. Kept until the next pass begins.

    guidance_scale and strength are set from outside; the rest is each pass's own: its arguments, its w as it came and
    per sample, what it is conditioned on, and what its adapters' outputs are multiplied by (0 where w <= 1).
    """

    guidance_scale: torch.Tensor | float | Callable | None = None
    strength: torch.Tensor = dataclasses.field(default_factory=lambda: _constant(1.0))
    arguments: dict = dataclasses.field(default_factory=dict)
    w: torch.Tensor | float | None = None
    w_B: torch.Tensor | None = None
    features: dict = dataclasses.field(default_factory=dict)
    tokens_BMH: torch.Tensor | None = None
    share_B11: torch.Tensor | None = None


class AdaptedLayer(nn.Module):
    """The adapter of one attention module, with a condition encoder of its own when encoder is `per_layer`."""

    def __init__(self, width: int, config: AdapterConfig, widths: dict[str, int], current: Pass):
        super().__init__()
        self.adapter = LAYERS[config.kind](width, config)
        self.encoder = ConditionEncoder(config, widths) if config.encoder == "per_layer" else None
        self.current = current

    def after_attention(self, attention: nn.Module, args: tuple, kwargs: dict, output):
        """Forward hook of the attention module: its output plus the adapter's, where w is above 1."""
        current = self.current
        if current.w_B is None:
            return output
        x_BND = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        tokens = self.encoder(current.w_B, current.features) if self.encoder else current.tokens_BMH
        added = self.adapter(x_BND.float(), tokens) * current.share_B11
        if isinstance(output, tuple):
            return (output[0] + added.to(output[0].dtype), *output[1:])
        return output + added.to(output.dtype)


class Adapters(nn.Module):
    """The adapters of one denoiser, found as `denoiser.agd`. Weights are fp32 whatever the base's dtype.

    record: what `config.json` says beside the adapter's own configuration (provenance, training ...).
    source: the folder they were loaded from, or None.
    """

    def __init__(self, denoiser: nn.Module, config: AdapterConfig, anatomy: Anatomy):
        super().__init__()
        self.config = config
        self.current = Pass()
        self.anatomy = anatomy
        # The class's forward: offloading replaces the instance's. Its first name is self.
        self.names = list(inspect.signature(type(denoiser).forward).parameters)[1:]
        self.feature_widths = used_widths(denoiser, config, anatomy)
        self.layer_widths = layer_widths(denoiser, anatomy)
        shared = config.encoder == "shared"
        self.encoder = ConditionEncoder(config, self.feature_widths) if shared else None
        self.layers = nn.ModuleDict(
            {
                name.replace(".", "_"): AdaptedLayer(width, config, self.feature_widths, self.current)
                for name, width in self.layer_widths.items()
            }
        )
        self.handles = []
        self.enabled = True
        self.record, self.source = {}, None
        self.said, self.seen = set(), None

    def _apply(self, fn, recurse=True):
        """Follow the base to another device, but not to another dtype."""

        def keeping_dtype(tensor):
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        return super()._apply(keeping_dtype, recurse)

    @property
    def guidance_range(self) -> list[float] | None:
        """The lowest and the highest guidance scale of the training, or None where nobody noted them."""
        return self.record.get("guidance_scale_range")

    @property
    def strength(self) -> float:
        """What the adapters' outputs are multiplied by: 0 is the base model, 1 what was trained."""
        return self.current.strength.item()

    @strength.setter
    def strength(self, value: float) -> None:
        self.current.strength = _constant(value)

    @contextlib.contextmanager
    def scale(self, w: float | torch.Tensor | Callable) -> Iterator[None]:
        """Within the block, passes of the denoiser answer with guidance scale w.

        w: a number, one per sample (B,), or a function of the timestep, as the denoiser is given it, to either.
        """
        if not callable(w):
            w = w if isinstance(w, torch.Tensor) else _constant(w)
            self.check_range(w)
        before, self.current.guidance_scale = self.current.guidance_scale, w
        try:
            yield
        finally:
            self.current.guidance_scale = before

    def disable(self) -> None:
        """The base model again, guided by the pipeline in two passes, until `enable`."""
        self.enabled = False
        flag(self.host, on=False)

    def enable(self) -> None:
        """Undo `disable`."""
        self.enabled = True
        flag(self.host, on=True)

    def say_once(self, words: str) -> None:
        if words not in self.said:
            self.said.add(words)
            warnings.warn(f"agd: {words}", stacklevel=3)

    def check_range(self, w: torch.Tensor) -> None:
        """Warn, once, if a guidance scale is outside the trained range. One or less is the base model, and no news."""
        if self.guidance_range is not None:
            low, high = self.guidance_range
            if ((w > high) | ((w > 1) & (w < low))).any():
                words = f"a guidance scale is outside the range that the adapter was trained on, {low:g} to {high:g}"
                self.say_once(f"{words}; expect less than with guidance in two passes")

    def before_pass(self, denoiser: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        """Forward pre-hook of the denoiser: notes the arguments and w. Touches no weights, which may be offloaded still."""
        current = self.current
        current.arguments = {**dict(zip(self.names, args, strict=False)), **kwargs}
        embedded = current.arguments.pop("timestep_cond", None)
        current.w_B, current.w = None, self._guidance_scale(embedded) if self.enabled else None
        # The base has no weights for the embedding of w that a flagged pipeline passes.
        args = tuple(None if arg is embedded else arg for arg in args)
        return args, {name: value for name, value in kwargs.items() if name != "timestep_cond"}

    def _guidance_scale(self, embedded: torch.Tensor | None) -> torch.Tensor | float | None:
        """The w of this pass: what `scale` set, or else what the pipeline passes."""
        w = self.current.guidance_scale
        eager = not torch.compiler.is_compiling()  # a compiled graph can't warn, nor look at a value
        if w is None and embedded is not None:
            w = decode(embedded)
            if eager and embedded is not self.seen:  # the same tensor in every step: look at it once
                self.seen = embedded
                self.check_range(w)
        elif w is None and eager:
            self.say_once(
                "the adapted denoiser was called without a guidance scale and answers as the base model; "
                "use agd.load on this pipeline, or `with denoiser.agd.scale(w):`"
            )
        elif not isinstance(w, torch.Tensor) and callable(w):
            w = w(self.current.arguments["timestep"])
        return w

    def after_entry(self, entry: nn.Module, args: tuple, output: torch.Tensor) -> None:
        """Forward hook of the entry: embeds the conditions, once per pass."""
        current = self.current
        if current.w is None:
            return
        w_B = _per_sample(torch.as_tensor(current.w, dtype=torch.float32, device=output.device), output.shape[0])
        with torch.no_grad():
            embedded = self.anatomy.embed(self.host, current.arguments, output)
        current.features = {name: embedded[name] for name in self.feature_widths}
        current.share_B11 = (w_B > 1).float()[:, None, None] * current.strength
        current.tokens_BMH = self.encoder(w_B, current.features) if self.encoder else None
        current.w_B = w_B

    def checkpointed(self, block: Callable, *args):
        """A block that is recomputed in the backward pass, with the conditions of its own forward pass.

        Without that, a second forward pass before the first one's backward would change what is recomputed: gradients
        would be wrong, without an error.
        """
        current = self.current
        then = dict(vars(current))

        def run(*inputs):
            now = dict(vars(current))
            vars(current).update(then)
            try:
                return block(*inputs)
            finally:
                vars(current).update(now)

        return torch.utils.checkpoint.checkpoint(run, *args, use_reentrant=False)

    @property
    def host(self) -> nn.Module:
        return self._host[0]

    def connect(self, denoiser: nn.Module) -> None:
        """Register the hooks. Bound methods, not closures: a deep copy of the denoiser calls its own adapters."""
        self._host = [denoiser]  # in a list: a module attribute would make the base a child of its own adapters
        self.handles = [
            denoiser.register_forward_pre_hook(self.before_pass, with_kwargs=True),
            denoiser.get_submodule(self.anatomy.entry).register_forward_hook(self.after_entry),
        ]
        attentions = self.anatomy.attentions(denoiser)
        for attention, layer in zip(attentions.values(), self.layers.values(), strict=True):
            self.handles.append(attention.register_forward_hook(layer.after_attention, with_kwargs=True))


def _per_sample(w: torch.Tensor, batch: int) -> torch.Tensor:
    """() or (b,) -> (B,). A batch that stacks its samples several times, as PAG's does, has its w in the same order."""
    if w.ndim == 0 or len(w) == 1:
        return w.expand(batch)
    if batch % len(w):
        raise UserError(f"guidance scale: {len(w)} values for a batch of {batch}; give one, or one per sample")
    return w.repeat(batch // len(w))


def used_widths(denoiser: nn.Module, config: AdapterConfig, anatomy: Anatomy) -> dict[str, int]:
    """Name -> width of the base's embeddings that this adapter is conditioned on."""
    use = {True: config.use_timestep, False: config.use_condition}
    return {name: width for name, width in anatomy.widths(denoiser).items() if use[name == "timestep"]}


def layer_widths(denoiser: nn.Module, anatomy: Anatomy) -> dict[str, int]:
    """Name -> width D of each adapted attention."""
    return {name: attention.to_out[0].out_features for name, attention in anatomy.attentions(denoiser).items()}


def attach(denoiser: nn.Module, config: AdapterConfig, anatomy: Anatomy, freeze: bool = True) -> Adapters:
    """Put new adapters on a denoiser, on the device it computes on; returns them (also `denoiser.agd`).

    The base goes to eval mode and stays there: training mode would drop class labels and change its answers. freeze:
    take its gradients away, for training; without that nothing is to be restored, whatever joins the base later on.
    Raises UserError if it carries adapters already, or is guided in one pass by itself.
    """
    if hasattr(denoiser, "agd"):
        raise UserError("this denoiser carries adapters already; detach them first")
    if flagged(denoiser):
        raise UserError(
            "this denoiser takes a guidance scale by itself (time_cond_proj_dim); give one that is not distilled"
        )
    training = {name for name, module in denoiser.named_modules() if module.training}
    frozen = {name for name, parameter in denoiser.named_parameters() if parameter.requires_grad and freeze}
    for name in frozen:
        denoiser.get_parameter(name).requires_grad_(False)
    denoiser.eval()
    adapters = Adapters(denoiser, config, anatomy).to(execution_device(denoiser))
    adapters.before = training, frozen
    denoiser.add_module("agd", adapters)
    adapters.connect(denoiser)
    acquire(denoiser)
    return adapters


def detach(denoiser: nn.Module) -> None:
    """Take the adapters off; the denoiser is the base model again, bit for bit. Raises UserError if it has none."""
    if not hasattr(denoiser, "agd"):
        raise UserError("this denoiser carries no adapters; there is nothing to detach")
    for handle in denoiser.agd.handles:
        handle.remove()
    training, frozen = denoiser.agd.before
    del denoiser.agd
    relinquish(denoiser)
    for name, module in denoiser.named_modules():
        module.training |= name in training
    for name, parameter in denoiser.named_parameters():
        parameter.requires_grad_(parameter.requires_grad or name in frozen)


def size(denoiser: nn.Module) -> dict[str, float]:
    """Trainable parameters of the adapters, and their fraction of the base's parameters."""
    added = sum(p.numel() for p in denoiser.agd.parameters())
    base = sum(p.numel() for p in denoiser.parameters()) - added
    return {"parameters": added, "fraction_of_base": added / base}
