"""Checks every artifact of a results folder, and reports each bad one in a line that says how to repair it.

    python -m agd.verify results/

Checks each artifact against its checksum and its settings, and for values that are not finite (reading.py). Then checks
its consistency with the artifacts that it was made from, or that were made from it (consistency.py). Exit status 1 if
anything is bad. Imports agd.measures, agd.adapters, agd.artifacts and the folders that those import; no stage.
"""

from agd.runtime.lazy import hand_on

__all__, __getattr__ = hand_on(__name__, command=["bad", "main"])
