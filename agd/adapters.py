"""The layers: what embeds the conditions, and what an adapted attention adds to its output.

Shapes: B samples, N tokens of the adapted layer with width D, M condition tokens with width H (`hidden_size`).
"""

import dataclasses
import math

import torch
from torch import nn

from agd.errors import UserError

KINDS = ("cross_attention", "offset")
ENCODERS = ("shared", "per_layer")


@dataclasses.dataclass(frozen=True)
class AdapterConfig:
    """What an adapter is made of.

    kind: `cross_attention` (tokens attend to the conditions) or `offset` (one vector added to every token).
    encoder: `shared` (conditions are embedded once per pass) or `per_layer` (in each layer, as published).
    hidden_size: width H of the conditions and of the attention.
    use_timestep, use_condition: whether t, and the class or prompt, are conditions beside w.
    dropout: probability at the adapter's output, in [0, 1).
    zero_init: start with output weights of zero, so that training starts from the base model exactly.
    guidance_scale_max: w is divided by it before it is embedded, so that nearby scales stay nearby.
    """

    kind: str = "cross_attention"
    encoder: str = "shared"
    hidden_size: int = 320
    use_timestep: bool = True
    use_condition: bool = True
    dropout: float = 0.0
    zero_init: bool = True
    guidance_scale_max: float = 12.0

    def __post_init__(self):
        for name, allowed in (("kind", KINDS), ("encoder", ENCODERS)):
            if getattr(self, name) not in allowed:
                raise UserError(f"{name}: {getattr(self, name)!r} is unknown; choose one of {', '.join(allowed)}")
        if self.hidden_size < 2 or self.hidden_size % 2:
            raise UserError(f"hidden_size: {self.hidden_size} must be an even number, 2 or more")


class ScalarEncoder(nn.Module):
    """Random Fourier features of a number in about [0, 1], an MLP, a LayerNorm: (B,) -> (B, H).

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
    """Embeds w and the base model's own embeddings of t and of the class or prompt as condition tokens.

    widths: name -> width of each of the base's embeddings that is used, such as {"timestep": 1152, "class": 1152}.
    forward(w_B, features) -> (B, M, H), features: name -> (B, m, width). For `offset` the tokens of each feature are
    averaged and everything is summed: M = 1.
    """

    def __init__(self, config: AdapterConfig, widths: dict[str, int]):
        super().__init__()
        self.scale_max = config.guidance_scale_max
        self.pooled = config.kind == "offset"
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
    """Sinusoidal position code (length, width), width even. Vaswani et al. (arXiv 1706.03762), section 3.5."""
    rates = torch.exp(-math.log(10000.0) * torch.arange(0, width, 2, device=device) / width)
    angles = torch.arange(length, device=device)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)


class CrossAttentionAdapter(nn.Module):
    """Tokens of the layer ask the condition tokens: single-head attention of width H, back to width D."""

    def __init__(self, width: int, config: AdapterConfig):
        super().__init__()
        hidden = config.hidden_size
        # Not to_q, to_k ...: PEFT would take layers of those names for the base's and put a LoRA on them.
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
    """One vector per sample, the same for every token."""

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
