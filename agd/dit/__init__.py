"""The family of class-conditional transformers: DiT-XL/2 and every other model that `DiTPipeline` opens.

Imports agd.adapters, agd.diffusion and the folders that those import. Imports no stage and no other family.
"""
