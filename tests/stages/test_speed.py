"""The speed of an adapter beside guidance: the same work in turn, in one process."""

import json
import shutil

import pytest
import torch
from conftest import command, training_words

from agd.artifacts.metrics import timed
from agd.artifacts.sealed_json import read_sealed
from agd.dit.family import DiT
from agd.measure_speed import Race, compare


@pytest.fixture(scope="module")
def adapter(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    few = ("--num-trajectories", 10, "--num-inference-steps", 4, "--output-dir", folder / "T")
    command("sample_trajectories", "--base-model", base, *few)
    command("train", *training_words(folder / "T", folder / "R", "--rank", 2))
    return folder / "R"


def test_a_round_is_compared_with_itself_alone():
    """A machine that is slow for one round slows all its methods."""
    assert compare([2, 20, 4], [2, 20, 4], number=4)["speedup_over_cfg"] == {"median": 1, "lowest": 1, "highest": 1}
    found = compare([2, 20, 4], [1, 10, 2.5], number=4)
    assert found["speedup_over_cfg"] == {"median": 2, "lowest": 1.6, "highest": 2}
    assert found["seconds_per_image"] == 2.5 / 4


@pytest.fixture
def passes(monkeypatch) -> dict:
    """(guidance, adapter's folder, steps) -> samples in each pass, filled as stages run: each way must leave the base as it was."""
    found = {}
    seconds, call = Race.seconds, DiT.call

    def noted(race, way, number):
        now = (way.guidance, way.adapter, way.settings.num_inference_steps)
        race.model.passes = found.setdefault((*now, way.settings.guided_share), [])
        before = {name: value.clone() for name, value in race.model.denoiser.state_dict().items()}
        took = seconds(race, way, number)
        after = race.model.denoiser.state_dict()
        assert after.keys() == before.keys()
        assert all(torch.equal(after[name], value) for name, value in before.items())
        return took

    def counted(model, x_BCHW, t, conditions):
        model.passes.append((len(x_BCHW), hasattr(model.denoiser, "agd")))
        return call(model, x_BCHW, t, conditions)

    monkeypatch.setattr(Race, "seconds", noted)
    monkeypatch.setattr(DiT, "call", counted)
    return found


SMALL = ("--rounds", 2, "--batch-size", 3, "--num-inference-steps", 5)
ROUNDS = 3  # one of them isn't timed
PASSES = {
    ("none", None, 5, 1): [(3, False)] * 5 * ROUNDS,
    ("cfg", None, 5, 1): [(6, False)] * 5 * (ROUNDS + 1),  # and once to find the batch that fits
    ("cfg", None, 3, 1): [(6, False)] * 3 * ROUNDS,
}


def test_each_method_does_its_own_work_and_leaves_the_base(adapter, passes):
    command("measure_speed", "--dir", adapter, *SMALL)
    assert passes == PASSES | {("adapter", str(adapter), 5, 1): [(3, True)] * 5 * ROUNDS}
    found = json.loads((adapter / "speed.json").read_text())
    assert (found["images"], found["rounds"], found["merged"]) == (3, 2, True)
    assert list(found["methods"]) == ["adapter", "cfg", "cfg-half", "none"]
    assert found["provenance"]["settings"]["num_inference_steps"] == 5
    assert "others" not in found


def test_further_methods_are_timed_too(adapter, passes, tmp_path):
    other = shutil.copytree(adapter, tmp_path / "other")
    further = json.dumps({"adapter": str(other), "early": {"guided_share": 0.6}})
    command("measure_speed", "--dir", adapter, *SMALL, "--methods", further, "--output", tmp_path / "speed.json")
    assert passes == PASSES | {
        ("adapter", str(adapter), 5, 1): [(3, True)] * 5 * ROUNDS,
        ("adapter", str(other), 5, 1): [(3, True)] * 5 * ROUNDS,
        ("cfg", None, 5, 0.6): ([(6, False)] * 3 + [(3, False)] * 2) * ROUNDS,
    }
    found = read_sealed(tmp_path / "speed.json")
    assert list(found["others"]) == ["adapter", "early"]
    assert found["others"]["early"]["speedup_over_cfg"]["median"] > 0
    made = found["provenance"]["others"]
    assert made["adapter"] == {"adapter": found["provenance"]["adapter"]}
    assert made["early"]["settings"] == {"guided_channels": 0, "guided_share": 0.6, "guided_sigmas": "all"}
    assert timed(found, "adapter", adapter="agd") == found["others"]["adapter"]
    assert timed(found, "agd", adapter="agd") == found["methods"]["adapter"]
    assert timed(found, "cfg", adapter="agd") == found["methods"]["cfg"]
    assert timed(found, "wide", adapter="agd") is None


@pytest.mark.parametrize(
    ("further", "line"),
    [
        ("early", "--methods: 'early' is no JSON of methods; give {name: folder"),
        ("[]", "--methods: '[]' is no JSON of methods"),
        ('{"early": 3}', "is no JSON of methods"),
        ('{"cfg": {}}', "--methods: 'cfg' is timed anyway; leave it out"),
        (
            '{"early": {"guided_shar": 1}}',
            "--methods: early: guided_shar: unknown key; allowed are guided_channels, guided_",
        ),
        ('{"early": {"guided_share": 2}}', "--methods: early: guided_share: 2 is not allowed"),
        ('{"early": {"guided_share": NaN}}', "--methods: early: guided_share: nan is not allowed"),
        (
            '{"early": {"guided_channels": 1.0}}',
            "--methods: early: guided_channels: 1.0 is not allowed; must be integer",
        ),
        ('{"early": {"guided_channels": 99}}', "--methods: early: guided_channels: 99 is more than the 2 channels"),
        ('{"early": {"guided_sigmas": "5"}}', "--methods: early: guided_sigmas: '5'"),
        ('{"early": {}, "early": {}}', "--methods: 'early' is there twice; keep one"),
        ('{"": {}}', "--methods: '' is not allowed; must be string, matching"),
        ('{"wide": "nowhere"}', "--methods: wide: nowhere/config.json: no such file"),
        ('{"wide": "EMPTY"}', "--methods: wide: EMPTY/adapter.safetensors: missing, while config.json tells of it"),
    ],
)
def test_further_methods_that_can_not_be_are_named(adapter, further, line, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(DiT, "__init__", lambda *_, **__: pytest.fail("a model is opened"))
    (tmp_path / "EMPTY").mkdir()
    shutil.copy(adapter / "config.json", tmp_path / "EMPTY")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        command("measure_speed", "--dir", adapter, "--methods", further)
    (said,) = [text for text in capsys.readouterr().err.splitlines() if "error: " in text]
    assert line in said


def test_it_needs_an_adapter(capsys):
    with pytest.raises(SystemExit):
        command("measure_speed", "--rounds", 1)
    assert "--dir: missing; give the folder of a trained adapter" in capsys.readouterr().err
