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


@dataclasses.dataclass(eq=False)
class Pass:
    """What one forward pass of the denoiser carries to its adapters: a plain object, so that hooks in any thread and a
    later recomputation find it. Kept until the next pass begins."""

    guidance_scale: torch.Tensor | float | None = None
    arguments: dict = dataclasses.field(default_factory=dict)
    w_B: torch.Tensor | None = None
    features: dict = dataclasses.field(default_factory=dict)
    tokens_BMH: torch.Tensor | None = None
    guided_B11: torch.Tensor | None = None


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
        added = self.adapter(x_BND.float(), tokens) * current.guided_B11
        if isinstance(output, tuple):
            return (output[0] + added.to(output[0].dtype), *output[1:])
        return output + added.to(output.dtype)


class Adapters(nn.Module):
    """The adapters of one denoiser, found as `denoiser.agd`. Weights are fp32 whatever the base's dtype."""

    def __init__(self, denoiser: nn.Module, config: AdapterConfig, anatomy: Anatomy):
        super().__init__()
        self.config = config
        self.current = Pass()
        self.anatomy = anatomy
        self.signature = inspect.signature(denoiser.forward)
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
        self.warned = False

    @contextlib.contextmanager
    def scale(self, w: float | torch.Tensor) -> Iterator[None]:
        """Within the block, passes of the denoiser answer with guidance scale w: a number or one per sample (B,)."""
        before, self.current.guidance_scale = self.current.guidance_scale, w
        try:
            yield
        finally:
            self.current.guidance_scale = before

    def before_pass(self, denoiser: nn.Module, args: tuple, kwargs: dict) -> None:
        """Forward pre-hook of the denoiser: notes the arguments. Touches no weights, which may still be offloaded."""
        current = self.current
        current.arguments = self.signature.bind(*args, **kwargs).arguments
        current.w_B = None
        if current.guidance_scale is None and not self.warned:
            self.warned = True
            warnings.warn(
                "agd: the adapted denoiser was called without a guidance scale and answers as the base model; "
                "use `with denoiser.agd.scale(w):`",
                stacklevel=2,
            )

    def after_entry(self, entry: nn.Module, args: tuple, output: torch.Tensor) -> None:
        """Forward hook of the entry: embeds the conditions, once per pass."""
        current = self.current
        if current.guidance_scale is None:
            return
        batch = output.shape[0]
        w_B = torch.as_tensor(current.guidance_scale, dtype=torch.float32, device=output.device).expand(batch)
        with torch.no_grad():
            embedded = self.anatomy.embed(self.host, current.arguments, output)
        current.features = {name: embedded[name] for name in self.feature_widths}
        current.guided_B11 = (w_B > 1).float()[:, None, None]
        current.tokens_BMH = self.encoder(w_B, current.features) if self.encoder else None
        current.w_B = w_B

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


def used_widths(denoiser: nn.Module, config: AdapterConfig, anatomy: Anatomy) -> dict[str, int]:
    """Name -> width of the base's embeddings that this adapter is conditioned on."""
    use = {True: config.use_timestep, False: config.use_condition}
    return {name: width for name, width in anatomy.widths(denoiser).items() if use[name == "timestep"]}


def layer_widths(denoiser: nn.Module, anatomy: Anatomy) -> dict[str, int]:
    """Name -> width D of each adapted attention."""
    return {name: attention.to_out[0].out_features for name, attention in anatomy.attentions(denoiser).items()}


def attach(denoiser: nn.Module, config: AdapterConfig, anatomy: Anatomy) -> Adapters:
    """Freeze a denoiser and put new adapters on it, on its device; returns them (also `denoiser.agd`).

    The base goes to eval mode and stays there: training mode would drop class labels and change its answers.
    Raises UserError if it carries adapters already.
    """
    if hasattr(denoiser, "agd"):
        raise UserError("this denoiser carries adapters already; detach them first")
    denoiser.requires_grad_(False).eval()
    device = next(denoiser.parameters()).device
    adapters = Adapters(denoiser, config, anatomy).to(device)
    denoiser.add_module("agd", adapters)
    adapters.connect(denoiser)
    return adapters


def detach(denoiser: nn.Module) -> None:
    """Take the adapters off; the denoiser is the base model again, bit for bit. Raises UserError if it has none."""
    if not hasattr(denoiser, "agd"):
        raise UserError("this denoiser carries no adapters; there is nothing to detach")
    for handle in denoiser.agd.handles:
        handle.remove()
    del denoiser.agd


def enable_gradient_checkpointing(denoiser: nn.Module) -> None:
    """Recompute the blocks of an adapted denoiser in its backward pass, each with the conditions of its own forward pass.

    Without that, a second forward pass before the first one's backward would change what is recomputed: gradients would
    be wrong, without an error.
    """
    current = denoiser.agd.current

    def checkpointed(block, *args):
        then = dict(vars(current))

        def run(*inputs):
            now = dict(vars(current))
            vars(current).update(then)
            try:
                return block(*inputs)
            finally:
                vars(current).update(now)

        return torch.utils.checkpoint.checkpoint(run, *args, use_reentrant=False)

    denoiser.enable_gradient_checkpointing(checkpointed)


def size(denoiser: nn.Module) -> dict[str, float]:
    """Trainable parameters of the adapters, and their fraction of the base's parameters."""
    added = sum(p.numel() for p in denoiser.agd.parameters())
    base = sum(p.numel() for p in denoiser.parameters()) - added
    return {"parameters": added, "fraction_of_base": added / base}
