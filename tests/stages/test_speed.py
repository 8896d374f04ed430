"""The speed of an adapter beside guidance: the same work in turn, in one process."""

import json

import pytest
import torch
from conftest import command, training_words

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
    found = compare({"cfg": [2, 20, 4], "adapter": [1, 10, 2.5]}, number=4)
    assert found["cfg"]["speedup_over_cfg"] == {"median": 1, "lowest": 1, "highest": 1}
    assert found["adapter"]["speedup_over_cfg"] == {"median": 2, "lowest": 1.6, "highest": 2}
    assert found["adapter"]["seconds_per_image"] == 2.5 / 4


def test_each_method_does_its_own_work_and_leaves_the_base(adapter, base, monkeypatch):
    """Samples in a pass, by method; whether adapters are attached; and the base's weights after it all."""
    passes, attached = {}, {}
    seconds, call = Race.seconds, DiT.call

    def noted(race, guidance, steps, number):
        passes.setdefault((guidance, steps), [])
        race.model.now = (guidance, steps)
        race.model.before = {name: value.clone() for name, value in race.model.denoiser.state_dict().items()}
        took = seconds(race, guidance, steps, number)
        after = race.model.denoiser.state_dict()
        assert after.keys() == race.model.before.keys()
        assert all(torch.equal(after[name], value) for name, value in race.model.before.items())
        return took

    def counted(model, x_BCHW, t, conditions):
        passes[model.now].append(len(x_BCHW))
        attached[model.now] = hasattr(model.denoiser, "agd")
        return call(model, x_BCHW, t, conditions)

    monkeypatch.setattr(Race, "seconds", noted)
    monkeypatch.setattr(DiT, "call", counted)
    command("measure_speed", "--dir", adapter, "--rounds", 2, "--batch-size", 3, "--num-inference-steps", 5)
    rounds = 3  # one of them isn't timed
    assert passes == {
        ("none", 5): [3] * 5 * rounds,
        ("cfg", 5): [6] * 5 * (rounds + 1),  # and once to find the batch that fits
        ("cfg", 3): [6] * 3 * rounds,
        ("adapter", 5): [3] * 5 * rounds,
    }
    assert attached == {key: key[0] == "adapter" for key in passes}
    found = json.loads((adapter / "speed.json").read_text())
    assert (found["images"], found["rounds"], found["merged"]) == (3, 2, True)
    assert list(found["methods"]) == ["adapter", "cfg", "cfg-half", "none"]
    assert found["provenance"]["settings"]["num_inference_steps"] == 5


def test_it_needs_an_adapter(capsys):
    with pytest.raises(SystemExit):
        command("measure_speed", "--rounds", 1)
    assert "--dir: missing; give the folder of a trained adapter" in capsys.readouterr().err
