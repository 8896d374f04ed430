"""Devices: which one a stage gets, and whether it repeats itself."""

import os

import pytest
import torch

from agd.runtime import devices
from agd.runtime.errors import UserError


@pytest.fixture
def torch_as_it_was(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    yield
    torch.use_deterministic_algorithms(before[0])
    torch.backends.cudnn.benchmark = before[1]
    os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)


@pytest.mark.parametrize("asked", [False, True])
@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_a_gpu_repeats_itself_only_if_asked_to(kind, asked, monkeypatch, torch_as_it_was):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: kind == "cuda")
    assert devices.device("auto", asked).type == kind
    made = asked and kind == "cuda"
    assert torch.are_deterministic_algorithms_enabled() == made
    assert os.environ.get("CUBLAS_WORKSPACE_CONFIG") == (":4096:8" if made else None)


def test_the_users_own_setting_of_cublas_stays(monkeypatch, torch_as_it_was):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    devices.device("cuda", deterministic=True)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


def test_a_gpu_that_is_not_there_is_one_line(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="device: 'cuda:7' is not on this machine; use auto or cpu"):
        devices.device("cuda:7")
