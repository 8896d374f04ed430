"""Every class of diffusers with a denoiser that takes adapters is served, and shown to be, or refused."""

import importlib.util
import inspect
import io
import tempfile
from pathlib import Path

import diffusers
import pytest
import sentencepiece
import torch
from conftest import random_dit, random_text_to_image, random_unet
from studies import ROOT
from test_compose import MASK, PICTURE, quiet, with_controlnet

import agd
from agd.adapters import known_pipelines
from agd.runtime.errors import UserError

spec = importlib.util.spec_from_file_location("list_pipelines", ROOT / "docs" / "list_pipelines.py")
list_pipelines = importlib.util.module_from_spec(spec)
spec.loader.exec_module(list_pipelines)
STEPS, W = 2, 4.0
PROMPTS = ["a cat in the rain", "a dog"]
PICTURES, MASKS = PICTURE.repeat(2, 1, 1, 1), MASK.repeat(2, 1, 1, 1)
IMAGE = dict(image=PICTURES, strength=1.0)
# End of the name -> arguments of a call, beside the prompts.
CALLS = {
    "ControlNetImg2ImgPipeline": dict(control_image=PICTURES, **IMAGE),
    "ControlNetPAGImg2ImgPipeline": dict(control_image=PICTURES, **IMAGE),
    "ControlNetInpaintPipeline": dict(control_image=PICTURES, mask_image=MASKS, **IMAGE),
    "ControlNetPAGInpaintPipeline": dict(control_image=PICTURES, mask_image=MASKS, **IMAGE),
    "ControlNetPipeline": dict(image=PICTURES),
    "ControlNetPAGPipeline": dict(image=PICTURES),
    "AdapterPipeline": dict(image=PICTURES),
    "Img2ImgPipeline": IMAGE,
    "InpaintPipeline": dict(mask_image=MASKS, **IMAGE),
    "Pipeline": {},
}


def t2i_adapter():
    torch.manual_seed(8)
    network = diffusers.T2IAdapter(in_channels=3, channels=[8, 16], num_res_blocks=1, downscale_factor=2)
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return network


def kolors():
    """Kolors over small random models, with a tokenizer trained here."""
    from diffusers.pipelines.kolors.text_encoder import ChatGLMConfig, ChatGLMModel
    from diffusers.pipelines.kolors.tokenizer import ChatGLMTokenizer

    trained = io.BytesIO()
    sentences = ["a cat in the rain", "a dog", "two birds on a wire", "the sea at night"]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences * 20), model_writer=trained, vocab_size=22, minloglevel=2
    )
    file = Path(tempfile.mkdtemp()) / "tokenizer.model"
    file.write_bytes(trained.getvalue())
    about = dict(
        num_layers=2, padded_vocab_size=60, hidden_size=8, ffn_hidden_size=16, kv_channels=4, num_attention_heads=2
    )
    about |= dict(
        multi_query_attention=True, multi_query_group_num=2, add_qkv_bias=True, original_rope=True, use_cache=True
    )
    torch.manual_seed(1)
    reads = ChatGLMModel(ChatGLMConfig(**about)).eval()
    for weight in reads.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    pipe = random_text_to_image(double=True)
    unet = random_unet(0, True, encoder_hid_dim=8, encoder_hid_dim_type="text_proj")
    return diffusers.KolorsPipeline(pipe.vae, reads, ChatGLMTokenizer(str(file)), unet, pipe.scheduler)


def built(name: str):
    """A pipeline of this class over small random models."""
    kind = getattr(diffusers, name)
    if name == "DiTPipeline":
        vae = diffusers.AutoencoderKL(latent_channels=2, block_out_channels=(4,), norm_num_groups=2, sample_size=4)
        return quiet(kind(random_dit(), vae, diffusers.DDIMScheduler(clip_sample=False)))
    double = name.startswith("StableDiffusionXL")
    pipe = kolors() if name.startswith("Kolors") else random_text_to_image(double=double)
    more = {}
    if "ControlNet" in name:
        more["controlnet"] = with_controlnet(pipe)
    if name.endswith("AdapterPipeline"):
        more["adapter"] = t2i_adapter()
    if "PAG" in name:
        more["pag_applied_layers"] = ["mid"]
    return quiet(kind.from_pipe(pipe, **more))


def call(pipe, **more):
    name = type(pipe).__name__
    generator = torch.Generator().manual_seed(0)
    if name == "DiTPipeline":
        # Its null class is 1000, whatever the model; ours has ten.
        return pipe([3, 7], generator=generator, num_inference_steps=STEPS, output_type="np", **more).images
    own = next(arguments for end, arguments in CALLS.items() if name.endswith(end))
    sized = (
        {}
        if "image" in own and "Adapter" not in name and "ControlNetPipeline" not in name
        else dict(height=16, width=16)
    )
    sized = sized if {"height"} <= set(inspect.signature(type(pipe).__call__).parameters) else {}
    return pipe(
        PROMPTS, generator=generator, num_inference_steps=STEPS, output_type="latent", **own, **sized, **more
    ).images


