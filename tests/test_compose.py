"""Adapters beside everything else that diffusers does to a denoiser: a table of companions x orders, on random models.

Each row compares with an adapted pass that nothing but hooks of this file makes, and with the stock pipeline.
"""

import dataclasses
import functools
from collections.abc import Callable

import accelerate
import diffusers
import peft
import pytest
import torch
from conftest import random_text_to_image
from diffusers.hooks import apply_group_offloading
from peft.tuners.lora import LoraLayer
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

import agd

STEPS, W = 3, 4.0
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


def save_adapters(folder, double: bool = False, kind: str = "cross_attention", dtype=torch.float32) -> str:
    """Adapters whose every weight is random and strong enough to be seen, on disk."""
    pipe = text_to_image(double)
    torch.manual_seed(7)
    config = agd.AdapterConfig(kind=kind, hidden_size=8, zero_init=False)
    adapters = agd.attach(pipe, config)
    for layer in adapters.layers.values():
        torch.nn.init.normal_(layer.adapter.out.weight, std=0.5)
    agd.save(adapters, folder, {"guidance_scale_range": [1, 10]})
    return str(folder)


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> dict[bool, str]:
    """double -> folder."""
    return {double: save_adapters(tmp_path_factory.mktemp("adapters") / "one", double) for double in (False, True)}


def by_hand(pipe, folder: str, w: float):
    """Adapt a pipeline's UNet by closures of this file alone: expected results owe nothing to agd.hooks' own.

    Returns what to call to take them off. Guidance must be off in the calls.
    """
    unet = getattr(pipe.unet, "_orig_mod", pipe.unet)
    donor = text_to_image(double=unet.config.addition_embed_type is not None).unet
    adapters = agd.load(donor, folder)
    state = {}

    def note(module, args, kwargs):
        state["prompt"] = kwargs["encoder_hidden_states"]

    def embed(module, args, output):
        features = {"timestep": output[:, None], "prompt": state["prompt"]}
        state["tokens"] = adapters.encoder(torch.full((len(output),), w), features)

    def add(layer, module, args, kwargs, output):
        return output + layer.adapter(args[0].float(), state["tokens"]).to(output.dtype)

    handles = [
        unet.register_forward_pre_hook(note, with_kwargs=True),
        unet.time_embedding.register_forward_hook(embed),
    ]
    for name, module in unet.named_modules():
        if name.endswith("attn2"):
            layer = adapters.layers[name.replace(".", "_")]
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
    torch.manual_seed(5)
    config = CLIPVisionConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8,
        projection_dim=6,
    )  # fmt: skip
    pipe.register_modules(
        image_encoder=CLIPVisionModelWithProjection(config).eval(),
        feature_extractor=CLIPImageProcessor(size=16, crop_size=16),
    )
    width, tokens = pipe.unet.config.cross_attention_dim, 4
    shapes = {"proj.weight": (tokens * width, 6), "proj.bias": (tokens * width,), "norm.weight": (width,),
              "norm.bias": (width,)}  # fmt: skip
    weights = {}
    for i, inner in enumerate(in_processor_order(pipe.unet)):
        for part in ("to_k_ip", "to_v_ip"):
            weights[f"{2 * i + 1}.{part}.weight"] = torch.randn(inner, width)
    projection = {name: torch.randn(shape) for name, shape in shapes.items()}
    pipe.load_ip_adapter(
        {"image_proj": projection, "ip_adapter": weights}, subfolder="", weight_name="", image_encoder_folder=None
    )
    return pipe


def in_processor_order(unet) -> list[int]:
    """Width of each cross-attention, in the order in which IP-Adapter files number them."""
    names = [name for name in unet.attn_processors if name.endswith("attn2.processor")]
    return [unet.get_submodule(name.removesuffix(".processor")).to_q.out_features for name in names]


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


def compiled(pipe, loras):
    torch.compiler.reset()
    pipe.unet.compile(backend="eager", fullgraph=True)
    return pipe


def compiled_as_documented(pipe, loras):
    torch.compiler.reset()
    pipe.unet = torch.compile(pipe.unet, backend="eager", fullgraph=True)
    return pipe


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
    "compile()": Row(compiled, visible=False),
    "torch.compile": Row(compiled_as_documented, visible=False),
    "fused projections": Row(in_place(lambda pipe: pipe.fuse_qkv_projections(vae=False)), visible=False),
    "channels last": Row(in_place(lambda pipe: pipe.unet.to(memory_format=torch.channels_last)), visible=False),
    "attention slicing": Row(in_place(lambda pipe: pipe.enable_attention_slicing(1)), visible=False),
    "FreeU": Row(in_place(lambda pipe: pipe.enable_freeu(s1=0.9, s2=0.2, b1=1.4, b2=1.6))),
    "layerwise casting": Row(in_place(lambda pipe: pipe.unet.enable_layerwise_casting(**FLOAT8))),
    "bfloat16": Row(in_place(lambda pipe: pipe.to(torch.bfloat16)), tolerance=0.1),
}  # fmt: skip


@pytest.fixture(params=TABLE.values(), ids=TABLE.keys())
def row(request) -> Row:
    return request.param


def close(one: torch.Tensor, other: torch.Tensor, tolerance: float = 1e-5) -> bool:
    return one.dtype == other.dtype and torch.allclose(one, other, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("adapters_first", [True, False], ids=["adapters first", "adapters last"])
def test_composes(row, adapters_first, trained, loras):
    stock = row.change(text_to_image(row.double), loras)
    with Batches(stock.unet) as sizes:
        guided = images(stock, **row.call)
    assert sizes == [2] * STEPS
    plain = images(stock, guidance_scale=1.0, **row.call)
    take_off = by_hand(stock, trained[row.double], W)
    if "compile" in str(row.change):
        torch.compiler.reset()
    expected = images(stock, guidance_scale=1.0, **row.call)
    take_off()

    pipe = text_to_image(row.double)
    before = images(pipe) if row.visible and not set(row.call) - {"ip_adapter_image"} else None
    if adapters_first:
        agd.load(pipe, trained[row.double])
        alone = images(pipe)
        pipe = row.change(pipe, loras)
    else:
        alone = None
        pipe = row.change(pipe, loras)
        images(pipe, **row.call)
    agd.load(pipe, trained[row.double])
    with Batches(getattr(pipe.unet, "_orig_mod", pipe.unet)) as sizes:
        adapted = images(pipe, **row.call)
    assert sizes == [1] * STEPS
    assert close(adapted, expected, row.tolerance)
    assert not close(adapted, plain, 0.02)
    assert not row.visible or alone is None or alone.dtype != adapted.dtype or not close(adapted, alone, 1e-3)

    agd.unload(pipe)
    assert torch.equal(images(pipe, **row.call), guided)
    assert before is None or before.dtype != guided.dtype or not torch.equal(before, guided)
