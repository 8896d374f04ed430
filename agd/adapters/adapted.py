"""The adapter of one module of the base, with the hook that adds its output: of an attention, a linear layer, an embedding."""

import torch
from torch import nn

from agd.adapters.config import AdapterConfig
from agd.adapters.forward_pass import ForwardPass, of_batch
from agd.adapters.layers import LAYERS, ConditionEncoder, LowRankAdapter


class AdaptedLayer(nn.Module):
    """The adapter of one attention module. It has its own condition encoder if encoder is `per_layer`."""

    def __init__(self, width: int, config: AdapterConfig, widths: dict[str, int], current: ForwardPass):
        super().__init__()
        self.adapter = LAYERS[config.kind](width, config)
        self.encoder = ConditionEncoder(config, widths) if config.encoder == "per_layer" else None
        self.current = current

    def after(self, attention: nn.Module, args: tuple, kwargs: dict, output):
        """Forward hook of the attention module: add the adapter's output where w is above 1."""
        current = self.current
        if current.w_B is None:
            return output
        x_BND = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        conditions = self.encoder(current.w_B, current.features) if self.encoder else current.conditions
        added = self.adapter(x_BND.float(), conditions) * current.share_B[:, None, None]
        if isinstance(output, tuple):
            return (output[0] + added.to(output[0].dtype), *output[1:])
        return output + added.to(output.dtype)


class AdaptedLinear(nn.Module):
    """The low-rank update of one linear layer."""

    def __init__(self, widths: list[int], config: AdapterConfig, current: ForwardPass):
        super().__init__()
        self.adapter = LowRankAdapter(*widths, config)
        self.current = current

    def after(self, linear: nn.Module, args: tuple, kwargs: dict, output: torch.Tensor) -> torch.Tensor:
        """Forward hook of the linear layer: add the update where w is above 1."""
        current = self.current
        if current.w_B is None:
            return output
        x = args[0]
        sum_BH = None if current.conditions is None else of_batch(current.conditions.sum_BH, len(x))
        return self.adapter(x, sum_BH, of_batch(current.share_B, len(x)), output)


class AdaptedOutput(nn.Module):
    """An adapter of a module's output: of an embedding of the timestep, or of a normalization."""

    def __init__(self, adapter: nn.Module, current: ForwardPass):
        super().__init__()
        self.adapter = adapter
        self.current = current

    def after(self, module: nn.Module, args: tuple, kwargs: dict, output: torch.Tensor) -> torch.Tensor:
        """Forward hook of the module: add the adapter's output where w is above 1."""
        current = self.current
        if current.w_B is None:
            return output
        share = current.share_B.view(-1, *[1] * (output.ndim - 1))
        return output + (self.adapter(output, current.activated()) * share).to(output.dtype)
