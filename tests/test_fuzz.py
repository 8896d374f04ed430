"""Whatever stands in a configuration, on a command line or in a file: read right, or refused in one line. Never a traceback, a
hang, or a write elsewhere.

A minute of it runs with the other tests. `AGD_FUZZ=50 python -m pytest tests/test_fuzz.py` goes on for an hour and more. A hang is
told by the deadline: no example may take ten seconds, so leave the machine idle.
"""

import contextlib
import copy
import io
import json
import os
import shutil
import string
import warnings
from pathlib import Path

import numpy as np
import pytest
from conftest import command
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from PIL import Image

from agd import verify
from agd.adapters import saving
from agd.artifacts import checkpoints, labelled_images, prompts, table_text, trajectories
from agd.artifacts.images import iterate_images, list_images, read_images
from agd.artifacts.sealed_json import read_json, read_sealed, write_sealed
from agd.diffusion import base_models, schedulers
from agd.dit.family import DiT
from agd.measures import references
from agd.runtime.errors import UserError
from agd.settings import command_line, configuration, schema, tables, validation, yaml_files
from agd.settings.stages import STAGES

TIMES = int(os.environ.get("AGD_FUZZ", "1"))
SHIPPED = configuration.shipped()
pytestmark = pytest.mark.timeout(600 if TIMES == 1 else 0)


def often(number: int):
    """As many examples, in an order that is the same each time, each in less than ten seconds."""
    unchecked = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(
        max_examples=number * TIMES,
        deadline=10_000,
        derandomize=TIMES == 1,
        database=None,
        suppress_health_check=unchecked,
    )


def refused_or_right(work, *arguments) -> None:
    """Any error is a UserError of one line that can be printed."""
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            work(*arguments)
    except UserError as error:
        said = str(error)
        assert said
        assert "\n" not in said
        said.encode()


TEXTS = some.one_of(
    some.text(max_size=12),
    some.sampled_from(
        [
            "",
            "0",
            "-1",
            "1e400",
            "nan",
            "null",
            "0-9",
            "9-0",
            "1,2",
            "{a}",
            "a/b",
            "../..",
            "~",
            "auto",
            "all",
            "\0",
            "\ud800",
        ]
    ),
    some.text(string.digits + "-,.e+", max_size=9),
)
NUMBERS = some.one_of(
    some.integers(), some.integers(-3, 70), some.floats(), some.sampled_from([2**53, 2**63, 2**64, 10**30, 1e308])
)
VALUES = some.recursive(
    some.one_of(some.none(), some.booleans(), NUMBERS, TEXTS),
    lambda inner: some.one_of(
        some.lists(inner, max_size=3), some.dictionaries(some.one_of(TEXTS, some.integers(0, 9)), inner, max_size=3)
    ),
    max_leaves=6,
)


def places(tree, where=()):
    """The keys of every value in a configuration."""
    yield where
    if isinstance(tree, dict | list):
        for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from places(value, (*where, key))


PLACES = sorted((place for place in places(SHIPPED) if place), key=str)


def replaced(config: dict, place: tuple, value, how: str) -> dict:
    changed = copy.deepcopy(config)
    inner = changed
    for key in place[:-1]:
        inner = inner[key]
    if how == "delete" and isinstance(inner, dict):
        del inner[place[-1]]
    elif how == "add" and isinstance(inner, dict):
        inner[value if isinstance(value, str | int) else "x"] = copy.deepcopy(inner[place[-1]])
    else:
        inner[place[-1]] = value
    return changed


def check_all(config: dict) -> None:
    config = validation.typed(config)
    configuration.check(config)
    tables.check(config)


@often(500)
@given(some.sampled_from(PLACES), VALUES, some.sampled_from(["replace", "delete", "add"]))
def test_any_configuration(place, value, how):
    refused_or_right(check_all, replaced(SHIPPED, place, value, how))


@often(800)
@given(some.one_of(some.text(max_size=80), some.text("ab:-[]{}&*!<>'\"#|?,% \n\t01", max_size=60)))
def test_any_yaml(tmp_path_factory, text):
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    refused_or_right(yaml_files.read, file)


WORDS = sorted(
    {argument.flag for stage in STAGES.values() for argument in stage.arguments}
    | {command_line.flag(name) for stage in STAGES for name in schema.properties(stage)}
)


