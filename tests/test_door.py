"""The public door: `import agd` in anybody's script."""

import subprocess
import sys

import pytest
import torch
from conftest import random_dit
from diffusers import DiTPipeline

import agd
from agd.errors import UserError


def test_importing_costs_nothing():
    code = "import agd, sys; assert 'torch' not in sys.modules; print(agd.__version__)"
    assert (
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
        == "0.1.0"
    )


def test_readme_example_on_a_stock_pipeline(base, tmp_path):
    model = random_dit()
    adapters = agd.attach(model, agd.AdapterConfig(hidden_size=8, zero_init=False))
    agd.save(adapters, tmp_path)
    pipe = DiTPipeline.from_pretrained(base)
    pipe.set_progress_bar_config(disable=True)

    def images():
        return pipe(
            [3, 1], guidance_scale=1.0, num_inference_steps=4, generator=torch.manual_seed(0), output_type="pt"
        ).images

    before = images()
    adapters = agd.load(pipe.transformer, tmp_path)
    with adapters.scale(2.0):
        assert not torch.allclose(images(), before)
    agd.detach(pipe.transformer)
    assert torch.equal(images(), before)


def test_other_denoisers_are_named():
    with pytest.raises(UserError, match="Linear: no adapters for this kind of denoiser"):
        agd.attach(torch.nn.Linear(1, 1), agd.AdapterConfig())
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        agd.lod  # noqa: B018
