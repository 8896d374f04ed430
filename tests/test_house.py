"""The house: arrows point one way, config and schema and code are in step, versions can't be forgotten."""

import ast
import dataclasses
import importlib
import re
from pathlib import Path

import pytest
import yaml

from agd import config, fingerprints
from agd.adapters import AdapterConfig
from agd.versions import VERSIONS

ROOT = Path(__file__).resolve().parent.parent
STAGES = (
    *("sample_trajectories", "train", "sample", "calculate_metrics", "tabulate"),
    *("prepare_reference", "prepare_prompts", "download"),
)
DIGITS = ("prepare_digits", "train_classifier", "train_base")


def module_name(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def stage_module(stage: str):
    return importlib.import_module(f"agd.digits.{stage}" if stage in DIGITS else f"agd.{stage}")


def test_arrows_point_one_way():
    wrong = []
    for file in (ROOT / "agd").rglob("*.py"):
        name, found = module_name(file), fingerprints.imports(ast.parse(file.read_text()))
        family = re.match(r"agd\.(dit|sd)\.", name)
        for other in found:
            if other.split(".")[0] == "snakemake":
                wrong.append(f"{name} imports snakemake")
            if re.fullmatch(rf"agd\.({'|'.join(STAGES)})|agd\.digits\.({'|'.join(DIGITS)})", other):
                wrong.append(f"{name} imports the stage {other}")
            if re.match(r"agd\.(dit|sd)\b", other) and not family and name != "agd.door":
                wrong.append(f"{name} imports the family {other}")
    assert wrong == []


def test_no_branch_on_a_family_outside_its_room():
    branch = re.compile(r"(family|model_type|backbone)\s*==")
    assert [str(f) for f in (ROOT / "agd").glob("*.py") if branch.search(f.read_text())] == []


@pytest.mark.parametrize("stage", [s for s in VERSIONS if s in config.schema()["$defs"]])
def test_settings_are_the_schemas_and_have_no_defaults(stage):
    fields = dataclasses.fields(stage_module(stage).Settings)
    assert {field.name for field in fields} == set(config.properties(stage))
    assert all(field.default is dataclasses.MISSING for field in fields)


@pytest.mark.parametrize("stage", [s for s in VERSIONS if s in config.schema()["$defs"]])
def test_every_setting_is_described_and_read(stage):
    package = stage_module(stage).__file__
    readers = [
        Path(package),
        *(ROOT / "agd" / "dit").glob("*.py"),
        *(ROOT / "agd" / "sd").glob("*.py"),
        ROOT / "agd" / "config.py",
        ROOT / "rules" / "paths.smk",
    ]
    text = "\n".join(file.read_text() for file in readers)
    adapter = {field.name for field in dataclasses.fields(AdapterConfig)} if stage == "train" else set()
    for name, spec in config.properties(stage).items():
        assert len(spec["description"]) > 10, name
        assert set(spec) <= {"description", "type", "enum", "pattern", "how", "plan", "families", "minimum", "maximum",
                             "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength"}, name  # fmt: skip
        assert (
            re.search(rf'settings\.{name}\b|chosen\["{name}"\]|"{name}"|\b{name} = getattr', text) or name in adapter
        ), name


def test_shipped_configuration_is_right_and_complete():
    config.check(config.shipped())


def test_text_from_the_command_line_becomes_what_the_schema_wants():
    given = {
        "seeds": ["1", "2"],
        "models": {
            "dit": {"reference": "null", "train": {"steps": "5", "zero_init": "false", "learning_rate": "1e-3"}}
        },
        "defaults": {"sample": {"class_labels": "7"}},
    }
    read = config.typed(given)
    assert read["seeds"] == [1, 2]
    assert read["models"]["dit"] == {
        "reference": None,
        "train": {"steps": 5, "zero_init": False, "learning_rate": 0.001},
    }
    assert read["defaults"]["sample"]["class_labels"] == "7"
    for path in ("/data/img #2", "2020", "@data", "[x"):
        assert config.typed({"models": {"dit": {"reference": path}}})["models"]["dit"]["reference"] == path


def test_versions_lock_is_in_step():
    assert fingerprints.moved() == [], "run `python -m agd.fingerprints --help`"


def test_fingerprints_see_code_and_not_comments(monkeypatch):
    def of(text: str) -> list:
        file = ROOT / "agd" / "guidance.py"
        original = file.read_text()
        assert "guided = uncond + w * (cond - uncond)" in original
        with monkeypatch.context() as patch:
            read = Path.read_text
            changed = original.replace("    guided = uncond + w * (cond - uncond)", text)
            patch.setattr(Path, "read_text", lambda self, **o: changed if self == file else read(self, **o))
            return [stage for stage in VERSIONS if fingerprints.fingerprint(stage) != before[stage]]

    before = {stage: fingerprints.fingerprint(stage) for stage in VERSIONS}
    assert of("    # why\n    guided = uncond + w * (cond - uncond)") == []
    assert of("    guided = uncond + 2 * w * (cond - uncond)") == ["sample_trajectories", "sample"]


def test_fingerprints_tell_the_ends_of_a_slice_apart():
    def of(text: str) -> str:
        return str(fingerprints.skeleton(fingerprints.ast.parse(text)))

    assert of("x[:n]") != of("x[n:]")
    assert of("def f(a=1): pass") != of("def f(*, a=1): pass")


def test_versions_rise_by_one(tmp_path, monkeypatch):
    (tmp_path / "versions.py").write_text((ROOT / "agd" / "versions.py").read_text())
    monkeypatch.setattr(fingerprints, "LOCK", tmp_path / "versions.lock")
    before = dict(VERSIONS)
    with pytest.raises(SystemExit, match="code of these stages moved"):
        fingerprints.main([])
    monkeypatch.setattr(fingerprints, "VERSIONS_FILE", tmp_path / "versions.py")
    try:
        fingerprints.main(["--changed", "train"])
        assert f'"train": {before["train"] + 1}' in (tmp_path / "versions.py").read_text()
        assert fingerprints.moved() == []
    finally:
        VERSIONS.update(before)


def test_rules_are_short_and_plain():
    for file in (ROOT / "rules").glob("*.smk"):
        text = file.read_text()
        assert "lambda" not in text
        assert not re.search(r"^\s*(run|script):", text, re.M)
        if text.startswith("rule "):
            shell = text.split("shell:")[1]
            assert shell.strip().startswith('"python -m ')
    assert len((ROOT / "Snakefile").read_text().splitlines()) < 40
    assert len((ROOT / "rules" / "common.smk").read_text().splitlines()) < 105


def test_environment_for_conda_has_the_locked_versions():
    locked = dict(line.split("==") for line in (ROOT / "requirements.lock").read_text().splitlines() if "==" in line)
    (pip,) = [
        part["pip"]
        for part in yaml.safe_load((ROOT / "envs" / "agd.yaml").read_text())["dependencies"]
        if isinstance(part, dict)
    ]
    for package in pip:
        name, _, version = package.partition("==")
        assert locked[name] == version, package


def test_doors_are_a_few_lines():
    stages = ("sample_trajectories", "train", "sample", "calculate_metrics")
    for door in (ROOT / "agd" / family / f"{stage}.py" for family in ("dit", "sd") for stage in stages):
        assert len(door.read_text().splitlines()) < 12