class First:
    """What the denoiser was called with first: sample and conditions by name; and samples of each call."""

    def __init__(self, denoiser):
        self.denoiser, self.given, self.sizes = denoiser, None, []

    def __enter__(self):
        self.handle = self.denoiser.register_forward_pre_hook(self.note, with_kwargs=True, prepend=True)
        return self

    def note(self, module, args, kwargs):
        names = list(inspect.signature(type(module).forward).parameters)[1:]
        given = dict(zip(names, args, strict=False)) | kwargs
        self.sizes.append(len(next(iter(given.values()))))
        if self.given is None:
            added = given.get("added_cond_kwargs") or {}
            keys = ("sample", "hidden_states", "encoder_hidden_states", "class_labels")
            self.given = {k: given[k].clone() for k in keys if given.get(k) is not None}
            self.given |= {k: v.clone() for k, v in added.items() if k != "time_ids"}

    def __exit__(self, *exception):
        self.handle.remove()


@pytest.mark.parametrize("name", sorted(known_pipelines.SERVED - {"DiTPipeline"}))
def test_one_pass_gets_the_conditional_half(name):
    pipe = built(name)
    parts = 3 if "PAG" in name else 2  # of a guided call: without the prompt, with it, and disturbed
    with First(pipe.unet) as guided:
        before = call(pipe, guidance_scale=W)
    with First(pipe.unet) as plain:
        unguided = call(pipe, guidance_scale=1.0)
    assert set(guided.sizes) == {2 * parts}
    torch.manual_seed(7)
    agd.attach(pipe, agd.AdapterConfig(hidden_size=8))
    scales = []
    handle = pipe.unet.register_forward_hook(
        lambda module, args, output: scales.append(float(module.agd.current.w_B[0]))
    )
    with First(pipe.unet) as ours:
        once = call(pipe, guidance_scale=W)
    handle.remove()
    assert set(ours.sizes) == {2 * (parts - 1)}
    assert len(ours.sizes) == len(guided.sizes)
    assert scales == [W] * len(scales)
    for key, value in guided.given.items():
        conditional = torch.cat(value.chunk(parts)[1:])
        assert torch.allclose(ours.given[key], conditional, atol=1e-6), key
    assert torch.allclose(once, unguided, atol=1e-4, rtol=1e-4)  # untrained adapters add nothing
    assert plain.sizes == ours.sizes
    assert not torch.allclose(once, before, atol=1e-3)
    agd.detach(pipe)
    assert type(pipe).__name__ == name
    assert torch.equal(call(pipe, guidance_scale=W), before)


@pytest.mark.filterwarnings("ignore")
def test_every_class_of_diffusers_is_served_or_refused_with_a_reason():
    found = list_pipelines.guiding_classes()
    assert len(found) > 60
    assert set(found) >= known_pipelines.SERVED
    for name in set(found) - known_pipelines.SERVED:
        listed = name in known_pipelines.REFUSED or name.startswith(tuple(known_pipelines.REFUSED_BEGINNINGS))
        assert listed, f"{name}: neither served nor refused; try it, and add it to known_pipelines.py"
    assert not known_pipelines.SERVED & set(known_pipelines.REFUSED)


@pytest.mark.filterwarnings("ignore")
def test_the_page_lists_them():
    page = (ROOT / "docs" / "pipelines.md").read_text(encoding="utf-8")
    assert page == list_pipelines.page(), "run PYTHONPATH=. python docs/list_pipelines.py"


def test_what_is_not_known_is_refused_in_one_line():
    class Mine(diffusers.StableDiffusionPipeline):
        def __call__(self, *args, guidance_scale=5, **kwargs):
            return super().__call__(*args, guidance_scale=guidance_scale, **kwargs)

    class Prompts(diffusers.StableDiffusionPipeline):
        def encode_prompt(self, *args, **kwargs):
            return super().encode_prompt(*args, **kwargs)

    class Renamed(diffusers.StableDiffusionPipeline):
        """As it was."""

        version = 3

        def helper(self):
            return 1

    pipe = random_text_to_image()
    for kind, why in (
        (Mine, "it changes __call__ of StableDiffusionPipeline"),
        (Prompts, "it changes encode_prompt of"),
    ):
        with pytest.raises(UserError, match=rf"{kind.__name__}: adapters don't serve this kind of pipeline, for {why}"):
            agd.attach(kind.from_pipe(pipe), agd.AdapterConfig(hidden_size=8))
    assert known_pipelines.why_not(Renamed) is None
    pix2pix = diffusers.StableDiffusionInstructPix2PixPipeline.from_pipe(pipe)
    with pytest.raises(
        UserError, match="for its call guides by more than the prompt; use one of those in docs/pipelines.md"
    ):
        agd.attach(pix2pix, agd.AdapterConfig(hidden_size=8))
