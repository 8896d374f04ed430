"""An adapter of kind `lora`: merged into the base for one guidance scale, and written as an ordinary LoRA."""

import copy
import pickle

import pytest
import torch
from conftest import random_dit, random_text_to_image

import agd
from agd.adapters import fusing
from agd.runtime.errors import UserError

W, MAXIMUM = 4.0, 9.0
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def pipeline(double: bool = False, dtype=torch.float32):
    pipe = random_text_to_image(double=double)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(dtype)


def images(pipe, w: float = W, **call) -> torch.Tensor:
    """Final latents: no autoencoder rounds a difference away."""
    size = dict(height=16, width=16, output_type="latent", num_inference_steps=2)
    return pipe(
        "a cat in the rain", guidance_scale=w, generator=torch.Generator().manual_seed(0), **size, **call
    ).images


def adapted(pipe, **more):
    torch.manual_seed(7)
    chosen = dict(kind="lora", gain=True, rank=2, hidden_size=8, guidance_scale_max=MAXIMUM, zero_init=False) | more
    adapters = agd.attach(pipe, agd.AdapterConfig(**chosen))
    for layer in (*adapters.layers.values(), *adapters.embeddings.values(), *adapters.norms.values()):
        torch.nn.init.normal_(layer.adapter.out.weight, std=0.3)
    return adapters


def close(one: torch.Tensor, other: torch.Tensor, tolerance: float = 1e-4) -> bool:
    return torch.allclose(one.float(), other.float(), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("embedding", [False, True], ids=["lora", "lora and embedding"])
@pytest.mark.parametrize("double", [False, True], ids=["SD", "SDXL"])
def test_merged_is_the_same_without_its_layers_and_undone_bit_for_bit(double, embedding):
    pipe = pipeline(double)
    adapters = adapted(pipe, embedding=embedding)
    before = copy.deepcopy({k: v for k, v in pipe.unet.state_dict().items() if not k.startswith("agd.")})
    expected, stronger = images(pipe), images(pipe, w=6.0)
    adapters.fuse(W)
    called = []
    for layer in adapters.layers.values():
        layer.adapter.register_forward_hook(lambda *_: called.append(1))
    assert close(images(pipe), expected)
    assert not called
    adapters.unfuse()
    assert all(torch.equal(pipe.unet.state_dict()[k], v) for k, v in before.items())
    assert torch.equal(images(pipe, w=6.0), stronger)
    assert called


def test_merged_in_half_precision_is_undone_bit_for_bit():
    pipe = pipeline(dtype=torch.bfloat16)
    adapters = adapted(pipe)
    expected = images(pipe)
    adapters.fuse(W)
    assert close(images(pipe), expected, 0.1)
    adapters.unfuse()
    assert torch.equal(images(pipe), expected)


def test_merged_for_one_scale_it_refuses_what_it_would_answer_wrongly(tmp_path):
    pipe = pipeline()
    adapters = adapted(pipe)
    stock = images(pipeline())
    adapters.fuse(W)
    for what, words in (
        (lambda: images(pipe, w=5.0), "merged for w = 4"),
        (lambda: images(pipe, negative_prompt="rain"), "unfuse it first"),
        (lambda: adapters.disable(), "unfuse it first"),
        (lambda: setattr(adapters, "strength", 0.5), "unfuse it first"),
        (lambda: adapters.fuse(5.0), "merged for w = 4 already"),
        (lambda: pipe.save_pretrained(tmp_path), "unfuse it first"),
    ):
        with pytest.raises(UserError, match=words):
            what()
    assert not (tmp_path / "unet" / "diffusion_pytorch_model.safetensors").exists()
    agd.unload(pipe)
    assert torch.equal(images(pipe), stock)


@pytest.mark.parametrize("compiled", ["unet.compile", "torch.compile"])
def test_merged_and_taken_out_of_a_compiled_model(compiled):
    pipe, eager = pipeline(), pipeline()
    adapters, own = adapted(pipe), adapted(eager)
    own.load_state_dict(adapters.state_dict())
    torch.compiler.reset()
    if compiled == "unet.compile":
        pipe.unet.compile(backend="eager")
    else:
        pipe.unet = torch.compile(pipe.unet, backend="eager")
    for _ in range(2):
        assert close(images(pipe), images(eager))
        adapters.fuse(W)
        assert close(images(pipe), images(eager))
        adapters.unfuse()
    assert close(images(pipe, w=5.0), images(eager, w=5.0))


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("full"), KeyboardInterrupt()], ids=["full", "Ctrl-C"])
def test_an_interrupted_merge_leaves_the_base_as_it_was(monkeypatch, error):
    pipe = pipeline()
    adapters = adapted(pipe)
    before, expected = copy.deepcopy(pipe.unet.state_dict()), images(pipe)
    merged, calls = fusing._merged, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 5:
            raise error
        return merged(*arguments)

    monkeypatch.setattr(fusing, "_merged", interrupted)
    with pytest.raises(type(error)):
        adapters.fuse(W)
    assert all(torch.equal(value, before[name]) for name, value in pipe.unet.state_dict().items())
    assert torch.equal(images(pipe), expected)
    monkeypatch.undo()
    adapters.fuse(W)
    assert close(images(pipe), expected)


