"""Measures of images: feature extractors, references, distances and the CLIP score.

Imports agd.diffusion (weights of a CLIP model), agd.artifacts, agd.settings and agd.runtime.
"""

from agd.runtime.lazy import hand_on

__all__, __getattr__ = hand_on(
    __name__,
    distances=["frechet_distance", "kernel_distance", "precision_recall"],
    extractors=["Extractor", "extractor"],
    references=["Reference", "compare", "compute_reference", "read_reference", "write_reference"],
    clip=["clip_score"],
)
