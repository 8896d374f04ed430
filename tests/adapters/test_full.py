"""The kind `full`: all weights of a denoiser fine-tuned, w embedded. Beside adapters in the same files and stages."""

import copy

import pytest
import torch
from conftest import random_dit, random_unet
from test_adapters import call

import agd
from agd.adapters import attaching, saving
from agd.adapters.config import FULL, AdapterConfig
from agd.adapters.diffusers_integration import enable_gradient_checkpointing
from agd.dit.family import ANATOMY
from agd.runtime.errors import UserError

CONFIG = AdapterConfig(
    kind=FULL, embedding=True, use_timestep=False, use_condition=False, hidden_size=8, guidance_scale_max=3.0
)


@pytest.fixture
def tuned():
    """A DiT and its copy, moved away from the base."""
    model = random_dit()
    adapters = attaching.attach(model, CONFIG, ANATOMY).eval()
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in adapters.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def reference(model):
    """The same fine-tune, by hand: a plain DiT with the copy's weights; w's vector added to each block's embedding."""
    plain = random_dit()
    values = model.agd.tuned.values
    plain.load_state_dict({name: values[name.replace(".", "_")] for name, _ in plain.named_parameters()}, strict=False)
    sum_BH = model.agd.encoder(torch.full((3,), 2.0), {}).sum_BH
    for own, block in zip(model.agd.embeddings.values(), plain.transformer_blocks, strict=True):
        added = own.adapter(None, torch.nn.functional.silu(sum_BH))
        block.norm1.emb.register_forward_hook(lambda module, args, output, added=added: output + added)
    return plain


def test_untrained_it_is_the_base_bit_for_bit():
    model = random_dit()
    before = call(model)
    attaching.attach(model, CONFIG, ANATOMY)
    assert torch.equal(call(model, w=2.0), before)


def test_guided_passes_use_the_copy_and_others_the_base(tuned):
    assert torch.allclose(call(tuned, w=2.0), call(reference(tuned)), atol=1e-5)
    assert torch.equal(call(tuned, w=1.0), call(random_dit()))
    assert not torch.allclose(call(tuned, w=2.0), call(tuned, w=3.0), atol=1e-3)  # w is embedded


def test_the_denoiser_shows_its_own_weights_between_passes(tuned):
    own = random_dit().state_dict()
    call(tuned, w=2.0)
    assert all(torch.equal(tuned.state_dict()[name], own[name]) for name in own)
    attaching.detach(tuned)
    assert torch.equal(call(tuned), call(random_dit()))
    assert list(tuned.state_dict()) == list(own)


def test_a_pass_that_fails_leaves_the_base(tuned):
    with pytest.raises(Exception, match=r".*"), tuned.agd.scale(2.0):
        tuned(torch.zeros(3, 5, 4, 4), timestep=torch.tensor([0, 1, 2]), class_labels=torch.tensor([0, 1, 2]))
    tuned.agd.disable()
    assert torch.equal(call(tuned), call(random_dit()))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_reach_the_copy_alone_and_are_right(tuned, checkpointing):
    plain = reference(tuned)
    for parameter in plain.parameters():
        parameter.requires_grad_(True)
    call(plain).square().mean().backward()
    if checkpointing:
        enable_gradient_checkpointing(tuned)
    tuned.agd.train()
    call(tuned, w=2.0).square().mean().backward()
    for name, parameter in plain.named_parameters():
        ours = tuned.agd.tuned.values[name.replace(".", "_")].grad
        if parameter.grad is not None:
            assert torch.allclose(ours, parameter.grad, rtol=1e-3, atol=1e-5), name
    tuned.agd.eval()
    assert all(p.grad is None for name, p in tuned.named_parameters() if not name.startswith("agd."))


def test_its_size_is_that_of_the_base(tuned):
    tuned.agd.train()
    call(tuned, w=2.0)
    size = attaching.size(tuned.agd.eval().host)
    base = sum(p.numel() for p in random_dit().parameters())
    assert size["parameters"] > base
    assert size["fraction_of_base"] == size["parameters"] / base


def test_saved_and_loaded_is_the_same(tuned, tmp_path):
    saving.save(tuned.agd, tmp_path, {})
    other = random_dit()
    saving.load(other, tmp_path, ANATOMY)
    assert torch.equal(call(other, w=2.0), call(tuned, w=2.0))
    with pytest.raises(UserError, match="made for a base of another shape"):
        saving.load(random_dit(layers=3), tmp_path, ANATOMY)


def test_a_copy_of_the_denoiser_has_a_copy_of_its_own(tuned):
    twin = copy.deepcopy(tuned)
    with torch.no_grad():
        for parameter in twin.agd.parameters():
            parameter.zero_()
    assert torch.allclose(call(tuned, w=2.0), call(reference(tuned)), atol=1e-5)
    assert not torch.allclose(call(twin, w=2.0), call(tuned, w=2.0))


def test_in_bfloat16_the_copy_stays_float32():
    model = random_dit().to(torch.bfloat16)
    adapters = attaching.attach(model, CONFIG, ANATOMY).train()
    x = torch.randn(3, 2, 4, 4, dtype=torch.bfloat16)
    with adapters.scale(2.0):
        model(x, timestep=torch.tensor([0, 1, 2]), class_labels=torch.tensor([0, 1, 2])).sample.float().sum().backward()
    assert {p.dtype for p in adapters.parameters()} == {torch.float32}
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in adapters.tuned.values.parameters())


def test_it_is_no_adapter_for_a_pipeline(tuned, tmp_path):
    saving.save(tuned.agd, tmp_path, {})
    with pytest.raises(UserError, match=r"holds a whole denoiser \(kind full\)"):
        agd.load(random_dit(), tmp_path)


@pytest.mark.parametrize("changes", [{"gain": True}, {"embedding": False}])
def test_it_learns_w_by_its_embedding_alone(changes):
    with pytest.raises(UserError, match=r"kind: full learns w by its embedding alone; set embedding: true"):
        AdapterConfig(**{**vars(CONFIG), **changes})


def test_a_unet_takes_it_too():
    from agd.sd.family import ANATOMY as OF_UNET

    model = random_unet()
    attaching.attach(model, CONFIG, OF_UNET).eval()
    x, t, prompt = torch.randn(2, 4, 8, 8), torch.tensor([5, 900]), torch.randn(2, 7, 8)
    with model.agd.scale(1.0):
        before = model(x, t, prompt).sample
    with model.agd.scale(2.0):
        assert torch.allclose(model(x, t, prompt).sample, before, atol=1e-5)
        with torch.no_grad():
            model.agd.tuned.values["conv_in_weight"].add_(0.1)
        assert not torch.allclose(model(x, t, prompt).sample, before)
