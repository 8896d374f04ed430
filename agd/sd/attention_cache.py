"""T-GATE: after the last guided step, cross-attentions give again what they gave there (arXiv 2404.02747).

What is kept is the mean of the conditional and the unconditional half of the batch. Self-attentions are not cached.
"""

import contextlib
from collections.abc import Iterator

import torch
from torch import nn


class AttentionCache:
    """The outputs of a denoiser's cross-attentions, kept from passes inside `recording` for passes inside `reusing`."""

    def __init__(self, cross_attentions: list[nn.Module]):
        self.attentions = cross_attentions
        self.kept: dict[int, torch.Tensor] = {}

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Keep the outputs of passes with twice the batch: conditional, then unconditional."""
        handles = [m.register_forward_hook(self._keep) for m in self.attentions]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _keep(self, module: nn.Module, args: tuple, output: torch.Tensor) -> None:
        cond, uncond = output.chunk(2)
        self.kept[id(module)] = (cond + uncond) / 2

    @contextlib.contextmanager
    def reusing(self) -> Iterator[None]:
        """Give the kept outputs without computing them again. Before anything is kept, compute as ever."""
        before = {module: module.processor for module in self.attentions if id(module) in self.kept}
        for module in before:
            module.set_processor(_Kept(self.kept[id(module)]))
        try:
            yield
        finally:
            for module, processor in before.items():
                module.set_processor(processor)


class _Kept:
    """An attention processor that gives one tensor."""

    def __init__(self, output: torch.Tensor):
        self.output = output

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, **more) -> torch.Tensor:
        return self.output