def test_what_changed_the_weights_since_is_not_overwritten():
    """As when a LoRA of the user's is merged, too."""
    pipe = pipeline()
    adapters = adapted(pipe)
    adapters.fuse(W)
    weight = next(m for m in pipe.unet.modules() if type(m).__name__ == "Attention").to_q.weight
    weight.data += 0.05
    with pytest.raises(UserError, match="is not what `fuse` left there"):
        adapters.unfuse()
    with pytest.raises(UserError, match="is not what `fuse` left there"):
        agd.unload(pipe)
    weight.data -= 0.05
    agd.unload(pipe)
    assert close(images(pipe), images(pipeline()))


def test_merged_weights_are_not_taken_for_the_bases():
    pipe = pipeline()
    adapters = adapted(pipe)
    own = pipe.unet.state_dict()
    adapters.fuse(W)
    for what in (pipe.unet.state_dict, lambda: pipe.unet.load_state_dict(own), adapters.state_dict):
        with pytest.raises(UserError, match="merged for w = 4"):
            what()
    twin = pickle.loads(pickle.dumps(pipe))
    assert close(images(twin), images(pipe))
    twin.unet.agd.unfuse()
    adapters.unfuse()
    assert all(torch.equal(value, own[name]) for name, value in twin.unet.state_dict().items())


def test_a_scale_in_force_is_not_overridden():
    adapters = adapted(pipeline())
    with adapters.scale(2.0), pytest.raises(UserError, match="another guidance scale than 4 is in force"):
        adapters.fuse(W)
    with adapters.scale(W):
        adapters.fuse(W)


@pytest.mark.parametrize("w", [float("nan"), float("inf"), True, "2", None, [2.0]])
def test_what_is_no_number_is_refused(w):
    pipe = pipeline()
    adapters = adapted(pipe)
    with pytest.raises(UserError, match="is not a finite number"):
        adapters.fuse(w)
    with pytest.raises(UserError, match="is not a finite number"):
        adapters.strength = w
    assert adapters.fused is None
    if isinstance(w, float):
        with pytest.raises(UserError, match="not a finite number"):
            images(pipe, w=w)
        with pytest.raises(UserError, match="not a finite number"):
            images(pipe, w=[w])


def test_switched_off_it_is_not_merged():
    pipe = pipeline()
    adapters = adapted(pipe)
    adapters.disable()
    with pytest.raises(UserError, match="switched off; enable it first"):
        adapters.fuse(W)
    assert close(images(pipe), images(pipeline()))


def test_only_a_lora_can_be_merged():
    pipe = pipeline()
    adapters = adapted(pipe, kind="low_rank")
    with pytest.raises(UserError, match="kind low_rank depends on more than w"):
        adapters.fuse(W)
    with pytest.raises(UserError, match="not merged"):
        adapters.unfuse()


@pytest.mark.parametrize("double", [False, True], ids=["SD", "SDXL"])
def test_exported_it_needs_nothing_of_ours(double, tmp_path):
    pipe = pipeline(double)
    adapters = adapted(pipe)
    agd.export_lora(adapters, tmp_path)
    expected = {w: images(pipe, w=w) for w in (1.5, W, MAXIMUM)}

    stock = pipeline(double)
    plain = images(stock, w=1.0)
    stock.load_lora_weights(tmp_path)
    for w, latents in expected.items():
        stock.set_adapters("default_0", (w - 1) / (MAXIMUM - 1))
        assert close(images(stock, w=1.0), latents)
        assert not close(latents, plain, 0.01)
    card = (tmp_path / "README.md").read_text()
    assert "strength = (w - 1) / 8" in card
    assert "| 9 | 1.00 |" in card


def test_export_refuses_what_is_no_lora(tmp_path):
    for more in (dict(kind="bottleneck"), dict(embedding=True), dict(gain=False)):
        pipe = pipeline()
        with pytest.raises(UserError, match="only an adapter of kind lora with gain and without embedding"):
            agd.export_lora(adapted(pipe, **more), tmp_path)
    with pytest.raises(UserError, match="no LoRA into a DiTTransformer2DModel"):
        agd.export_lora(adapted(random_dit()), tmp_path)
    assert not list(tmp_path.iterdir())
