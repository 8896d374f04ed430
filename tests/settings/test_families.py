"""A new family is a folder of its own and one line in the registry."""

import importlib
import sys

import pytest
import torch
import yaml

from agd.adapters import public
from agd.artifacts import trajectories
from agd.settings import configuration, families, fingerprints, schema
from agd.settings.entry_points import entry_point

# The family of a denoiser that adds a constant to its input: no line of agd knows it.
FILES = {
    "__init__.py": '"""Imports a stage\'s entry point alone."""',
    "options.py": """
from agd.settings.stages import Argument

DENOISER = "Shift"
DENOISER_FOLDER = "shift"
SUBJECTS = "classes"
SETTINGS = {"sample_trajectories": {"shift": {"description": "What is added.", "type": "number", "minimum": 0}}}
ARGUMENTS = {"sample_trajectories": [Argument("--note", {"help": "goes nowhere"})]}
""",
    "anatomy.py": """
from agd.adapters.anatomy import Anatomy

ANATOMY = Anatomy(
    entry="entry", attentions=lambda m: {"attention": m.attention}, widths=lambda m: {}, embed=lambda m, a, o: {},
    example=lambda m: {},
)
""",
    "family.py": """
import torch
from diffusers import DDIMScheduler

from agd.settings.written_values import class_labels


class MODEL_CLASS:
    latent_shape = (1, 2, 2)

    def __init__(self, name, dtype, device, conditions=False, images=False):
        self.device, self.scheduler = device, DDIMScheduler(clip_sample=False)
        self.identity = {"name": name, "revision": None, "fingerprint": "0" * 64}

    @staticmethod
    def check(name, files, settings):
        MODEL_CLASS.shift = settings.family_settings["shift"]
        return settings, class_labels(settings.class_labels)

    def conditions(self, subjects):
        return {"class_label": torch.tensor(subjects)}

    def unconditional(self, conditions, settings):
        return {"class_label": torch.zeros_like(conditions["class_label"])}

    def call(self, x_BCHW, t, conditions):
        return x_BCHW + self.shift
""",
}


@pytest.fixture
def shift(tmp_path, monkeypatch):
    """The family `shift`, registered, and a model of it, configured."""
    package = tmp_path / "shift_family"
    package.mkdir()
    for name, text in FILES.items():
        (package / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(families.PACKAGES, "shift", "shift_family")
    schema.schema.cache_clear()
    models = configuration.shipped()
    own = {"sample_trajectories": {"shift": 2, "num_trajectories": 4, "chunk_size": 4, "class_labels": "0-3"}
           | {"num_inference_steps": 3, "guidance_min": 1, "guidance_max": 3, "dtype": "float32"}}  # fmt: skip
    digits = models["models"]["digits-dit"]
    models["models"]["tiny"] = {**digits, **own, "family": "shift", "base_model": "any"}
    monkeypatch.setattr(configuration, "shipped", lambda: models)
    yield
    schema.schema.cache_clear()
    for name in [name for name in sys.modules if name.startswith("shift_family")]:
        del sys.modules[name]


def test_its_configuration_is_checked_like_any_other(shift):
    configuration.check(configuration.shipped())
    wrong = yaml.safe_load(yaml.safe_dump(configuration.shipped()))
    wrong["models"]["digits-dit"]["sample_trajectories"]["shift"] = 1
    with pytest.raises(configuration.UserError, match=r"models\.digits-dit\.sample_trajectories\.shift: unknown key"):
        configuration.check(wrong)
    assert "shift" in schema.properties("sample_trajectories", "shift")
    assert "shift" not in schema.properties("sample_trajectories", "dit")
    assert "unconditional" not in schema.properties("sample_trajectories", "shift")


def test_its_stages_run(shift, tmp_path, capsys):
    main = entry_point("sample_trajectories", family="shift", model="tiny")
    main(["--output-dir", str(tmp_path / "T"), "--note", "x", "--device", "cpu"])
    shard = trajectories.read(tmp_path / "T" / "000000.zarr.zip")
    assert shard.provenance["settings"]["shift"] == 2
    assert shard.pairs.shape == (4, 3, 2, 1, 2, 2)
    with pytest.raises(SystemExit):
        main(["--output-dir", str(tmp_path / "T"), "--shift", "-1"])
    assert "shift_family.sample_trajectories: error: shift: -1 is not allowed" in capsys.readouterr().err


def test_its_denoiser_takes_adapters(shift):
    class Shift(torch.nn.Module):
        pass

    assert families.denoisers()["Shift"] == "shift"
    denoiser, anatomy = public._opened(Shift())
    assert anatomy is importlib.import_module("shift_family.anatomy").ANATOMY
    assert isinstance(denoiser, Shift)


def test_its_code_is_in_the_fingerprints_of_stages_that_open_models(shift):
    assert "shift_family.family" in fingerprints.roots("train")
    assert "shift_family.family" not in fingerprints.roots("calculate_metrics")


def test_the_registered_ones_answer_everything():
    for name in families.PACKAGES:
        known = families.options(name)
        assert known.SUBJECTS in ("classes", "prompts")
        protocols = importlib.import_module("agd.diffusion.model")
        kinds = [protocols.Model, *([protocols.ClassModel] if known.SUBJECTS == "classes" else [])]
        asked = {name for kind in kinds for name in vars(kind) if name[0] != "_"}
        assert asked - {"anatomy", "denoiser", "scheduler", "latent_shape", "device", "identity"} <= set(
            dir(families.model_class(name))
        )
