"""The adapter of one module of the base, with the hook that adds its output: of an attention, a linear layer, an embedding."""

import torch
from torch import nn

from agd.adapters.config import AdapterConfig
from agd.adapters.forward_pass import ForwardPass, of_batch
from agd.adapters.layers import LAYERS, ConditionEncoder, EmbeddingAdapter, LowRankAdapter, NormAdapter


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
        return output + self.adapter(x, sum_BH, of_batch(current.share_B, len(x))).to(output.dtype)


class AdaptedEmbedding(nn.Module):
    """The vector that is added to one embedding of the timestep."""

    def __init__(self, width: int, config: AdapterConfig, current: ForwardPass):
        super().__init__()
        self.adapter = EmbeddingAdapter(width, config)
        self.current = current

    def after(self, module: nn.Module, args: tuple, kwargs: dict, output: torch.Tensor) -> torch.Tensor:
        """Forward hook of the embedding: add the vector where w is above 1."""
        current = self.current
        if current.w_B is None:
            return output
        added_BD = self.adapter(current.conditions.sum_BH) * current.share_B[:, None]
        return output + added_BD.to(output.dtype)


class AdaptedNorm(nn.Module):
    """The scale and shift of one normalization."""

    def __init__(self, channels: int, config: AdapterConfig, current: ForwardPass):
        super().__init__()
        self.adapter = NormAdapter(channels, config)
        self.current = current

    def after(self, norm: nn.Module, args: tuple, kwargs: dict, output: torch.Tensor) -> torch.Tensor:
        """Forward hook of the normalization: scale and shift where w is above 1."""
        current = self.current
        if current.w_B is None:
            return output
        added = self.adapter(output.float(), current.conditions.sum_BH) * current.share_B[:, None, None, None]
        return output + added.to(output.dtype)
