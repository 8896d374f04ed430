"""The structure: arrows point down, rooms are described, what is said once is said once, rules are plain."""

import ast
import importlib
import re
import sys
from pathlib import Path

import pytest
import yaml
from studies import ROOT

from agd.settings.families import PACKAGES
from agd.settings.fingerprints import imports
from agd.settings.stages import STAGES
from agd.settings.versions import VERSIONS

sys.path.insert(0, str(ROOT / "docs"))
import draw_architecture

MODULES = sorted((ROOT / "agd").rglob("*.py"))
FOLDERS = sorted(file.parent for file in MODULES if file.name == "__init__.py" and file.parent != ROOT / "agd")


def module_name(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported(file: Path) -> set[str]:
    return imports(ast.parse(file.read_text(encoding="utf-8")))


def test_arrows_point_down():
    assert draw_architecture.wrong(draw_architecture.arrows()) == []


def test_an_arrow_up_is_seen():
    assert draw_architecture.wrong({("settings", "measures"), ("train", "adapters")}) == [
        "settings imports measures, which is not on a lower floor"
    ]


def test_every_room_is_drawn_and_described():
    rooms = {name for floor in draw_architecture.FLOORS for name in floor}
    assert {draw_architecture.room(module_name(file)) for file in MODULES} - {None} == rooms
    page = draw_architecture.PAGE.read_text(encoding="utf-8")
    assert page == draw_architecture.drawn(page), "run `python docs/draw_architecture.py`"
    text = page.split(draw_architecture.END)[1]
    for name in rooms:
        assert f"`{name}" in text, name


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_folders_say_what_lives_there(folder):
    package = importlib.import_module(module_name(folder / "__init__.py"))
    assert "import" in package.__doc__.lower()  # and what it imports, or who imports it
    for name in getattr(package, "__all__", []):
        assert callable(getattr(package, name)) or name.isupper(), name
    with pytest.raises(AttributeError):
        package.no_such_name  # noqa: B018


def test_nobody_imports_a_stage_or_snakemake():
    stages = {stage.module for stage in STAGES.values()}
    wrong = [f"{module_name(file)}: {name}" for file in MODULES for name in imported(file) & stages]
    wrong += [str(file) for file in MODULES if any(name.split(".")[0] == "snakemake" for name in imported(file))]
    assert wrong == []


def test_names_come_from_the_modules_that_define_them():
    """Fingerprints follow imports, and a folder's own names are imported when they are asked for."""
    folders = {module_name(folder / "__init__.py") for folder in FOLDERS}
    wrong = []
    for file in MODULES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module in folders:
                here = ROOT.joinpath(*node.module.split("."))
                wrong += [f"{file}: {a.name}" for a in node.names if not (here / f"{a.name}.py").is_file()]
    assert wrong == []


def test_families_are_named_in_their_registry_alone():
    quoted = re.compile(rf"[\"']({'|'.join(PACKAGES)})[\"']|agd\.({'|'.join(PACKAGES)})\b")
    outside = [file for file in MODULES if file.parent.name not in (*PACKAGES, "digits") and file.name != "families.py"]
    found = [file for file in [*outside, *(ROOT / "rules").glob("*.smk")] if quoted.search(code_of(file))]
    # The rules of the embedded bases name architectures, which are called alike.
    assert [str(file) for file in found if file.name != "train_base.smk"] == []


def code_of(file: Path) -> str:
    """A file's text without docstrings and comments."""
    text = file.read_text(encoding="utf-8")
    return re.sub(r'""".*?"""|#[^\n]*', "", text, flags=re.S)


def test_stages_and_versions_are_the_same():
    assert set(STAGES) == set(VERSIONS) | {"download"}  # a download is known by its checksum
    rules = {
        match
        for file in (ROOT / "rules").glob("*.smk")
        for match in re.findall(r"^rule (\w+):", file.read_text(), re.M)
    }
    assert rules == set(STAGES)


def test_modules_and_functions_are_short():
    long = [
        f"{file}: {len(file.read_text().splitlines())} lines"
        for file in MODULES
        if len(file.read_text().splitlines()) > 250
    ]
    for file in MODULES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= 60:
                long.append(f"{file}: {node.name}")
    assert long == []


def test_rules_are_short_and_plain():
    for file in (ROOT / "rules").glob("*.smk"):
        text = file.read_text()
        assert "lambda" not in text
        assert not re.search(r"^\s*(run|script):", text, re.M)
        if text.startswith("rule "):
            shell = text.split("shell:")[1]
            assert re.match(r'"({params\.offline})?({params\.own_gpus})?python -m ', shell.strip())
        assert len(text.splitlines()) < 150
    assert len((ROOT / "Snakefile").read_text().splitlines()) < 40


def test_the_slurm_profile_has_room_for_every_rule_that_may_want_a_gpu():
    """Otherwise such a job goes to the partition without GPUs, with the memory of a small one."""
    profile = yaml.safe_load((ROOT / "profiles" / "slurm" / "config.yaml").read_text())
    wanting = {file.stem for file in (ROOT / "rules").glob("*.smk") if "        gpu=gpu(" in file.read_text()}
    own = profile["set-resources"]
    assert {"train", "sample", "measure_fidelity", "measure_speed"} <= wanting
    assert wanting - set(own) == {"train_base", "train_classifier"} & wanting  # of the digits alone, which are small
    assert all("'gpu'" in own[rule]["slurm_partition"] for rule in wanting & set(own))


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


def test_command_lines_of_families_are_a_few_lines():
    for package in PACKAGES.values():
        for stage in ("sample_trajectories", "train", "sample", "calculate_metrics"):
            file = ROOT.joinpath(*package.split("."), f"{stage}.py")
            assert len(file.read_text().splitlines()) < 12
