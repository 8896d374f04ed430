"""Entry points of stages: what they read, what they refuse, and what they don't import."""

import dataclasses
import os
import subprocess
import sys

import pytest
from studies import ROOT

from agd.runtime.errors import UserError
from agd.settings import configuration
from agd.settings.command_line import parse
from agd.settings.entry_points import entry_point, settings_of
from agd.settings.stages import STAGES


@pytest.mark.parametrize("stage", [name for name, stage in STAGES.items() if stage.by_family])
def test_a_stage_of_families_names_their_command_lines(stage, capsys):
    with pytest.raises(SystemExit) as end:
        entry_point(stage)([])
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(f"use python -m agd.dit.{stage} or python -m agd.sd.{stage}")
    done = subprocess.run([sys.executable, "-m", f"agd.{stage}"], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (2, f"{line}\n")


def test_what_a_model_does_not_use_is_none_and_its_own_is_apart():
    @dataclasses.dataclass
    class Settings:
        steps: int
        class_labels: str | None
        family_settings: dict

    assert settings_of(Settings, {"steps": 3, "unconditional": "zeros"}) == Settings(
        3, None, {"unconditional": "zeros"}
    )


def test_the_published_names_of_settings_are_known():
    words = ["--output-dir", "T", "--base-model", "M", "--inference-steps", "7"]
    _, settings = parse("sample_trajectories", "x", "dit", "dit", words)
    assert settings["num_inference_steps"] == 7


def test_what_rules_and_command_lines_import_is_light():
    rules = "\n".join(file.read_text() for file in sorted((ROOT / "rules").glob("*.smk")))
    lines = [line for line in rules.splitlines() if line.startswith("from agd")]
    assert len(lines) > 5
    code = "\n".join(
        [
            *lines,
            "import agd.settings.entry_points, sys",
            "print(sorted({'torch', 'diffusers', 'zarr'} & set(sys.modules)))",
        ]
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout == "[]\n", done.stderr


def test_a_method_of_the_model_is_a_kind_of_cfg():
    own = configuration.shipped()["models"]["digits-dit"]["methods"]["interval"]
    words = ["--guidance", "interval", "--base-model", "B", "--output-dir", "S"]
    files, settings = parse("sample", "x", "dit", "digits-dit", words)
    assert files.guidance == "cfg"
    assert settings["guided_sigmas"] == own["guided_sigmas"] != "all"
    files, settings = parse("sample", "x", "dit", "digits-dit", [*words, "--guided-sigmas", "1-2"])
    assert settings["guided_sigmas"] == "1-2"
    with pytest.raises(UserError, match=r"--guidance: invalid choice: 'tgate' \(choose from"):
        parse("sample", "x", "dit", "digits-dit", ["--guidance", "tgate"])
