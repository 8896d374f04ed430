"""The architecture of an adapter."""

import dataclasses

from agd.runtime.errors import UserError

KINDS = ("cross_attention", "offset")
ENCODERS = ("shared", "per_layer")


@dataclasses.dataclass(frozen=True)
class AdapterConfig:
    """The architecture of an adapter.

    kind: `cross_attention` (tokens attend to the conditions) or `offset` (one vector is added to every token).
    encoder: `shared` (conditions are embedded once per pass) or `per_layer` (in each layer, as published).
    hidden_size: width H of the conditions and of the attention.
    use_timestep, use_condition: whether the timestep, and the class or prompt, are conditions in addition to w.
    dropout: probability at the adapter's output, in [0, 1).
    zero_init: start with zero output weights, so that training starts exactly from the base model.
    guidance_scale_max: w is divided by this before it is embedded, so that similar scales get similar embeddings.
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
