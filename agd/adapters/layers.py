"""The layers: encoders of the conditions, and the adapters of an attention module's output.

Shapes: B samples, N tokens of the adapted layer with width D, M condition tokens with width H (`hidden_size`).
"""

import math

import torch
from torch import nn

from agd.adapters.config import AdapterConfig


class ScalarEncoder(nn.Module):
    """Embeds a number in about [0, 1] by random Fourier features, an MLP and a LayerNorm: (B,) -> (B, H).

    Tancik et al. (arXiv 2006.10739). Frequencies and phases are buffers: they are drawn once and saved.
    """

    def __init__(self, hidden_size: int):
        super().__init__()
        self.register_buffer("frequencies", torch.randn(hidden_size))
        self.register_buffer("phases", torch.rand(hidden_size))
        self.mlp = nn.Sequential(
            nn.Linear(hidden_size, 4 * hidden_size), nn.ReLU(), nn.Linear(4 * hidden_size, hidden_size)
        )
        self.norm = nn.LayerNorm(hidden_size)

    def forward(self, x_B: torch.Tensor) -> torch.Tensor:
        angles_BH = 2 * math.pi * (x_B[:, None] * self.frequencies + self.phases)
        return self.norm(self.mlp(math.sqrt(2) * angles_BH.cos()))


class ConditionEncoder(nn.Module):
    """Embeds w, and the base model's embeddings of the timestep and of the class or prompt, as condition tokens.

    widths: name -> width of each base embedding in use, such as {"timestep": 1152, "class": 1152}.
    forward(w_B, features) -> (B, M, H), features: name -> (B, m, width). For kinds that are `pooled`, the tokens of each
    feature are averaged and all features are summed: M = 1.
    """

    def __init__(self, config: AdapterConfig, widths: dict[str, int]):
        super().__init__()
        self.scale_max = config.guidance_scale_max
        self.pooled = LAYERS[config.kind].pooled
        self.guidance = ScalarEncoder(config.hidden_size)
        self.projections = nn.ModuleDict({name: nn.Linear(width, config.hidden_size) for name, width in widths.items()})

    def forward(self, w_B: torch.Tensor, features: dict[str, torch.Tensor]) -> torch.Tensor:
        groups = [self.guidance(w_B / self.scale_max)[:, None]]
        groups += [project(features[name].float()) for name, project in self.projections.items()]
        if self.pooled:
            return torch.stack([group_BmH.mean(1) for group_BmH in groups]).sum(0)[:, None]
        tokens_BMH = torch.cat(groups, dim=1)
        return tokens_BMH + position_code(tokens_BMH.shape[1], tokens_BMH.shape[2], tokens_BMH.device)


def position_code(length: int, width: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """Return a sinusoidal position code (length, width), width even. Vaswani et al. (arXiv 1706.03762), section 3.5."""
    rates = torch.exp(-math.log(10000.0) * torch.arange(0, width, 2, device=device) / width)
    angles = torch.arange(length, device=device)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)


class CrossAttentionAdapter(nn.Module):
    """Lets the layer's tokens attend to the condition tokens: single-head attention of width H, back to width D."""

    pooled = False  # it takes all condition tokens, not their sum

    def __init__(self, width: int, config: AdapterConfig):
        super().__init__()
        hidden = config.hidden_size
        # Not to_q, to_k ...: PEFT would take layers with those names for layers of the base and put a LoRA on them.
        self.query = nn.Linear(width, hidden)
        self.key = nn.Linear(hidden, hidden)
        self.value = nn.Linear(hidden, hidden)
        self.out = _output_layer(hidden, width, config.zero_init)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BND: torch.Tensor, tokens_BMH: torch.Tensor) -> torch.Tensor:
        """(B, N, D), (B, M, H) -> (B, N, D), to be added to the attention's output."""
        attended = nn.functional.scaled_dot_product_attention(
            self.query(x_BND), self.key(tokens_BMH), self.value(tokens_BMH)
        )
        return self.dropout(self.out(attended))


class OffsetAdapter(nn.Module):
    """Computes one vector per sample, the same for every token."""

    pooled = True

    def __init__(self, width: int, config: AdapterConfig):
        super().__init__()
        hidden = config.hidden_size
        self.mlp = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU())
        self.out = _output_layer(hidden, width, config.zero_init)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BND: torch.Tensor, tokens_B1H: torch.Tensor) -> torch.Tensor:
        """(B, N, D), (B, 1, H) -> (B, 1, D), to be added to the attention's output."""
        return self.dropout(self.out(self.mlp(tokens_B1H)))


def _output_layer(hidden: int, width: int, zero_init: bool) -> nn.Linear:
    layer = nn.Linear(hidden, width)
    if zero_init:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    return layer


LAYERS = {"cross_attention": CrossAttentionAdapter, "offset": OffsetAdapter}
