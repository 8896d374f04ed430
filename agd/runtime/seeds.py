"""Derives the seeds of single samples."""

import hashlib


def seed_of(seed: int, purpose: str, index: int) -> int:
    """Return a sample's seed: it depends on the study's seed and the sample's index, never on batch or chunk."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{index}".encode()).digest()
    return int.from_bytes(digest[:8]) >> 1
