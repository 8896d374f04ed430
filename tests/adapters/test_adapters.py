"""Adapters on a frozen denoiser: a table of kinds x checks."""

import copy

import pytest
import torch
from conftest import random_dit

from agd.adapters import attaching, saving
from agd.adapters.config import ENCODERS, FULL, KINDS, LOW_RANK, PUBLISHED, AdapterConfig
from agd.adapters.layers import LAYERS, ScalarEncoder, position_code
from agd.artifacts.sealed_json import read_sealed, write_sealed
from agd.dit.family import ANATOMY
from agd.runtime.errors import UserError
from agd.settings import schema

TABLE = {
    **{f"{kind}-{encoder}": dict(kind=kind, encoder=encoder) for kind in PUBLISHED for encoder in ENCODERS},
    **{kind: dict(kind=kind) for kind in KINDS if kind not in PUBLISHED},
    **{f"{kind}-embedding-gain": dict(kind=kind, embedding=True, gain=True) for kind in KINDS},
}


def test_kinds_are_the_same_everywhere():
    spec = schema.properties("train")
    assert [*LAYERS, *LOW_RANK, "embedding"] == list(KINDS) == spec["kind"]["enum"][:-1]
    assert spec["kind"]["enum"][-1] == FULL
    assert list(ENCODERS) == spec["encoder"]["enum"]


def call(model, w=None):
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(3, 2, 4, 4, generator=generator)
    arguments = dict(timestep=torch.tensor([0, 500, 999]), class_labels=torch.tensor([0, 5, 9]), return_dict=False)
    if w is None:
        return model(x, **arguments)[0]
    with model.agd.scale(w):
        return model(x, **arguments)[0]


@pytest.fixture(params=TABLE.values(), ids=TABLE.keys())
def config(request) -> AdapterConfig:
    return AdapterConfig(**request.param, hidden_size=8, rank=2, guidance_scale_max=3.0)


@pytest.fixture
def moved(config):
    """A model whose adapters have left zero."""
    model = random_dit()
    adapters = attaching.attach(model, config, ANATOMY)
    for layer in (*adapters.layers.values(), *adapters.embeddings.values()):
        torch.nn.init.normal_(layer.adapter.out.weight, std=0.5)
    return model


def test_zero_output_weights_are_the_base_bit_for_bit(config):
    model = random_dit()
    before = call(model)
    attaching.attach(model, config, ANATOMY)
    assert torch.equal(call(model, w=2.0), before)


def test_without_zero_init_the_output_moves_at_once(config):
    model = random_dit()
    before = call(model)
    attaching.attach(model, AdapterConfig(**{**vars(config), "zero_init": False}), ANATOMY)
    assert not torch.allclose(call(model, w=2.0), before)


def test_detached_is_the_base_bit_for_bit(moved):
    base = random_dit()
    assert not torch.allclose(call(moved, w=2.0), call(base))
    attaching.detach(moved)
    assert torch.equal(call(moved), call(base))
    assert list(moved.state_dict()) == list(base.state_dict())


def test_the_base_keeps_its_names_and_values(moved):
    names = [name for name in moved.state_dict() if not name.startswith("agd.")]
    base = random_dit().state_dict()
    assert names == list(base)
    assert all(torch.equal(moved.state_dict()[name], base[name]) for name in names)


def test_only_adapters_have_gradients(moved):
    call(moved, w=2.0).square().sum().backward()
    with_gradient = {name for name, p in moved.named_parameters() if p.grad is not None}
    assert with_gradient == {name for name, p in moved.named_parameters() if name.startswith("agd.")}


def test_scale_of_one_or_less_bypasses_each_sample_for_itself(moved):
    base = call(random_dit())
    mixed = call(moved, w=torch.tensor([1.0, 2.0, 0.5]))
    assert torch.equal(mixed[0], base[0])
    assert torch.equal(mixed[2], base[2])
    assert not torch.allclose(mixed[1], base[1])


def test_every_condition_matters(moved):
    x = torch.randn(1, 2, 4, 4)

    def answer(t, label, w):
        """What the adapters add, the base's own answer taken off."""
        arguments = dict(timestep=torch.tensor([t]), class_labels=torch.tensor([label]), return_dict=False)
        with moved.agd.scale(w):
            return moved(x, **arguments)[0]

    config = moved.agd.config
    depends_on_w = config.conditioned or config.gain
    assert torch.allclose(answer(500, 3, 2.0), answer(500, 3, 2.5)) != depends_on_w
    if not config.conditioned:
        return
    # The base itself depends on t and the class: look at the adapters' tokens instead.
    features = {}
    for t, label in ((500, 3), (400, 3), (500, 4)):
        answer(t, label, 2.0)
        features[t, label] = {k: v.clone() for k, v in moved.agd.current.features.items()}
    assert not torch.equal(features[500, 3]["timestep"], features[400, 3]["timestep"])
    assert not torch.equal(features[500, 3]["class"], features[500, 4]["class"])


@pytest.mark.parametrize(("use_timestep", "use_condition"), [(False, True), (True, False), (False, False)])
def test_unused_conditions_are_left_out(config, use_timestep, use_condition):
    model = random_dit()
    chosen = AdapterConfig(**{**vars(config), "use_timestep": use_timestep, "use_condition": use_condition})
    used = attaching.attach(model, chosen, ANATOMY).base_shape["features"]
    if not chosen.conditioned:
        use_timestep = use_condition = False
    assert ("timestep" in used, "class" in used) == (use_timestep, use_condition)
    assert call(model, w=2.0).shape == (3, 2, 4, 4)


def test_saved_and_loaded_is_the_same(moved, tmp_path):
    saving.save(moved.agd, tmp_path, {"provenance": {}})
    fresh = random_dit()
    saving.load(fresh, tmp_path, ANATOMY)
    assert torch.equal(call(fresh, w=2.0), call(moved, w=2.0))


