"""Diffusion: guidance, the distillation objective, sampling loops, schedulers, and opening of base models.

Imports agd.artifacts, agd.settings and agd.runtime. Knows no family and no adapter.
"""

from agd.runtime.lazy import hand_on

__all__, __getattr__ = hand_on(
    __name__,
    guidance=["guide"],
    distillation=["Distillation"],
    sampling=["EvaluationCounter", "denoise", "generators", "noise"],
    base_models=["Part", "locate", "open_safely"],
    model=["Model"],
)
