"""The architecture of an adapter."""

import dataclasses

from agd.runtime.errors import UserError
from agd.settings.adapter_choices import PUBLISHED, check_adapter, check_gain

LOW_RANK = ("low_rank", "lora")
KINDS = (*PUBLISHED, "bottleneck", "bottleneck_attention", *LOW_RANK, "embedding")
FULL = "full"  # no adapter, but all weights of the base: agd.adapters.tuned_weights
ENCODERS = ("shared", "per_layer")


@dataclasses.dataclass(frozen=True)
class AdapterConfig:
    """The architecture of an adapter. The defaults are the published method's: a saved adapter that lacks a field has it.

    kind, after each adapted attention: `cross_attention` (tokens attend to the conditions), `offset` (one vector for
    every token), `bottleneck` (the conditions modulate a bottleneck), `bottleneck_attention` (whose tokens also attend
    to the conditions). Beside each linear layer of attention and feed-forward: `low_rank` (a low-rank update that the
    conditions modulate) or `lora` (one that they don't). `embedding`: nothing but the embedding. `full`:
    no adapter, but a trained copy of all the base's weights, to compare with.
    embedding: also add a learned vector to the base's embedding of the timestep.
    gain: multiply everything that is added by (w - 1) / (guidance_scale_max - 1), at most 1.
    encoder: `shared` (conditions are embedded once per pass) or `per_layer` (in each layer, as published).
    hidden_size: width H of the conditions and of what follows an attention.
    rank: of `low_rank` and `lora`.
    use_timestep, use_condition: whether the timestep, and the class or prompt, are conditions in addition to w.
    dropout: probability at the output of what follows an attention, in [0, 1).
    zero_init: start with zero output weights, so that training starts exactly from the base model.
    guidance_scale_max: w is divided by this before it is embedded, so that similar scales get similar embeddings.
    """

    kind: str = "cross_attention"
    embedding: bool = False
    gain: bool = False
    encoder: str = "shared"
    hidden_size: int = 320
    rank: int = 1
    use_timestep: bool = True
    use_condition: bool = True
    dropout: float = 0.0
    zero_init: bool = True
    guidance_scale_max: float = 12.0

    def __post_init__(self):
        for name, allowed in (("kind", (*KINDS, FULL)), ("encoder", ENCODERS)):
            if getattr(self, name) not in allowed:
                raise UserError(f"{name}: {getattr(self, name)!r} is unknown; choose one of {', '.join(allowed)}")
        if self.hidden_size < 2 or self.hidden_size % 2:
            raise UserError(f"hidden_size: {self.hidden_size} must be an even number, 2 or more")
        if self.rank < 1:
            raise UserError(f"rank: {self.rank} must be 1 or more")
        check_adapter(self.kind, self.embedding, self.encoder, self.gain)
        check_gain(self.gain, self.guidance_scale_max)

    @property
    def embeds(self) -> bool:
        """Whether a vector is added to the base's embedding of the timestep."""
        return self.embedding or self.kind == "embedding"

    @property
    def mergeable(self) -> bool:
        """Whether its layers depend on nothing but w, so that they can be merged into the base's for one w."""
        return self.kind == "lora"

    @property
    def conditioned(self) -> bool:
        """Whether anything reads the conditions. A `lora` without embedding does not: it depends on w by the gain."""
        return self.kind != "lora" or self.embeds
