"""Reads and writes artifacts: files, sealed zips and JSON, provenance, trajectories, images, checkpoints, downloads.

Imports agd.settings (versions of stages) and agd.runtime. Nothing here knows about denoisers.
"""

from agd.runtime.lazy import hand_on

__all__, __getattr__ = hand_on(
    __name__,
    files=["folder_aside", "make_folder", "sha256", "writing"],
    zips=["open_zip", "write_zip"],
    sealed_json=["check_files", "read_json", "read_sealed", "write_sealed"],
    provenance=["model_fingerprint"],
    trajectories=["Shard"],
    pairs=["Pairs"],
    images=["read_images", "write_grid", "write_images"],
    downloads=["fetch"],
)