@often(100)
@given(
    some.sampled_from(sorted(STAGES)),
    some.sampled_from(["dit", "sd"]),
    some.lists(some.one_of(some.sampled_from(WORDS), TEXTS, NUMBERS.map(str)), max_size=8),
)
def test_any_command_line(stage, family, words):
    family = family if STAGES[stage].by_family else None
    model = {"dit": "digits-dit", "sd": "digits-sd", None: None}[family]
    words = [word.replace("\0", "") for word in words if not word.startswith(("-h", "--help"))]
    refused_or_right(command_line.parse, stage, "agd", family, model, words)


@pytest.fixture(scope="module")
def good(tmp_path_factory, base) -> Path:
    """A file of each kind that is read."""
    folder = tmp_path_factory.mktemp("good")
    few = ("--num-inference-steps", 2, "--base-model", base)
    command("sample_trajectories", "--num-trajectories", 10, *few, "--output-dir", folder / "T")
    command("train", "--dir", folder / "R", "--data-path", folder / "T", "--steps", 2, "--checkpoint-interval", 1)
    command("sample", "--guidance", "none", "--num-samples", 4, *few, "--output-dir", folder / "S")
    np.savez(folder / "r.npz", mu=np.zeros(3), sigma=np.eye(3), features=np.zeros((5, 3)))
    (folder / "images" / "0").mkdir(parents=True)
    Image.new("L", (8, 8), 3).save(folder / "images" / "0" / "a-0.png")
    (folder / "lines.txt").write_text("a cat\na dog\n")
    write_sealed(folder / "record.json", {"definition": {}, "rows": [], "study": "s", "table": "t"})
    shutil.copytree(base, folder / "base")
    return folder


def base_of(file: Path) -> None:
    """What a command line looks at before it opens a model."""
    folder = next(place for place in file.parents if place.name == "base")
    base_models.index(folder, ["DiTPipeline"], {})
    base_models.check_weights(folder / "transformer")
    DiT.classes(str(folder))
    schedulers.check(folder, "default", 2, "base")


READERS = {
    "T/000000.zarr.zip": [trajectories.read],
    "R/config.json": [lambda file: saving.read_description(file.parent)],
    "R/adapter.safetensors": [lambda file: saving.read_weights(file.parent, saving.read_description(file.parent))],
    "R/checkpoint.safetensors": [checkpoints.read],
    "S/000000.zip": [read_images, lambda file: list(iterate_images(file, list_images(file)))],
    "S/000000.json": [read_sealed],
    "r.npz": [references.read_reference],
    "images/0/a-0.png": [lambda file: labelled_images.LabelledImages(file.parents[1], [0], 1).drawn([])],
    "lines.txt": [lambda file: prompts.read_file(str(file))],
    "record.json": [table_text.read_table, lambda file: read_json(file, "rows")],
    "base/model_index.json": [base_of],
    "base/transformer/config.json": [base_of],
    "base/scheduler/scheduler_config.json": [base_of],
}


@often(100)
@given(data=some.data())
@pytest.mark.parametrize("name", READERS)
def test_any_file(name, good, data):
    file = good / name
    whole = file.read_bytes()
    how = data.draw(some.sampled_from(["bytes", "cut", "flip", "insert", "json", "deep"]))
    at = data.draw(some.integers(0, len(whole)))
    if how == "bytes":
        changed = data.draw(some.binary(max_size=200))
    elif how == "deep":
        changed = data.draw(some.sampled_from([b"[", b'{"a":'])) * 100_000
    elif how == "cut":
        changed = whole[:at]
    elif how == "flip":
        changed = (
            whole[:at] + bytes([whole[at] ^ data.draw(some.integers(1, 255))]) + whole[at + 1 :]
            if at < len(whole)
            else b""
        )
    elif how == "json" and name.endswith(".json"):
        record = json.loads(whole)
        place = data.draw(some.sampled_from(sorted((one for one in places(record) if one), key=str)))
        value = data.draw(VALUES)
        changed = json.dumps(
            replaced(record, place, value, data.draw(some.sampled_from(["replace", "delete"])))
        ).encode()
    else:
        changed = whole[:at] + data.draw(some.binary(min_size=1, max_size=9)) + whole[at:]
    before = {path: path.stat().st_mtime_ns for path in good.rglob("*") if path != file}
    try:
        file.write_bytes(changed)
        for reader in READERS[name]:
            refused_or_right(reader, file)
        verify.bad(file.parent)
    finally:
        file.write_bytes(whole)
    assert {path: path.stat().st_mtime_ns for path in good.rglob("*") if path != file} == before
