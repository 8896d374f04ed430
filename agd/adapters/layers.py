"""The layers: encoders of the conditions, and what is added to attentions, linear layers and embeddings.

Shapes: B samples, N tokens of the adapted layer with width D, M condition tokens with width H (`hidden_size`).
"""

import math
from typing import NamedTuple

import torch
from torch import nn

from agd.adapters.config import AdapterConfig


class Linear(nn.Module):
    """PyTorch's linear layer, but not of its class: what rewrites a model's linear layers (LoRA, quantization) leaves adapters
    alone."""

    def __init__(self, width: int, width_out: int, bias: bool = True):
        super().__init__()
        layer = nn.Linear(width, width_out, bias)
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.weight, self.bias)


class ScalarEncoder(nn.Module):
    """Embeds a number in about [0, 1] by random Fourier features, an MLP and a LayerNorm: (B,) -> (B, H).

    Tancik et al. (arXiv 2006.10739). Frequencies and phases are buffers: they are drawn once and saved.
    """

    def __init__(self, hidden_size: int):
        super().__init__()
        self.register_buffer("frequencies", torch.randn(hidden_size))
        self.register_buffer("phases", torch.rand(hidden_size))
        self.mlp = nn.Sequential(Linear(hidden_size, 4 * hidden_size), nn.ReLU(), Linear(4 * hidden_size, hidden_size))
        self.norm = nn.LayerNorm(hidden_size)

    def forward(self, x_B: torch.Tensor) -> torch.Tensor:
        angles_BH = 2 * math.pi * (x_B[:, None] * self.frequencies + self.phases)
        return self.norm(self.mlp(math.sqrt(2) * angles_BH.cos()))


class Conditions(NamedTuple):
    """What one pass is conditioned on: (B, M, H) tokens, for kinds that attend to them, and their sum (B, H)."""

    tokens_BMH: torch.Tensor | None
    sum_BH: torch.Tensor


class ConditionEncoder(nn.Module):
    """Embeds w, and the base model's embeddings of the timestep and of the class or prompt.

    widths: name -> width of each base embedding in use, such as {"timestep": 1152, "class": 1152}.
    forward(w_B, features) -> Conditions, features: name -> (B, m, width). In the sum, the tokens of each feature are
    averaged first.
    """

    def __init__(self, config: AdapterConfig, widths: dict[str, int]):
        super().__init__()
        self.scale_max = config.guidance_scale_max
        self.clamped = config.gain  # a gain stops growing at scale_max; so do the conditions
        self.attended = getattr(LAYERS.get(config.kind), "attends", False)
        self.guidance = ScalarEncoder(config.hidden_size)
        self.projections = nn.ModuleDict({name: Linear(width, config.hidden_size) for name, width in widths.items()})

    def forward(self, w_B: torch.Tensor, features: dict[str, torch.Tensor]) -> Conditions:
        w_B = w_B / self.scale_max
        groups = [self.guidance(w_B.clamp(max=1.0) if self.clamped else w_B)[:, None]]
        groups += [project(features[name].float()) for name, project in self.projections.items()]
        sum_BH = torch.stack([of_m.mean(1) if of_m.shape[1] > 1 else of_m[:, 0] for of_m in groups]).sum(0)
        if not self.attended:
            return Conditions(None, sum_BH)
        tokens_BMH = torch.cat(groups, dim=1)
        return Conditions(tokens_BMH + position_code(*tokens_BMH.shape[1:], tokens_BMH.device), sum_BH)


def position_code(length: int, width: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """Return a sinusoidal position code (length, width), width even. Vaswani et al. (arXiv 1706.03762), section 3.5."""
    rates = torch.exp(-math.log(10000.0) * torch.arange(0, width, 2, device=device, dtype=torch.float32) / width)
    angles = torch.arange(length, device=device)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)


class CrossAttentionAdapter(nn.Module):
    """Lets the layer's tokens attend to the condition tokens: single-head attention of width H, back to width D."""

    attends = True  # it takes the condition tokens, not only their sum

    def __init__(self, width: int, config: AdapterConfig):
        super().__init__()
        hidden = config.hidden_size
        # Not to_q, to_k ...: PEFT would take layers with those names for layers of the base and put a LoRA on them.
        self.query = Linear(width, hidden)
        self.key = Linear(hidden, hidden)
        self.value = Linear(hidden, hidden)
        self.out = _output_layer(hidden, width, config.zero_init)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BND: torch.Tensor, conditions: Conditions) -> torch.Tensor:
        """(B, N, D) -> (B, N, D), to be added to the attention's output."""
        attended = nn.functional.scaled_dot_product_attention(
            self.query(x_BND), self.key(conditions.tokens_BMH), self.value(conditions.tokens_BMH)
        )
        return self.dropout(self.out(attended))


class OffsetAdapter(nn.Module):
    """Computes one vector per sample, the same for every token."""

    attends = False

    def __init__(self, width: int, config: AdapterConfig):
        super().__init__()
        hidden = config.hidden_size
        self.mlp = nn.Sequential(Linear(hidden, hidden), nn.ReLU())
        self.out = _output_layer(hidden, width, config.zero_init)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BND: torch.Tensor, conditions: Conditions) -> torch.Tensor:
        """(B, N, D) -> (B, 1, D), to be added to the attention's output."""
        return self.dropout(self.out(self.mlp(conditions.sum_BH[:, None])))


