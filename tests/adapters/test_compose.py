"""Adapters beside everything else that diffusers does to a denoiser: a table of companions x orders, on random models.

Each row is compared with the stock pipeline, and with one that this file adapts by closures of its own.
"""

import copy
import dataclasses
import functools
from collections.abc import Callable

import accelerate
import diffusers
import peft
import pytest
import torch
from conftest import image_encoder, ip_adapter_weights, random_text_to_image
from diffusers.hooks import apply_group_offloading
from peft.tuners.lora import LoraLayer
from transformers import CLIPImageProcessor

import agd
from agd.artifacts.files import sha256
from agd.runtime.errors import UserError

STEPS, W = 2, 4.0
CPU = torch.device("cpu")
PICTURE = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(4))
MASK = (torch.arange(16) < 8).float().expand(1, 1, 16, 16)
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


def text_to_image(double: bool = False, **options):
    return quiet(random_text_to_image(double=double, **options))


def images(pipe, **call) -> torch.Tensor:
    """Final latents: no autoencoder rounds a difference away."""
    chosen = dict(prompt="a cat in the rain", num_inference_steps=STEPS, guidance_scale=W, output_type="latent") | call
    if "image" not in chosen:
        chosen |= dict(height=16, width=16)
    return pipe(generator=torch.Generator().manual_seed(0), **chosen).images


class Batches:
    """Samples of each call of a denoiser."""

    def __init__(self, denoiser):
        self.denoiser, self.sizes = denoiser, []

    def __enter__(self) -> list[int]:
        def count(module, args, kwargs, output):
            self.sizes.append(len(output[0]))

        self.handle = self.denoiser.register_forward_hook(count, with_kwargs=True)
        return self.sizes

    def __exit__(self, *exception):
        self.handle.remove()


KINDS = {
    "cross_attention": agd.AdapterConfig(hidden_size=8, zero_init=False),
    "bottleneck": agd.AdapterConfig(kind="bottleneck", embedding=True, gain=True, hidden_size=8, zero_init=False),
    "low_rank": agd.AdapterConfig(kind="low_rank", embedding=True, gain=True, hidden_size=8, rank=2, zero_init=False),
    "lora": agd.AdapterConfig(kind="lora", gain=True, rank=2, zero_init=False),
}


def save_adapters(folder, double: bool = False, kind: str = "cross_attention", **shape) -> str:
    """Adapters whose every weight is random and strong enough to be seen, on disk."""
    pipe = text_to_image(double, **shape)
    torch.manual_seed(7)
    adapters = agd.attach(pipe, KINDS[kind])
    for layer in (*adapters.layers.values(), *adapters.embeddings.values(), *adapters.norms.values()):
        torch.nn.init.normal_(layer.adapter.out.weight, std=0.5)
    agd.save(adapters, folder, {"guidance_scale_range": [1, 10]})
    return str(folder)


@pytest.fixture(scope="session")
def folders(tmp_path_factory) -> Callable[[bool, str], str]:
    """(double, kind) -> folder."""

    @functools.cache
    def saved(double: bool, kind: str) -> str:
        return save_adapters(tmp_path_factory.mktemp("adapters") / "one", double, kind)

    return saved


@pytest.fixture(scope="session")
def trained(folders) -> dict[bool, str]:
    """double -> folder, of the published kind."""
    return {double: folders(double, "cross_attention") for double in (False, True)}


