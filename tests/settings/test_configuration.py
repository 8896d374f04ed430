"""Configuration, schema and stages' settings are in step."""

import dataclasses
import importlib
import re
import shlex
from pathlib import Path

import pytest
from studies import ROOT

from agd.adapters.config import AdapterConfig
from agd.runtime.errors import UserError
from agd.settings import command_line, configuration, results, schema, validation
from agd.settings.families import PACKAGES
from agd.settings.stages import STAGES

WITH_SETTINGS = [stage for stage in STAGES if stage in schema.schema()["$defs"]]
WORDS = {"description", "type", "enum", "pattern", "decides", "only_for", "subjects", "families", "minimum", "maximum",
         "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength"}  # fmt: skip


def stage_module(stage: str):
    return importlib.import_module(STAGES[stage].module)


@pytest.mark.parametrize("stage", WITH_SETTINGS)
def test_settings_are_the_schemas_and_have_no_defaults(stage):
    fields = dataclasses.fields(stage_module(stage).Settings)
    names = {field.name for field in fields} - {"family_settings"}
    assert names == {name for name, spec in schema.properties(stage).items() if "families" not in spec}
    assert all(field.default is dataclasses.MISSING for field in fields)
    assert ("family_settings" in {field.name for field in fields}) == STAGES[stage].needs_model


@pytest.mark.parametrize("stage", WITH_SETTINGS)
def test_every_setting_is_described_and_read(stage):
    folders = [ROOT.joinpath(*package.split(".")) for package in PACKAGES.values()]
    readers = [Path(stage_module(stage).__file__), *(file for folder in folders for file in folder.glob("*.py"))]
    readers += [ROOT / "agd/settings/configuration.py", ROOT / "agd/settings/results.py"]
    readers.append(ROOT / "agd/diffusion/guidance.py")
    text = "\n".join(file.read_text() for file in [*readers, *(ROOT / "rules").glob("*.smk")])
    adapter = {field.name for field in dataclasses.fields(AdapterConfig)} if stage == "train" else set()
    for name, spec in schema.properties(stage).items():
        assert len(spec["description"]) > 10, name
        assert set(spec) <= WORDS, name
        assert re.search(rf'settings\.{name}\b|chosen\["{name}"\]|"{name}"', text) or name in adapter, name


def test_shipped_configuration_is_right_and_complete():
    configuration.check(configuration.shipped())


def test_each_setting_decides_one_thing():
    for stage in WITH_SETTINGS:
        for name, spec in schema.properties(stage).items():
            assert schema.decides(spec) in ("result", "execution", "files"), f"{stage}.{name}"
            assert spec.get("subjects", "classes") in ("classes", "prompts"), f"{stage}.{name}"
            assert spec.get("only_for", "cfg") == "cfg", f"{stage}.{name}"
    chosen = configuration.settings(configuration.shipped(), "digits-dit", "sample")
    result, execution = (find("sample", chosen) for find in (schema.result_settings, schema.execution_settings))
    assert "guidance_scale" in result
    assert "batch_size" in execution
    assert set(chosen) - set(result) - set(execution) == {"num_samples", "chunk_size"}


def test_the_comparison_is_said_by_the_configuration():
    config = configuration.shipped()
    config["models"]["digits-dit"]["sample"] |= {"guidance_scale": 2.0, "num_inference_steps": 25}
    runs = [(run.method, run.scale, run.steps) for run in configuration.compared(config, "digits-dit")]
    assert runs == [("none", "1", 25), ("cfg", "2", 25), ("cfg", "2", 13), ("agd", "2", 25)]
    config["models"]["digits-dit"]["curve_evaluations"] = [4, 16]
    points = [(run.method, run.scale, run.steps) for run in configuration.curve(config, "digits-dit")]
    assert points == [
        (m, w, steps)
        for m, w, per in (("none", "1", 1), ("cfg", "2", 2), ("agd", "2", 1))
        for steps in (4 // per, 16 // per)
    ]
    config["models"]["digits-dit"]["compared_adapter"] = "mine"
    with pytest.raises(UserError, match=r"models\.digits-dit\.adapters: 'mine' is not there; add it, or give another"):
        configuration.compared(config, "digits-dit")
    config["models"]["digits-dit"]["adapters"]["mine"] = {}
    assert [run.method for run in configuration.compared(config, "digits-dit")] == ["none", "cfg", "cfg", "mine"]
    config["models"]["digits-dit"]["compared_methods"] = ["agd", "interval"]
    assert configuration.compared_rows(config, "digits-dit") == ["none", "cfg", "cfg-half", "mine", "agd", "interval"]


def test_text_from_the_command_line_becomes_what_the_schema_wants():
    given = {
        "seeds": ["1", "2.0", 3.0, "4e0", "010", "1:30"],
        "models": {
            "dit": {"reference": "null", "train": {"steps": "5", "zero_init": "false", "learning_rate": "1e-3"}}
        },
        "defaults": {"sample": {"class_labels": "7"}},
    }
    read = validation.typed(given)
    # Seeds stand in paths: 1.0 is another one there. `check` refuses what stays text.
    assert " ".join(map(repr, read["seeds"])) == "1 2 3 4 '010' '1:30'"
    assert read["models"]["dit"] == {
        "reference": None,
        "train": {"steps": 5, "zero_init": False, "learning_rate": 0.001},
    }
    assert read["defaults"]["sample"]["class_labels"] == "7"
    for path in ("/data/img #2", "2020", "@data", "[x"):
        assert validation.typed({"models": {"dit": {"reference": path}}})["models"]["dit"]["reference"] == path


@pytest.mark.parametrize("model", configuration.shipped()["models"])
@pytest.mark.parametrize("stage", ["sample_trajectories", "sample"])
def test_every_chunk_of_the_shipped_models_can_be_made(stage, model):
    """Rules give a chunk's first index and count; the number in all is then that of the family's default model."""
    chosen, family = (
        configuration.settings(configuration.shipped(), model, stage),
        configuration.shipped()["models"][model]["family"],
    )
    made = []
    for name in results.chunk_names(stage, chosen):
        words = ["--output-dir", "D", *shlex.split(results.chunk_options(stage, chosen, name))]
        files, settings = command_line.parse(stage, "agd", family, {"dit": "dit", "sd": "sd21"}[family], words)
        made += results.part(files.first, files.count, results.total(stage, settings), "one")
    assert made == list(range(results.total(stage, chosen)))