class BottleneckAdapter(nn.Module):
    """A bottleneck of width H that the conditions' sum C modulates: out(silu(down(x) (1 + a(C)) + b(C)) (1 + g(C)))."""

    attends = False

    def __init__(self, width: int, config: AdapterConfig):
        super().__init__()
        hidden = config.hidden_size
        self.down = Linear(width, hidden)
        self.factor, self.shift, self.gate = (Linear(hidden, hidden) for _ in range(3))
        self.out = _output_layer(hidden, width, config.zero_init)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BND: torch.Tensor, conditions: Conditions) -> torch.Tensor:
        """(B, N, D) -> (B, N, D), to be added to the attention's output."""
        sum_B1H = conditions.sum_BH[:, None]
        inner = self.inner(x_BND, conditions)
        return self.dropout(self.out(nn.functional.silu(inner) * (1 + self.gate(sum_B1H))))

    def inner(self, x_BND: torch.Tensor, conditions: Conditions) -> torch.Tensor:
        """(B, N, D) -> (B, N, H), before the activation."""
        sum_B1H = conditions.sum_BH[:, None]
        return self.down(x_BND) * (1 + self.factor(sum_B1H)) + self.shift(sum_B1H)


class BottleneckAttentionAdapter(BottleneckAdapter):
    """A bottleneck whose tokens also attend to the condition tokens, before the activation."""

    attends = True

    def __init__(self, width: int, config: AdapterConfig):
        super().__init__(width, config)
        hidden = config.hidden_size
        self.query, self.key, self.value = (Linear(inner, hidden) for inner in (width, hidden, hidden))

    def inner(self, x_BND: torch.Tensor, conditions: Conditions) -> torch.Tensor:
        return super().inner(x_BND, conditions) + nn.functional.scaled_dot_product_attention(
            self.query(x_BND), self.key(conditions.tokens_BMH), self.value(conditions.tokens_BMH)
        )


class _Product(Linear):
    """A product with float32 weights, in the dtype of its input, added to `output` if there is one.

    A module, for offloading brings weights to the device when their module is called.
    """

    def forward(self, x: torch.Tensor, output: torch.Tensor | None = None) -> torch.Tensor:
        if output is None:
            return nn.functional.linear(x, self.weight.to(x.dtype))
        x = x.flatten(0, -2).to(output.dtype)
        return torch.addmm(output.flatten(0, -2), x, self.weight.to(x.dtype).T).view_as(output)


class LowRankAdapter(nn.Module):
    """A low-rank update of a linear layer: out(m * down(x)), m = 1 + modulation(C), or m = 1 for the kind `lora`.

    LoRA: Hu et al. (arXiv 2106.09685), with a scaling of 1.
    """

    def __init__(self, width: int, width_out: int, config: AdapterConfig):
        super().__init__()
        self.down, self.out = _Product(width, config.rank, bias=False), _Product(config.rank, width_out, bias=False)
        if config.zero_init:
            nn.init.zeros_(self.out.weight)
        self.modulation = Linear(config.hidden_size, config.rank) if config.kind == "low_rank" else None

    def forward(
        self, x: torch.Tensor, sum_BH: torch.Tensor | None, share_B: torch.Tensor, output: torch.Tensor
    ) -> torch.Tensor:
        """x (B, ..., D) and the linear layer's output (B, ..., E), in one float dtype -> the updated output.

        share_B: factor of each sample's update. Products are in the dtype of x: there are hundreds of these layers, and
        copies of x in float32 would take more memory than the base. Few operators, for each is a call of the GPU.
        """
        factor_BR = share_B[:, None]
        if self.modulation is not None:
            factor_BR = factor_BR * (1 + self.modulation(sum_BH))
        inner = self.down(x).mul_(factor_BR.view(len(x), *[1] * (x.ndim - 2), -1))
        return self.out(inner, output)


class EmbeddingAdapter(nn.Module):
    """Computes the vector that is added to the base's embedding of the timestep, from the conditions' sum C: out(silu(C))."""

    def __init__(self, width: int, config: AdapterConfig):
        super().__init__()
        self.out = _output_layer(config.hidden_size, width, config.zero_init)

    def forward(self, x_BD: torch.Tensor, silu_BH: torch.Tensor) -> torch.Tensor:
        """(B, D), (B, H) -> (B, D), to be added to the embedding x, on which it does not depend."""
        return self.out(silu_BH)


class NormAdapter(nn.Module):
    """Scales and shifts the output of a normalization, channel by channel, from the conditions' sum.

    A normalization takes back the size of whatever earlier layers add. Behind the last one, this gives it to the output.
    """

    def __init__(self, channels: int, config: AdapterConfig):
        super().__init__()
        self.out = _output_layer(config.hidden_size, 2 * channels, config.zero_init)

    def forward(self, x_BDHW: torch.Tensor, silu_BH: torch.Tensor) -> torch.Tensor:
        """(B, D, h, w), (B, H) -> (B, D, h, w), to be added to the normalization's output."""
        scale_BD11, shift_BD11 = self.out(silu_BH)[:, :, None, None].chunk(2, dim=1)
        return x_BDHW.float() * scale_BD11 + shift_BD11


def _output_layer(inner: int, width: int, zero_init: bool) -> Linear:
    layer = Linear(inner, width)
    if zero_init:
        for parameter in layer.parameters():
            nn.init.zeros_(parameter)
    return layer


LAYERS = {  # what follows an adapted attention
    "cross_attention": CrossAttentionAdapter,
    "offset": OffsetAdapter,
    "bottleneck": BottleneckAdapter,
    "bottleneck_attention": BottleneckAttentionAdapter,
}