def by_hand(pipe, folder: str, w: float):
    """Adapt a pipeline's UNet by closures of this file alone: expected results owe nothing to agd's own.

    Returns what to call to take them off. Guidance must be off in the calls.
    """
    unet = pipe.unet
    donor = text_to_image(double=unet.config.addition_embed_type is not None).unet
    adapters = agd.load(donor, folder)
    config = adapters.config
    share = (w - 1) / (config.guidance_scale_max - 1) if config.gain else 1.0
    state = {"conditions": None}

    def note(module, args, kwargs):
        state["prompt"] = kwargs["encoder_hidden_states"]
        state["added"] = kwargs.get("added_cond_kwargs") or {}

    def embed(module, args, output):
        features = {"timestep": output[:, None], "prompt": state["prompt"]}
        if "text_embeds" in state["added"]:
            features["summary"] = state["added"]["text_embeds"][:, None]
        if adapters.encoder is not None:
            state["conditions"] = adapters.encoder(torch.full((len(output),), w), features)
        if config.embedding:
            vector = adapters.embeddings["timestep"].adapter(
                output, torch.nn.functional.silu(state["conditions"].sum_BH)
            )
            return output + (share * vector).to(output.dtype)
        return output

    def add(layer, module, args, kwargs, output):
        given = state["conditions"]
        if config.kind in ("low_rank", "lora"):
            given = None if given is None else given.sum_BH
            factor = 1.0 if layer.adapter.modulation is None else 1 + layer.adapter.modulation(given)[:, None]
            inner = args[0].float() @ layer.adapter.down.weight.T * factor
            return output + (share * inner @ layer.adapter.out.weight.T).to(output.dtype)
        return output + (share * layer.adapter(args[0].float(), given)).to(output.dtype)

    def scale_and_shift(module, args, output):
        if not config.embedding:
            return output
        added = adapters.norms["out"].adapter(output, torch.nn.functional.silu(state["conditions"].sum_BH))
        return output + (share * added).to(output.dtype)

    handles = [
        unet.register_forward_pre_hook(note, with_kwargs=True),
        unet.time_embedding.register_forward_hook(embed),
        unet.conv_norm_out.register_forward_hook(scale_and_shift),
    ]
    for name, module in list(unet.named_modules()):
        layer = (
            adapters.layers[key]
            if (key := name.removesuffix(".base_layer").replace(".", "_")) in adapters.layers
            else None
        )
        if layer is not None and not hasattr(module, "base_layer"):
            handles.append(module.register_forward_hook(functools.partial(add, layer), with_kwargs=True))
    return lambda: [handle.remove() for handle in handles]


# Companions: pipeline -> the pipeline to call, with the companion on it.


def lora_file(double: bool, folder) -> str:
    pipe = text_to_image(double)
    torch.manual_seed(3)
    names = ["to_q", "to_k", "to_v", "to_out.0"]
    pipe.unet.add_adapter(peft.LoraConfig(r=2, target_modules=names, init_lora_weights=False))
    for name, weight in pipe.unet.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.3)
    type(pipe).save_lora_weights(folder, unet_lora_layers=peft.get_peft_model_state_dict(pipe.unet))
    return str(folder)


@pytest.fixture(scope="session")
def loras(tmp_path_factory) -> dict[bool, str]:
    return {double: lora_file(double, tmp_path_factory.mktemp("lora")) for double in (False, True)}


def lora(pipe, loras):
    pipe.load_lora_weights(loras[hasattr(pipe, "text_encoder_2")])
    return pipe


def ip_adapter(pipe, loras):
    pipe.register_modules(image_encoder=image_encoder(), feature_extractor=CLIPImageProcessor(size=16, crop_size=16))
    pipe.load_ip_adapter(ip_adapter_weights(pipe.unet), subfolder="", weight_name="", image_encoder_folder=None)
    return pipe


def with_controlnet(pipe):
    torch.manual_seed(6)
    network = diffusers.ControlNetModel.from_unet(pipe.unet, conditioning_embedding_out_channels=(4, 8))
    for name, weight in network.named_parameters():
        if name.startswith(("controlnet_", "controlnet_cond_embedding")):
            torch.nn.init.normal_(weight, std=0.2)
    return network


def made_into(name: str, controlnet: bool = False):
    """Another pipeline class, by from_pipe."""

    def change(pipe, loras):
        more = {"controlnet": with_controlnet(pipe)} if controlnet else {}
        return quiet(getattr(diffusers, name).from_pipe(pipe, **more))

    return change


