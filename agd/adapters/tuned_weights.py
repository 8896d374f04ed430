"""The kind `full`: a copy of all weights of the denoiser, which are trained. The baseline that adapters are compared with.

Guided distillation (Meng et al., arXiv 2210.03142) fine-tunes the whole denoiser. The base's own weights stay: each pass
that is guided runs with the copy in their place.
"""

import torch
from torch import nn

from agd.adapters.forward_pass import ForwardPass


def weight_shapes(denoiser: nn.Module) -> dict[str, list[int]]:
    """Return name -> shape of each weight of a denoiser, without those of its adapters."""
    return {name: list(values.shape) for name, values in denoiser.named_parameters() if not name.startswith("agd.")}


class TunedWeights(nn.Module):
    """Trained copies in float32 of all weights of a denoiser.

    Not for several threads that share a denoiser: the weights change places in the denoiser itself.
    """

    def __init__(self, denoiser: nn.Module, current: ForwardPass):
        super().__init__()
        self.current = current
        self.values = nn.ParameterDict()
        self._places, self._own = [], None
        for name, own in denoiser.named_parameters():
            path, _, attribute = name.rpartition(".")
            key = name.replace(".", "_")
            self.values[key] = nn.Parameter(own.detach().float().clone())
            self._places.append((denoiser.get_submodule(path), attribute, key))

    def put_in(self) -> None:
        """Let the denoiser's modules use the copies, in the base's dtype, until `take_out`. Gradients reach the copies."""
        if self._own is None:
            self._own = [module._parameters[attribute] for module, attribute, _ in self._places]
        for (module, attribute, key), own in zip(self._places, self._own, strict=True):
            module._parameters[attribute] = self.values[key].to(own.dtype)  # the copy itself, if the dtype is the same

    def take_out(self) -> None:
        """Give the denoiser its own weights back."""
        if self._own is not None:
            for (module, attribute, _), own in zip(self._places, self._own, strict=True):
                module._parameters[attribute] = own
            self._own = None

    def train(self, mode: bool = True) -> "TunedWeights":
        """In training, the copies stay between passes: gradient checkpointing runs blocks again in the backward pass."""
        if not mode:
            self.take_out()
        return super().train(mode)

    def connect(self, denoiser: nn.Module) -> list:
        """Register the hooks, after those that set the pass's w. Returns their handles."""
        return [
            denoiser.register_forward_pre_hook(self._before_pass),
            denoiser.register_forward_hook(self._after_pass, always_call=True),
        ]

    def _before_pass(self, denoiser: nn.Module, args: tuple) -> None:
        w = self.current.w
        if w is not None and bool((torch.as_tensor(w) > 1).any()):
            self.put_in()
        else:
            self.take_out()

    def _after_pass(self, denoiser: nn.Module, args: tuple, output) -> None:
        if not self.training:
            self.take_out()
