"""The registry of families. To add a family, change this file and add a package.

The package of a family has three modules:

    options.py   constants that need no torch: DENOISER, DENOISER_FOLDER, SUBJECTS, SETTINGS, ARGUMENTS
    family.py    MODEL_CLASS, a class that opens its models (interface: agd/diffusion/model.py)
    anatomy.py   ANATOMY, where the denoiser takes adapters (agd.adapters.anatomy.Anatomy)

For its command lines, it also has one short module per stage (agd/dit/train.py, ...).
"""

import importlib

PACKAGES = {"dit": "agd.dit", "sd": "agd.sd"}


def options(family: str):
    """Import a family's module `options`, which needs no torch.

    DENOISER: class name of its denoisers. DENOISER_FOLDER: their folder in a pipeline's folder. SUBJECTS: what its images
    show, `classes` or `prompts`. SETTINGS: stage -> {setting: schema}, settings of this family only. ARGUMENTS: stage ->
    Arguments of this family only.
    """
    return importlib.import_module(f"{PACKAGES[family]}.options")


def model_class(family: str):
    """Import the class that opens a family's models."""
    return importlib.import_module(f"{PACKAGES[family]}.family").MODEL_CLASS


def denoisers() -> dict[str, str]:
    """Return class name of a denoiser -> its family."""
    return {options(family).DENOISER: family for family in PACKAGES}


def anatomy(family: str):
    """Import a family's Anatomy: where its denoisers take adapters."""
    return importlib.import_module(f"{PACKAGES[family]}.anatomy").ANATOMY
