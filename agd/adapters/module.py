"""Holds all adapters of a denoiser (`denoiser.agd`) and the hooks that run them.

PyTorch hooks pass the conditions to the adapters and add their outputs. Nothing inside the base is wrapped or renamed.
Its state dict keeps its names, and diffusers' LoRA, IP-Adapter, offloading, compiling and deepcopy still work.
"""

import contextlib
import inspect
import warnings
from collections.abc import Callable, Iterator

import torch
import torch.utils.checkpoint
from torch import nn

from agd.adapters import fusing
from agd.adapters.adapted import AdaptedLayer, AdaptedLinear, AdaptedOutput
from agd.adapters.anatomy import Anatomy, adapted_modules, base_shape, embedding_modules, norm_modules
from agd.adapters.config import FULL, LOW_RANK, AdapterConfig
from agd.adapters.forward_pass import ForwardPass, Scale, checked, constant, gain, number, per_sample
from agd.adapters.layers import ConditionEncoder, EmbeddingAdapter, NormAdapter
from agd.adapters.tuned_weights import TunedWeights
from agd.runtime.errors import UserError


class Adapters(nn.Module):
    """All adapters of one denoiser, also `denoiser.agd`. Weights are fp32 whatever the base's dtype.

    record: fields of `config.json` other than the adapter's configuration (provenance, training ...).
    source: the folder that the adapters were loaded from, or None.
    """

    def __init__(self, denoiser: nn.Module, config: AdapterConfig, anatomy: Anatomy):
        super().__init__()
        self.config = config
        self.current = ForwardPass()
        self.anatomy = anatomy
        # Read the class's forward, because offloading replaces the instance's. The first argument is self.
        self.names = list(inspect.signature(type(denoiser).forward).parameters)[1:]
        self.base_shape = base_shape(denoiser, config, anatomy)
        features = self.base_shape["features"]
        shared = config.encoder == "shared" and config.conditioned
        self.encoder = ConditionEncoder(config, features) if shared else None

        def adapted(width) -> nn.Module:
            if config.kind in LOW_RANK:
                return AdaptedLinear(width, config, self.current)
            return AdaptedLayer(width, config, features, self.current)

        self.layers = nn.ModuleDict({_plain(k): adapted(width) for k, width in self.base_shape["layers"].items()})

        def outputs(kind, widths: dict[str, int]) -> nn.ModuleDict:
            return nn.ModuleDict({_plain(k): AdaptedOutput(kind(n, config), self.current) for k, n in widths.items()})

        self.embeddings = outputs(EmbeddingAdapter, self.base_shape["embeddings"])
        self.norms = outputs(NormAdapter, self.base_shape["norms"])
        self.tuned = TunedWeights(denoiser, self.current) if config.kind == FULL else None
        self.handles, self.layer_handles = [], []
        self.enabled, self.fused, self._strength = True, None, constant(1.0)
        self.record, self.source = {}, None
        self.said = set()

    def _apply(self, fn, recurse=True):
        """Follow the base to another device, but keep the dtype."""

        def keeping_dtype(tensor):
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        return super()._apply(keeping_dtype, recurse)

    @property
    def guidance_range(self) -> list[float] | None:
        """The lowest and highest guidance scale of the training, or None if not recorded."""
        return self.record.get("guidance_scale_range")

    @property
    def strength(self) -> float:
        """The factor of the adapters' outputs: 0 is the base model, 1 is the trained strength."""
        return self._strength.item()

    @strength.setter
    def strength(self, value: float) -> None:
        self.check_not_fused("strength")
        self._strength = constant(number(value, "strength"))

    @contextlib.contextmanager
    def scale(self, w: float | torch.Tensor | Callable) -> Iterator[None]:
        """Set the guidance scale w for all passes of the denoiser inside the block, in this task or thread.

        w: a number, one per sample (a list or a tensor (B,)), or a function that takes the denoiser's timestep and
        returns either.
        """
        with self.current.scale(Scale(self.checked(w))):
            yield

    def checked(self, w):
        """Return a guidance scale as passes take it. Raises UserError if it can't be, or is not the one merged for."""
        w = checked(w, "guidance scale")
        fusing.check_fused(self, w)
        if isinstance(w, torch.Tensor):
            self.check_range(w)
        return w

    def disable(self) -> None:
        """Switch the adapters off until `enable`: the pipeline guides the base model in two passes."""
        self.check_not_fused("disable")
        self.enabled = False

    def enable(self) -> None:
        """Switch the adapters on again after `disable`."""
        self.enabled = True

    def check_not_fused(self, what: str) -> None:
        if self.fused is not None:
            raise UserError(f"{what}: the adapter is merged for w = {self.fused[0]:g} (fuse); unfuse it first")

    def say_once(self, words: str) -> None:
        if words not in self.said:
            self.said.add(words)
            warnings.warn(f"agd: {words}", stacklevel=3)

    def check_range(self, w: torch.Tensor) -> None:
        """Warn once if a guidance scale is outside the trained range; 1 or less is the base model, and inside."""
        if self.guidance_range is not None:
            low, high = self.guidance_range
            if ((w > high) | ((w > 1) & (w < low))).any():
                words = f"a guidance scale is outside the range that the adapter was trained on, {low:g} to {high:g}"
                self.say_once(f"{words}; expect less than with guidance in two passes")

    def before_pass(self, denoiser: nn.Module, args: tuple, kwargs: dict) -> None:
        """Forward pre-hook of the denoiser: store the arguments and w. Uses no weights: they may still be offloaded."""
        current = self.current
        if not torch.compiler.is_compiling():
            current.refresh()
        enabled = self.enabled and not current.off
        if self._attentions and enabled and not torch.compiler.is_compiling():
            fusing.check_projections(self.config.kind, self._attentions)
        current.arguments = {**dict(zip(self.names, args, strict=False)), **kwargs}
        current.w_B = current.silu_BH = None
        current.w = self._guidance_scale() if enabled else None

    def _guidance_scale(self) -> torch.Tensor | float | None:
        """Return this pass's w, which the caller has set by `scale`."""
        w = self.current.guidance_scale
        eager = not torch.compiler.is_compiling()  # a compiled graph can't warn or look at a value
        if w is None and self.fused is not None:
            raise UserError(
                f"the adapter is merged for w = {self.fused[0]:g} (fuse), and this call sets no guidance scale; "
                "use agd.load on this pipeline, or `with denoiser.agd.scale(w):`"
            )
        if w is None and eager:
            self.say_once(
                "the adapted denoiser was called without a guidance scale and answers as the base model; "
                "use agd.load on this pipeline, or `with denoiser.agd.scale(w):`"
            )
        elif not isinstance(w, torch.Tensor) and callable(w):
            w = w(self.current.arguments["timestep"])
            w = checked(w, "guidance scale of a timestep") if eager else w
        return w

    def after_entry(self, entry: nn.Module, args: tuple, output: torch.Tensor) -> None:
        """Forward hook of the entry: embed the conditions once per pass."""
        current = self.current
        if current.w is None:
            return
        w_B = per_sample(
            torch.as_tensor(current.w, dtype=torch.float32, device=output.device), output.shape[0], current.by_call
        )
        wanted = self.base_shape["features"]
        with torch.no_grad():
            embedded = self.anatomy.embed(self.host, current.arguments, output) if wanted else {}
        current.features = {name: embedded[name] for name in wanted}
        current.share_B = gain(w_B, self.config) * self._strength
        current.conditions = self.encoder(w_B, current.features) if self.encoder else None
        current.w_B = w_B

    def checkpointed(self, block: Callable, *args):
        """Run a block, and recompute it in the backward pass, with the conditions of its own forward pass.

        Otherwise a second forward pass before the first one's backward would change these conditions: gradients would
        be wrong, without an error.
        """
        current = self.current
        then = current.kept()

        def run(*inputs):
            now = current.kept()
            current.restore(then)
            try:
                return block(*inputs)
            finally:
                current.restore(now)

        return torch.utils.checkpoint.checkpoint(run, *args, use_reentrant=False)

    @property
    def host(self) -> nn.Module:
        return self._host[0]

    def connect(self, denoiser: nn.Module) -> None:
        """Register the hooks: bound methods, not closures, so that a denoiser's deep copy calls its own adapters."""
        self._host = [denoiser]  # in a list: as a module attribute, the base would be a child of its own adapters
        self.handles = [
            denoiser.register_forward_pre_hook(self.before_pass, with_kwargs=True),
            denoiser.get_submodule(self.anatomy.entry).register_forward_hook(self.after_entry),
        ]
        self.handles += self.tuned.connect(denoiser) if self.tuned else []
        low_rank = self.config.kind in LOW_RANK
        self._attentions = [m for m in denoiser.modules() if low_rank and hasattr(m, "processor")]
        self.connect_layers()
        modules = [*embedding_modules(denoiser, self.config, self.anatomy).values()]
        modules += norm_modules(denoiser, self.config, self.anatomy).values()
        for module, own in zip(modules, [*self.embeddings.values(), *self.norms.values()], strict=True):
            self.handles.append(module.register_forward_hook(own.after, with_kwargs=True))

    def connect_layers(self) -> None:
        """Register the hooks of the adapted attentions or linear layers."""
        modules = adapted_modules(self.host, self.config, self.anatomy).values()
        self.layer_handles = [
            module.register_forward_hook(own.after, with_kwargs=True)
            for module, own in zip(modules, self.layers.values(), strict=True)
        ]

    def disconnect(self) -> None:
        """Remove all hooks, and take merged updates out of the base's weights."""
        if self.fused is not None:
            self.unfuse()
        if self.tuned:
            self.tuned.take_out()
        for handle in (*self.handles, *self.layer_handles):
            handle.remove()

    def fuse(self, w: float) -> None:
        """Merge an adapter of kind `lora` into the base's linear layers for one guidance scale, until `unfuse`.
        A pass then costs what the base costs. Calls with another guidance scale raise UserError."""
        fusing.fuse(self, w)

    def unfuse(self) -> None:
        """Undo `fuse`, bit for bit."""
        fusing.unfuse(self)


def _plain(name: str) -> str:
    return name.replace(".", "_")  # the name of a submodule can't hold a dot
