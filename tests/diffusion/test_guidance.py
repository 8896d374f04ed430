"""The formula, its convention, and why raw outputs may be guided."""

import torch

from agd.diffusion.guidance import guide


def test_closed_form_and_convention():
    cond, uncond = torch.randn(3, 4, 2, 2), torch.randn(3, 4, 2, 2)
    assert torch.allclose(guide(cond, uncond, 1.0), cond, atol=1e-6)
    assert torch.equal(guide(cond, uncond, 0.0), uncond)
    assert torch.allclose(guide(cond, uncond, 3.0), 3 * cond - 2 * uncond, atol=1e-5)


def test_a_scale_per_sample():
    cond, uncond, w = torch.randn(3, 4, 2, 2), torch.randn(3, 4, 2, 2), torch.tensor([1.0, 2.0, 5.5])
    rows = torch.cat([guide(cond[i : i + 1], uncond[i : i + 1], w[i].item()) for i in range(3)])
    assert torch.allclose(guide(cond, uncond, w), rows, atol=1e-6)


def test_only_the_first_channels_are_guided():
    cond, uncond = torch.randn(3, 4, 2, 2), torch.randn(3, 4, 2, 2)
    some = guide(cond, uncond, 4.0, guided_channels=3)
    assert torch.equal(some[:, :3], guide(cond, uncond, 4.0)[:, :3])
    assert torch.equal(some[:, 3:], cond[:, 3:])


def test_commutes_with_the_conversion_to_the_clean_image():
    x, cond, uncond, alpha = torch.randn(2, 4, 2, 2), torch.randn(2, 4, 2, 2), torch.randn(2, 4, 2, 2), 0.3

    def clean(eps):
        return (x - (1 - alpha) ** 0.5 * eps) / alpha**0.5

    guided_after = guide(clean(cond), clean(uncond), 4.0)
    assert torch.allclose(clean(guide(cond, uncond, 4.0)), guided_after, atol=1e-4)