def t2i(pipe, loras):
    torch.manual_seed(8)
    network = diffusers.T2IAdapter(in_channels=3, channels=[8, 16], num_res_blocks=1, downscale_factor=2)
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return quiet(diffusers.StableDiffusionAdapterPipeline.from_pipe(pipe, adapter=network))


def model_offload(pipe, loras):
    pipe.enable_model_cpu_offload(device="cpu")
    return pipe


def sequential_offload(pipe, loras):
    accelerate.cpu_offload(pipe.unet, CPU)
    return pipe


def group_offload(kind: str):
    def change(pipe, loras):
        blocks = {"num_blocks_per_group": 1} if kind == "block_level" else {}
        apply_group_offloading(pipe.unet, onload_device=CPU, offload_type=kind, **blocks)
        return pipe

    return change


def in_place(action: Callable):
    def change(pipe, loras):
        action(pipe)
        return pipe

    return change


@dataclasses.dataclass(frozen=True)
class Row:
    """change: (pipeline, loras) -> pipeline; call: its more arguments; visible: whether images change by it."""

    change: Callable
    call: dict = dataclasses.field(default_factory=dict)
    visible: bool = True
    double: bool = False
    tolerance: float = 1e-5
    fuses: bool = False


IMAGE = dict(image=PICTURE, strength=1.0)
HINT = dict(image=PICTURE)
FLOAT8 = dict(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
TABLE = {
    "nothing": Row(lambda pipe, loras: pipe, visible=False),
    "nothing, SDXL": Row(lambda pipe, loras: pipe, visible=False, double=True),
    "LoRA": Row(lora),
    "LoRA, SDXL": Row(lora, double=True),
    "IP-Adapter": Row(ip_adapter, dict(ip_adapter_image=PICTURE)),
    "LoRA and IP-Adapter": Row(lambda pipe, loras: ip_adapter(lora(pipe, loras), loras), dict(ip_adapter_image=PICTURE)),
    "ControlNet": Row(made_into("StableDiffusionControlNetPipeline", True), HINT),
    "ControlNet, SDXL": Row(made_into("StableDiffusionXLControlNetPipeline", True), HINT, double=True),
    "ControlNet img2img": Row(
        made_into("StableDiffusionControlNetImg2ImgPipeline", True), dict(control_image=PICTURE, **IMAGE)
    ),
    "ControlNet inpaint": Row(
        made_into("StableDiffusionControlNetInpaintPipeline", True),
        dict(control_image=PICTURE, mask_image=MASK, **IMAGE),
    ),
    "T2I-Adapter": Row(t2i, HINT),
    "img2img": Row(made_into("StableDiffusionImg2ImgPipeline"), dict(image=PICTURE, strength=1.0)),
    "img2img, SDXL": Row(made_into("StableDiffusionXLImg2ImgPipeline"), IMAGE, double=True),
    "inpaint": Row(made_into("StableDiffusionInpaintPipeline"), dict(mask_image=MASK, **IMAGE)),
    "inpaint, SDXL": Row(made_into("StableDiffusionXLInpaintPipeline"), dict(mask_image=MASK, **IMAGE), double=True),
    "from_pipe": Row(made_into("StableDiffusionPipeline"), visible=False),
    "model offload": Row(model_offload, visible=False),
    "sequential offload": Row(sequential_offload, visible=False),
    "group offload, blocks": Row(group_offload("block_level"), visible=False),
    "group offload, leaves": Row(group_offload("leaf_level"), visible=False),
    "fused projections": Row(in_place(lambda pipe: pipe.fuse_qkv_projections(vae=False)), visible=False, fuses=True),
    "FreeU": Row(in_place(lambda pipe: pipe.enable_freeu(s1=0.9, s2=0.2, b1=1.4, b2=1.6))),
    "layerwise casting": Row(in_place(lambda pipe: pipe.unet.enable_layerwise_casting(**FLOAT8))),
    "bfloat16": Row(in_place(lambda pipe: pipe.to(torch.bfloat16)), tolerance=0.1),
}  # fmt: skip


@pytest.fixture(params=TABLE.values(), ids=TABLE.keys())
def row(request) -> Row:
    return request.param


def close(one: torch.Tensor, other: torch.Tensor, tolerance: float = 1e-5) -> bool:
    return one.dtype == other.dtype and torch.allclose(one, other, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("adapters_first", [True, False], ids=["adapters first", "adapters last"])
def test_composes(row, adapters_first, kind, folders, loras):
    folder = folders(row.double, kind)
    if kind in ("low_rank", "lora") and row.fuses:
        return refuses_fused_projections(row, folder)
    stock = row.change(text_to_image(row.double), loras)
    with Batches(stock.unet) as sizes:
        guided = images(stock, **row.call)
    assert sizes == [2] * STEPS
    plain = images(stock, guidance_scale=1.0, **row.call)
    take_off = by_hand(stock, folder, W)
    expected = images(stock, guidance_scale=1.0, **row.call)
    take_off()

    pipe = text_to_image(row.double)
    if adapters_first:
        agd.load(pipe, folder)
        alone = images(pipe)
        pipe = row.change(pipe, loras)
        agd.load(pipe, folder)  # from_pipe makes pipelines that nobody wrapped
    else:
        pipe = row.change(pipe, loras)
        images(pipe, **row.call)
        agd.load(pipe, folder)
    with Batches(pipe.unet) as sizes:
        adapted = images(pipe, **row.call)
    assert sizes == [1] * STEPS
    assert close(adapted, expected, row.tolerance)
    assert not close(adapted, plain, 0.02)
    if adapters_first:
        assert close(adapted, alone) != row.visible

    agd.unload(pipe)
    assert torch.equal(images(pipe, **row.call), guided)
    return None


def refuses_fused_projections(row: Row, folder: str):
    """A low-rank update of a layer that another one has replaced would be lost."""
    pipe = row.change(text_to_image(row.double), None)
    agd.load(pipe, folder)
    with pytest.raises(UserError, match="fused projections"):
        images(pipe)
    pipe.unfuse_qkv_projections(vae=False)
    assert not close(images(pipe), images(pipe, guidance_scale=1.0), 0.02)


def lora_layers(pipe) -> list[str]:
    return [name for name, module in pipe.unet.named_modules() if isinstance(module, LoraLayer)]


@pytest.mark.parametrize("double", [False, True], ids=["SD", "SDXL"])
def test_every_layer_of_a_lora_is_loaded(double, trained, loras):
    stock, pipe = text_to_image(double), text_to_image(double)
    lora(stock, loras)
    agd.load(pipe, trained[double])
    lora(pipe, loras)
    assert lora_layers(pipe) == lora_layers(stock)
    assert len(lora_layers(pipe)) == 8 * len(pipe.unet.agd.layers)


def test_embeddings_of_a_picture_are_those_of_a_guided_call(trained, loras):
    pipe = ip_adapter(text_to_image(), loras)
    call = dict(device=CPU, num_images_per_prompt=1, ip_adapter_image=PICTURE, ip_adapter_image_embeds=None)
    both, one = (
        pipe.prepare_ip_adapter_image_embeds(do_classifier_free_guidance=guided, **call) for guided in (True, False)
    )
    agd.load(pipe, trained[False])
    expected = images(pipe, ip_adapter_image=PICTURE)
    assert close(images(pipe, ip_adapter_image_embeds=both), expected)
    with pipe.unet.agd.scale(W):
        assert close(images(pipe, ip_adapter_image_embeds=one, guidance_scale=1.0), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_pag_perturbs_the_adapted_pass(kind, folders):
    folder = folders(False, kind)
    pipe = quiet(diffusers.StableDiffusionPAGPipeline.from_pipe(text_to_image(), pag_applied_layers=["mid"]))
    adapters = agd.load(pipe.unet, folder)
    with adapters.scale(W):
        expected = images(pipe, guidance_scale=1.0, pag_scale=2.0)
    agd.load(pipe, folder)
    with Batches(pipe.unet) as sizes:
        adapted = images(pipe, pag_scale=2.0)
    assert sizes == [2] * STEPS  # the perturbed and the conditional pass, no unconditional one
    assert close(adapted, expected, 1e-3)
    assert not close(images(pipe, pag_scale=0.0), adapted, 1e-2)


SMALL = dict(
    block_out_channels=(8,), down_block_types=("CrossAttnDownBlock2D",), up_block_types=("UpBlock2D",), mid_block_type=None
)  # fmt: skip


def in_place_compiled(pipe):
    pipe.unet.compile(backend="eager", fullgraph=True)


def replaced_by_compiled(pipe):
    pipe.unet = torch.compile(pipe.unet, backend="eager", fullgraph=True)


def compiled_by_blocks(pipe):
    pipe.unet.compile_repeated_blocks(backend="eager", fullgraph=True)


@pytest.mark.parametrize("adapters_first", [True, False], ids=["adapters first", "adapters last"])
@pytest.mark.parametrize("compile_it", [in_place_compiled, replaced_by_compiled, compiled_by_blocks])
@pytest.mark.parametrize("kind", KINDS)
def test_compiles_as_one_graph_for_all_steps_and_scales(kind, compile_it, adapters_first, tmp_path):
    folder = save_adapters(tmp_path, kind=kind, **SMALL)
    eager = text_to_image(**SMALL)
    agd.load(eager, folder)

    torch.compiler.reset()
    pipe = text_to_image(**SMALL)
    if adapters_first:
        agd.load(pipe, folder)
        compile_it(pipe)
    else:
        compile_it(pipe)
        stock = images(pipe, guidance_scale=1.0)
        agd.load(pipe, folder)
    adapters = pipe.unet.agd
    assert close(images(pipe), images(eager))
    made = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert made
    for w in (2.0, 7.5, 1.0):
        assert close(images(pipe, guidance_scale=w), images(eager, guidance_scale=w))
    adapters.strength = eager.unet.agd.strength = 0.5
    assert close(images(pipe, num_inference_steps=3), images(eager, num_inference_steps=3))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == made
    if not adapters_first:
        agd.unload(pipe)
        assert torch.equal(images(pipe, guidance_scale=1.0), stock)


def arguments(batch: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Positional arguments of a UNet."""
    generator = torch.Generator().manual_seed(batch)
    x, prompt = torch.randn(batch, 4, 8, 8, generator=generator), torch.randn(batch, 3, 8, generator=generator)
    return x, torch.arange(batch) * 300, prompt


def gradients(unet, batches: list[int]) -> list[torch.Tensor]:
    """Of the sum of several passes, each with a w of its own, by one backward."""
    unet.agd.zero_grad()
    total = 0
    for batch in batches:
        with unet.agd.scale(1.5 + batch):
            total = total + unet(*arguments(batch), return_dict=False)[0].square().mean()
    total.backward()
    return [parameter.grad.clone() for parameter in unet.agd.parameters()]


@pytest.mark.parametrize("switched_on", ["before", "after", "on a copy"])
@pytest.mark.parametrize("batches", [[2], [2, 3]], ids=["one pass", "two passes before one backward"])
@pytest.mark.parametrize("kind", KINDS)
def test_gradient_checkpointing_changes_no_gradient(kind, switched_on, batches, folders):
    folder = folders(False, kind)
    plain = text_to_image().unet
    agd.load(plain, folder)
    expected = gradients(plain, batches)

    unet = text_to_image().unet
    if switched_on == "before":
        unet.enable_gradient_checkpointing()
    agd.load(unet, folder)
    if switched_on != "before":
        unet.enable_gradient_checkpointing()
    if switched_on == "on a copy":
        unet = copy.deepcopy(unet)
    assert unet.is_gradient_checkpointing
    recomputed = []
    layer = next(iter(unet.agd.layers.values())).adapter
    layer.register_forward_hook(lambda *_: recomputed.append(1))
    assert all(close(a, b, 1e-6) for a, b in zip(gradients(unet, batches), expected, strict=True))
    assert len(recomputed) == 2 * len(batches)


def test_a_deep_copy_is_a_pipeline_of_its_own(trained):
    pipe = text_to_image()
    agd.load(pipe, trained[False])
    adapted = images(pipe)
    twin = copy.deepcopy(pipe)
    assert torch.equal(images(twin), adapted)
    agd.unload(pipe)
    with Batches(twin.unet) as sizes:
        assert torch.equal(images(twin), adapted)
    assert sizes == [1] * STEPS
    agd.unload(twin)
    assert torch.equal(images(twin), images(text_to_image()))


def test_saved_pipelines_are_stock_checkpoints(trained, tmp_path):
    stock, pipe = text_to_image(), text_to_image()
    agd.load(pipe, trained[False])
    for name, one in (("stock", stock), ("adapted", pipe)):
        one.save_pretrained(tmp_path / name)
    files = [
        sorted(f.relative_to(root) for f in root.rglob("*")) for root in (tmp_path / "stock", tmp_path / "adapted")
    ]
    assert files[0] == files[1]
    for file in files[0]:
        if (tmp_path / "stock" / file).is_file():
            assert sha256(tmp_path / "stock" / file) == sha256(tmp_path / "adapted" / file), file
    unet, info = diffusers.UNet2DConditionModel.from_pretrained(tmp_path / "adapted" / "unet", output_loading_info=True)
    assert info["missing_keys"] == info["unexpected_keys"] == []
    assert not hasattr(unet, "agd")
    assert hasattr(pipe.unet, "agd")
    alone = tmp_path / "alone"
    pipe.unet.save_pretrained(alone, safe_serialization=True)
    assert sha256(alone / "diffusion_pytorch_model.safetensors") == sha256(
        tmp_path / "stock" / "unet" / "diffusion_pytorch_model.safetensors"
    )


def test_adapters_stay_float32_in_a_half_precision_pipeline(trained):
    pipe = text_to_image()
    adapters = agd.load(pipe, trained[False])
    before = {name: value.clone() for name, value in adapters.state_dict().items()}
    for change in (lambda: pipe.to(torch.bfloat16), lambda: pipe.unet.half(), lambda: pipe.unet.to(torch.bfloat16)):
        change()
        assert all(torch.equal(value, before[name]) for name, value in adapters.state_dict().items())
    assert images(pipe).dtype == torch.bfloat16


def test_attaches_to_a_model_without_weights(trained):
    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel.from_config(text_to_image().unet.config)
        adapters = agd.attach(unet, agd.AdapterConfig(hidden_size=8))
        with adapters.scale(3.0):
            out = unet(*(a.to("meta") for a in arguments()), return_dict=False)[0]
    assert {p.device.type for p in unet.parameters()} == {"meta"}
    assert out.shape == (2, 4, 8, 8)


@pytest.mark.parametrize(
    "offload",
    [
        lambda unet: accelerate.cpu_offload(unet, torch.device("meta")),
        lambda unet: accelerate.cpu_offload_with_hook(unet, torch.device("meta")),
    ],
    ids=["sequential", "model"],
)
def test_late_adapters_go_where_an_offloaded_model_computes(offload):
    unet = text_to_image().unet
    offload(unet)
    adapters = agd.attach(unet, agd.AdapterConfig(hidden_size=8))
    assert {p.device.type for p in adapters.parameters()} == {"meta"}
