"""The family's constants that need no torch (agd/settings/families.py describes each name)."""

DENOISER = "DiTTransformer2DModel"
DENOISER_FOLDER = "transformer"
SUBJECTS = "classes"
SETTINGS: dict[str, dict] = {}
ARGUMENTS: dict[str, list] = {}
