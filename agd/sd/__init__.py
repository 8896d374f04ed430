"""The text-to-image family: Stable Diffusion 1.x and 2.x, and SDXL. The model's files say which one it is.

Imports agd.adapters, agd.diffusion and the folders that those import. Imports no stage and no other family.
"""