def test_loads_on_a_fine_tune_and_refuses_another_shape(moved, tmp_path):
    saving.save(moved.agd, tmp_path, {"provenance": {}})
    saving.load(random_dit(seed=9), tmp_path, ANATOMY)
    with pytest.raises(UserError, match=r"another shape \((2|12) .* than this one \((3|18) "):
        saving.load(random_dit(layers=3), tmp_path, ANATOMY)
    wider = random_dit(heads=4)
    before = call(wider)
    with pytest.raises(UserError, match="another shape"):
        saving.load(wider, tmp_path, ANATOMY)
    assert torch.equal(call(wider), before)


def test_a_deep_copy_has_adapters_of_its_own(moved):
    twin = copy.deepcopy(moved)
    before = call(moved, w=2.0)
    assert torch.equal(call(twin, w=2.0), before)
    for parameter in twin.agd.parameters():
        torch.nn.init.normal_(parameter)
    assert not torch.allclose(call(twin, w=2.0), before)
    assert torch.equal(call(moved, w=2.0), before)
    attaching.detach(twin)
    assert torch.equal(call(twin), call(random_dit()))


def test_with_gain_guidance_grows_from_nothing_at_one_and_stops_at_the_trained_maximum():
    model = random_dit()
    config = AdapterConfig(kind="lora", gain=True, rank=2, zero_init=False, guidance_scale_max=3.0)
    attaching.attach(model, config, ANATOMY)
    base = call(random_dit())
    added = {w: call(model, w=w) - base for w in (1.0, 1.001, 2.0, 3.0, 5.0)}
    assert not added[1.0].any()
    assert 0 < added[1.001].abs().max() < 0.01 * added[3.0].abs().max()
    assert 0.2 * added[3.0].norm() < added[2.0].norm() < 0.8 * added[3.0].norm()
    assert torch.equal(added[5.0], added[3.0])


def test_each_kind_says_what_it_is_not_made_of():
    with pytest.raises(UserError, match="encoder: per_layer is for the kinds cross_attention and offset"):
        AdapterConfig(kind="bottleneck", encoder="per_layer")
    with pytest.raises(UserError, match="rank: 0"):
        AdapterConfig(kind="lora", rank=0)
    with pytest.raises(UserError, match="gain: guidance_max is 1"):
        AdapterConfig(gain=True, guidance_scale_max=1.0)


def test_an_adapter_saved_before_the_new_fields_is_the_published_kind(tmp_path):
    model = random_dit()
    adapters = attaching.attach(model, AdapterConfig(hidden_size=8, zero_init=False), ANATOMY)
    saving.save(adapters, tmp_path, {})
    record = read_sealed(tmp_path / saving.CONFIG)
    for name in ("embedding", "gain", "rank"):
        del record["adapter"][name]
    del record["base_shape"]["embeddings"]
    write_sealed(tmp_path / saving.CONFIG, record)
    fresh = random_dit()
    saving.load(fresh, tmp_path, ANATOMY)
    assert torch.equal(call(fresh, w=2.0), call(model, w=2.0))


def test_dropout_acts_in_training_only():
    model = random_dit()
    adapters = attaching.attach(model, AdapterConfig(hidden_size=8, dropout=0.5, zero_init=False), ANATOMY)
    adapters.train()
    assert not torch.equal(call(model, w=2.0), call(model, w=2.0))
    adapters.eval()
    assert torch.equal(call(model, w=2.0), call(model, w=2.0))


def test_half_precision_base_keeps_its_format_and_adapters_theirs(config):
    model = random_dit().to(torch.bfloat16)
    adapters = attaching.attach(model, config, ANATOMY)
    assert {p.dtype for p in adapters.parameters()} == {torch.float32}
    x = torch.randn(2, 2, 4, 4, dtype=torch.bfloat16)
    with adapters.scale(2.0):
        out = model(x, timestep=torch.tensor([1, 2]), class_labels=torch.tensor([1, 2]), return_dict=False)[0]
    assert out.dtype == torch.bfloat16


def test_attaching_twice_and_detaching_nothing_say_so():
    model = random_dit()
    with pytest.raises(UserError, match="carries no adapters"):
        attaching.detach(model)
    attaching.attach(model, AdapterConfig(hidden_size=8), ANATOMY)
    with pytest.raises(UserError, match="carries adapters already"):
        attaching.attach(model, AdapterConfig(hidden_size=8), ANATOMY)


def test_a_call_without_a_scale_warns_once_and_is_the_base():
    model = random_dit()
    attaching.attach(model, AdapterConfig(hidden_size=8, zero_init=False), ANATOMY)
    with pytest.warns(UserWarning, match="without a guidance scale"):
        assert torch.equal(call(model), call(random_dit()))
    call(model)  # a second warning would be an error here


def test_unknown_kinds_are_named():
    with pytest.raises(UserError, match="kind: 'adapter' is unknown; choose one of cross_attention, offset"):
        AdapterConfig(kind="adapter")
    with pytest.raises(UserError, match="encoder: 'none'"):
        AdapterConfig(encoder="none")


def test_nearby_scales_are_nearby_and_far_ones_are_not():
    torch.manual_seed(0)
    encode = ScalarEncoder(64)
    at = encode(torch.tensor([0.5, 0.501, 0.9]))
    near, far = (at[0] - at[1]).norm(), (at[0] - at[2]).norm()
    assert near < far / 10


def test_position_code_tells_places_apart():
    code = position_code(5, 8)
    assert code.shape == (5, 8)
    assert torch.equal(code[0], torch.tensor([0.0, 1.0] * 4))
    assert torch.cdist(code, code).fill_diagonal_(1).min() > 0.1
