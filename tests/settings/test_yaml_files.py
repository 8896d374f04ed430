"""YAML that means something else than its writer sees is refused, with file and line."""

import subprocess
import sys
from pathlib import Path

import pytest

from agd.runtime.errors import UserError
from agd.settings import yaml_files

ROOT = Path(__file__).resolve().parents[2]
REFUSED = {
    "a key twice": ("train: {steps: 5}\ntrain: {steps: 800}", "line 2: train is there twice; keep one"),
    "a key twice, deep": ("models:\n  dit:\n    steps: 1\n    steps: 2", "line 4: steps is there twice"),
    "an octal seed": ("seeds: [010]", "line 1: 010 is an ambiguous number; write it in plain digits, or quote it"),
    "a negative octal": ("x: -017", "line 1: -017 is an ambiguous number"),
    "a time of day": ("x: 1:30", "line 1: 1:30 is an ambiguous number"),
    "thousands of digits": ("x: " + "7" * 5000, "is an ambiguous number"),
    "a list that contains itself": ("x: &a [1, *a]", "contains itself; write it out"),
    "a mapping that contains itself": ("x: &a {y: *a}", "contains itself; write it out"),
    "no YAML": ("x: [1", "not YAML (while parsing a flow sequence"),
    "an object of Python": (
        "x: !!python/object/apply:os.system ['true']",
        "not YAML (could not determine a constructor",
    ),
    "a date that is none": ("x: 2024-99-99", "holds a value that can't be read"),
    "a list": ("- a\n- b", "holds no keys with values"),
    "thousands of brackets": ("x: " + "[" * 20000, "holds a value that can't be read"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_ambiguous_is_refused(name, tmp_path):
    text, line = REFUSED[name]
    file = tmp_path / "study.yaml"
    file.write_text(text)
    with pytest.raises(UserError) as error:
        yaml_files.read(file)
    assert str(error.value).startswith(f"{file}")
    assert line in str(error.value)
    assert "\n" not in str(error.value)


def test_other_files_are_refused(tmp_path):
    (tmp_path / "latin").write_bytes("x: Kühe".encode("latin-1"))
    for file, line in (("none", "no such file"), ("latin", "not UTF-8")):
        with pytest.raises(UserError, match=line):
            yaml_files.read(tmp_path / file)


def test_what_is_clear_is_read(tmp_path):
    file = tmp_path / "study.yaml"
    file.write_bytes(b"\xef\xbb\xbfa: &a {b: 0, c: 0.5}\nd: {<<: *a, b: 10}\ne: ['010', 0x10, 1e-3]\n")
    assert yaml_files.read(file)["d"] == {"b": 10, "c": 0.5}
    file.write_text("# nothing\n")
    assert yaml_files.read(file) == {}


def test_snakemake_refuses_a_key_twice(tmp_path):
    (tmp_path / "study.yaml").write_text("seeds: [1]\nseeds: [2]\n")
    words = ["-m", "snakemake", "--cores", "1", "--snakefile", ROOT / "Snakefile", "--directory", tmp_path / "study"]
    done = subprocess.run(
        [sys.executable, *words, "--configfile", tmp_path / "study.yaml"], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith("study.yaml, line 2: seeds is there twice; keep one")
