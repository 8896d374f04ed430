"""A wheel works by itself: settings travel in it, commands run in an empty folder, its dependencies are declared."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from studies import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
# Names of modules that differ from those of their distributions.
DISTRIBUTIONS = {"PIL": "pillow", "yaml": "pyyaml", "sklearn": "scikit-learn", "cleanfid": "clean-fid"}


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder that the wheel is installed in, without its dependencies."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("agd", "config"):
        shutil.copytree(ROOT / name, folder / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "source" / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, folder / "source"]
    subprocess.run(list(map(str, build)), check=True)
    (wheel,) = folder.glob("agd-*.whl")
    subprocess.run(list(map(str, [*pip, "install", "--no-deps", "--target", folder / "site", wheel])), check=True)
    return folder / "site"


@pytest.fixture
def run(installed, tmp_path, monkeypatch):
    """Run a module of the wheel in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def module(name: str, *words: str) -> subprocess.CompletedProcess:
        environment = os.environ | {"PYTHONPATH": str(installed), "HF_HUB_OFFLINE": "1"}
        return subprocess.run([sys.executable, "-m", name, *words], capture_output=True, text=True, env=environment)

    return module


def test_the_api_is_the_wheels(installed, tmp_path):
    code = "import agd; print(agd.__file__); print(agd.load, agd.AdapterConfig(hidden_size=8))"
    environment = os.environ | {"PYTHONPATH": str(installed)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.stdout.startswith(str(installed)), done.stderr


@pytest.mark.parametrize("name", ["agd.dit.train", "agd.sd.sample", "agd.prepare_prompts", "agd.digits.train_base"])
def test_a_stage_says_its_settings(run, name):
    done = run(name, "--help")
    assert done.returncode == 0, done.stderr
    assert f"usage: python -m {name}" in done.stdout


def test_a_stage_runs(run):
    files = ("--output", "results/digits/images.zip", "--annotations", "results/digits/annotations.zip")
    done = run("agd.digits.prepare_digits", *files)
    assert done.returncode == 0, done.stderr
    assert run("agd.verify", "results").stdout.endswith("artifacts, all whole and consistent\n")


def test_a_mistake_is_one_line(run):
    done = run("agd.dit.train", "--dir", "R", "--data-path", "nowhere")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert done.stderr.startswith("agd.dit.train: error: nowhere: no such file or folder")


def test_what_needs_the_workflow_says_so(run):
    done = run("agd.explain", "results/x/fid.json")
    assert done.returncode == 2
    assert "the workflow isn't here" in done.stderr


def test_packages_are_the_folders():
    folders = {".".join(file.parent.relative_to(ROOT).parts) for file in (ROOT / "agd").rglob("__init__.py")}
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == folders | {
        "agd.config",
        "agd.config.models",
        "agd.config.tables",
    }


def test_what_is_imported_is_declared():
    extras = PROJECT["project"]["optional-dependencies"]
    declared = {
        re.split("[>=\\[]", name)[0]
        for names in (PROJECT["project"]["dependencies"], *extras.values())
        for name in names
    }
    imported = set()
    for file in (ROOT / "agd").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(node.module.split(".")[0])
    others = imported - set(sys.stdlib_module_names) - {"agd"}
    assert {DISTRIBUTIONS.get(name, name.replace("_", "-")) for name in others} <= declared
