"""What comes from outside is read, never run: no pickles, no code of a model's, no way out of a folder. And nothing
secret goes out: not into logs, records or reports."""

import ast
import hashlib
import io
import json
import os
import pickle
import shutil
import site
import struct
import subprocess
import sys
import threading
import venv
import zipfile
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest
import torch
import yaml
from conftest import command, image_encoder, random_text_to_image
from diffusers import ControlNetModel
from PIL import Image

from agd.artifacts import downloads, sealed_json, trajectories, zips
from agd.artifacts.files import sha256
from agd.artifacts.images import write_images
from agd.artifacts.zips import open_zip, write_zip
from agd.diffusion import base_models
from agd.digits.data import digits
from agd.measures import references
from agd.runtime.errors import UserError
from agd.settings import configuration

ROOT = Path(__file__).resolve().parent.parent
WEIGHTS = "diffusion_pytorch_model.safetensors"
FEW = ("--num-inference-steps", 2)


@pytest.fixture(scope="module")
def study(base, tmp_path_factory) -> SimpleNamespace:
    """A small study of the digits, stage by stage, and what its stages print."""
    folder = tmp_path_factory.mktemp("study")
    command("train_classifier", "--output", folder / "c.safetensors", "--steps", 2, family=None)
    command("sample_trajectories", "--num-trajectories", 10, *FEW, "--base-model", base, "--output-dir", folder / "T")
    command("train", "--dir", folder / "R", "--data-path", folder / "T", "--steps", 1)
    command("sample", "--dir", folder / "R", "--num-samples", 8, *FEW)
    random_text_to_image().save_pretrained(folder / "stable")
    (folder / "lines.txt").write_text("a cat\n")
    pixels = (digits()[0][:8] * 255).to(torch.uint8).numpy()
    write_images(folder / "real.zip", pixels, [f"{i}" for i in range(8)], {})
    return SimpleNamespace(
        folder=folder, base=Path(base), stable=folder / "stable", shards=folder / "T", adapter=folder / "R",
        classifier=folder / "c.safetensors", lines=folder / "lines.txt", real=folder / "real.zip",
    )  # fmt: skip


def fails(capsys, stage: str, *words, family: str | None = "dit") -> str:
    """The one line with which a stage ends."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        command(stage, *words, family=family)
    assert stop.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


# No pickle is read


class Trap:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


@pytest.fixture
def trap(tmp_path, monkeypatch):
    """mark; bytes of a pickle, and of torch's kind of one. Disarms what torch does against them: ours must do alone."""
    mark, buffer = tmp_path / "mark", io.BytesIO()
    torch.save({"x": Trap(mark)}, buffer)
    load = torch.load
    monkeypatch.setattr(torch, "load", lambda *args, **options: load(*args, **{**options, "weights_only": False}))
    return SimpleNamespace(mark=mark, plain=pickle.dumps(Trap(mark)), torch=buffer.getvalue())


def test_the_trap_works(trap):
    for spring in (lambda: pickle.loads(trap.plain), lambda: torch.load(io.BytesIO(trap.torch), weights_only=True)):
        assert not trap.mark.exists()
        spring()
        assert trap.mark.exists()
        trap.mark.unlink()


def copied(source: Path, folder: Path) -> Path:
    return Path(shutil.copytree(source, folder / "copy"))


def replaced(source: Path, part: str, old: str, new: str, data: bytes, folder: Path) -> Path:
    """A copy of a model where a pickle takes the place of a part's weights."""
    model = copied(source, folder)
    (model / part / old).unlink()
    (model / part / new).write_bytes(data)
    return model


def sharded(source: Path, part: str, old: str, new: str, data: bytes, folder: Path) -> Path:
    """The same, where the weights are an index that names the pickle."""
    model = replaced(source, part, old, new, data, folder)
    shutil.copy(source / part / old, model / part / "decoy.safetensors")
    names = {"metadata": {"total_size": 1}, "weight_map": {"x": new}}
    (model / part / f"{old}.index.json").write_text(json.dumps(names))
    return model


def trajectories_of(study, model):
    return "sample_trajectories", ("--base-model", model, *FEW), "dit"


def prompted(study, model):
    return "sample_trajectories", ("--base-model", model, "--prompt-file", study.lines, *FEW), "sd"


def pictures(study, *words):
    return "sample", ("--guidance", "cfg", "--base-model", study.stable, "--prompt", "x", *words, *FEW), "sd"


def measured(study, *words):
    samples = ("--samples", study.adapter / "samples" / "000000.zip")
    return "calculate_metrics", (*samples, "--features-weights", study.classifier, *words), "dit"


def dit_bin(study, trap, folder, part="transformer", new="diffusion_pytorch_model.bin"):
    return trajectories_of(study, replaced(study.base, part, WEIGHTS, new, trap.torch, folder))


def vae_bin(study, trap, folder):
    return dit_bin(study, trap, folder, "vae")


def renamed(study, trap, folder):
    return dit_bin(study, trap, folder, new=WEIGHTS)


def dit_index(study, trap, folder):
    return trajectories_of(study, sharded(study.base, "transformer", WEIGHTS, "shard.bin", trap.torch, folder))


def unet_bin(study, trap, folder):
    return prompted(study, replaced(study.stable, "unet", WEIGHTS, "diffusion_pytorch_model.bin", trap.torch, folder))


def text_bin(study, trap, folder):
    model = replaced(study.stable, "text_encoder", "model.safetensors", "pytorch_model.bin", trap.torch, folder)
    return prompted(study, model)


def text_index(study, trap, folder):
    (folder / "outside.bin").write_bytes(trap.torch)
    model = sharded(study.stable, "text_encoder", "model.safetensors", "x.bin", trap.torch, folder)
    index = model / "text_encoder" / "model.safetensors.index.json"
    index.write_text(index.read_text().replace("x.bin", "../../outside.bin"))
    return prompted(study, model)


def outside(study, trap, folder):
    """No pickle: weights of elsewhere."""
    made = text_index(study, trap, folder)
    index = folder / "copy" / "text_encoder" / "model.safetensors.index.json"
    index.write_text(index.read_text().replace("outside.bin", "outside.safetensors"))
    shutil.copy(study.stable / "text_encoder" / "model.safetensors", folder / "outside.safetensors")
    return made


def adapter(study, trap, folder):
    """One whose configuration has the checksum of the pickle."""
    other = copied(study.adapter, folder)
    (other / "adapter.safetensors").write_bytes(trap.torch)
    record = sealed_json.read_sealed(other / "config.json")
    record["files"]["adapter.safetensors"] = sha256(other / "adapter.safetensors")
    (other / "config.json").write_bytes(sealed_json.sealed_json(record))
    return "sample", ("--dir", other, "--num-samples", 4, *FEW), "dit"


def classifier(study, trap, folder):
    (folder / "c.safetensors").write_bytes(trap.torch)
    return measured(study, "--ref", study.real, "--features-weights", folder / "c.safetensors")


def npz(study, trap, folder):
    np.savez(folder / "r.npz", mu=np.array([Trap(trap.mark)], dtype=object), sigma=np.eye(1))
    return measured(study, "--ref", folder / "r.npz")


def npz_plain(study, trap, folder):
    (folder / "r.npz").write_bytes(trap.plain)
    return measured(study, "--ref", folder / "r.npz")


def inception(study, trap, folder):
    (folder / "inception-2015-12-05.pt").write_bytes(trap.torch)
    words = ("--features", "inception-v3", "--features-weights", folder / "inception-2015-12-05.pt")
    return measured(study, "--ref", study.real, *words)


def dinov2(study, trap, folder):
    (folder / "dino.pth").write_bytes(trap.torch)
    return measured(study, "--ref", study.real, "--features", "dinov2", "--features-weights", folder / "dino.pth")


def clip(study, trap, folder):
    (folder / "clip").mkdir()
    (folder / "clip" / "config.json").write_text(json.dumps({"model_type": "clip"}))
    (folder / "clip" / "pytorch_model.bin").write_bytes(trap.torch)
    stage, words, _ = measured(study, "--ref", study.real, "--clip-model", folder / "clip")
    return stage, words, "sd"


def ip_adapter(study, trap, folder, name="ip.bin"):
    (folder / name).write_bytes(trap.torch)
    Image.new("RGB", (8, 8)).save(folder / "dot.png")
    image_encoder().save_pretrained(folder / "encoder")
    words = ("--ip-adapter-image", folder / "dot.png", "--image-encoder", folder / "encoder")
    return pictures(study, "--ip-adapter", folder / name, *words)


def ip_adapter_renamed(study, trap, folder):
    return ip_adapter(study, trap, folder, "ip.safetensors")


def encoder(study, trap, folder):
    made = ip_adapter_renamed(study, trap, folder)
    (folder / "encoder" / "model.safetensors").unlink()
    (folder / "encoder" / "pytorch_model.bin").write_bytes(trap.torch)
    return made


def controlnet(study, trap, folder):
    network = ControlNetModel.from_unet(random_text_to_image().unet, conditioning_embedding_out_channels=(4, 8))
    network.save_pretrained(folder / "control")
    (folder / "control" / WEIGHTS).unlink()
    (folder / "control" / "diffusion_pytorch_model.bin").write_bytes(trap.torch)
    Image.new("RGB", (8, 8)).save(folder / "dot.png")
    return pictures(study, "--controlnet", folder / "control", "--controlnet-image", folder / "dot.png")


def shard(study, trap, folder):
    """One that is zarr of version 2, which knows pickles as a filter."""
    array = {"zarr_format": 2, "shape": [1], "chunks": [1], "dtype": "|u1", "fill_value": 0, "order": "C"}
    array |= {"compressor": None, "filters": [{"id": "pickle", "protocol": 5}]}
    parts = {".zgroup": {"zarr_format": 2}, "conditions/.zgroup": {"zarr_format": 2}, "pairs/.zarray": array}
    parts[".zattrs"] = {"trajectories": 1, "provenance": {}}
    entries = [(name, json.dumps(part).encode()) for name, part in parts.items()]
    (folder / "T").mkdir()
    write_zip(folder / "T" / "000000.zarr.zip", [*entries, ("pairs/0", trap.plain)])
    return "train", ("--data-path", folder / "T", "--steps", 1), "dit"


PICKLES = [
    (dit_bin, "copy/transformer: its weights are pickles, which may run code when they are read; if you trust them, convert"),
    (vae_bin, "copy/vae: its weights are pickles"),
    (renamed, "copy: can't be opened, fetch the model again"),
    (dit_index, f"copy/transformer/{WEIGHTS}.index.json: names shard.bin, which is no .safetensors file beside it"),
    (unet_bin, "copy/unet: its weights are pickles"),
    (text_bin, "copy/text_encoder: its weights are pickles"),
    (text_index, "text_encoder/model.safetensors.index.json: names ../../outside.bin, which is no .safetensors file beside it"),
    (outside, "model.safetensors.index.json: names ../../outside.safetensors, which is no .safetensors file beside it"),
    (adapter, "copy/adapter.safetensors: damaged"),
    (classifier, "c.safetensors doesn't hold the digits classifier"),
    (npz, "r.npz: not an .npz of statistics (mu, sigma) (ValueError)"),
    (npz_plain, "r.npz: not an .npz of statistics (mu, sigma) (BadZipFile)"),
    (inception, "inception-2015-12-05.pt is not inception-2015-12-05.pt (its sha256 differs)"),
    (dinov2, "dino.pth is not a .safetensors file, and nothing else is read"),
    (clip, "clip_model: {}/clip: its weights are pickles"),
    (ip_adapter, "ip.bin is not a .safetensors file, and nothing else is read"),
    (ip_adapter_renamed, "ip.safetensors doesn't fit this model"),
    (encoder, "--image-encoder: {}/encoder: its weights are pickles"),
    (controlnet, "--controlnet: {}/control: its weights are pickles"),
    (shard, "000000.zarr.zip: not a trajectory shard"),
]  # fmt: skip


@pytest.mark.parametrize(("put", "line"), PICKLES, ids=[put.__name__ for put, _ in PICKLES])
def test_a_pickle_is_named_and_not_read(put, line, study, trap, tmp_path, capsys):
    stage, words, family = put(study, trap, tmp_path)
    place = {"sample_trajectories": "--output-dir", "sample": "--output-dir", "train": "--dir"}.get(stage, "--output")
    said = fails(capsys, stage, *words, place, tmp_path / "out", family=family)
    assert line.replace("{}", str(tmp_path)) in said
    assert not trap.mark.exists()


def test_a_pickle_for_a_checkpoint_is_passed_over(study, trap, tmp_path, capsys):
    (tmp_path / "checkpoint.safetensors").write_bytes(trap.torch)
    command("train", "--dir", tmp_path, "--data-path", study.shards, "--steps", 1)
    assert "belongs to another training or is damaged; beginning anew" in capsys.readouterr().out
    assert not trap.mark.exists()


def test_pickles_on_the_hub_are_named_before_they_are_fetched(monkeypatch):
    there = [
        SimpleNamespace(rfilename=name) for name in ("model_index.json", "transformer/diffusion_pytorch_model.bin")
    ]
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: SimpleNamespace(siblings=there))
    with pytest.raises(UserError) as error:
        base_models.locate("someone/old-model", "models.x.base_model", download=False)
    assert str(error.value).startswith("models.x.base_model: someone/old-model: its weights are pickles")
    assert "`python -m agd.prepare_base --base-model someone/old-model --output base.json` converts them" in str(
        error.value
    )


def test_only_what_is_read_is_watched(tmp_path):
    for name in ("config.json", "model.safetensors", "pytorch_model.bin", "merges.txt", "README.md", "evil.py"):
        (tmp_path / name).touch()
    assert [Path(file).name for file in base_models.files(tmp_path)] == [
        "config.json",
        "merges.txt",
        "model.safetensors",
    ]


def calls() -> list[tuple[str, ast.Call]]:
    """Every call in agd/, with the dotted name that is called."""
    trees = [ast.parse(file.read_text()) for file in (ROOT / "agd").rglob("*.py")]
    return [(ast.unparse(node.func), node) for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)]


def test_no_call_of_ours_can_run_what_it_reads():
    bad, opened = [], 0
    for name, call in calls():
        options = {option.arg: ast.unparse(option.value) for option in call.keywords}
        if name in ("eval", "exec", "os.system", "os.popen", "torch.jit.load") or name.startswith("pickle."):
            bad.append(name)
        if name == "torch.load" and options.get("weights_only") != "True":
            bad.append(ast.unparse(call))
        if name == "np.load" and options.get("allow_pickle") != "False":
            bad.append(ast.unparse(call))
        if options.get("shell") or options.get("trust_remote_code", "False") != "False":
            bad.append(ast.unparse(call))
        if (
            (name.endswith(".from_pretrained") or name == "base_models.open_safely")
            and "Tokenizer" not in name
            and "Processor" not in name
        ):
            opened += 1
            safely = options.get("use_safetensors") == "True" or name == "base_models.open_safely"  # which says it once
            bad += [] if safely else [ast.unparse(call)]
    assert bad == []
    assert opened >= 5


# No code of a model's is run


def custom(folder: Path, **named) -> Path:
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | named))
    return folder


@pytest.mark.parametrize(
    ("named", "line"),
    [
        ({"_class_name": ["evil", "Evil"]}, "holds a ['evil', 'Evil'], not a DiTPipeline"),
        ({"transformer": ["evil", "Evil"]}, "its transformer is a evil.Evil, which agd doesn't open"),
        ({"vae": ["evil", "Evil"]}, "its vae is a evil.Evil"),
        ({"scheduler": ["evil", "EvilScheduler"]}, "its scheduler is a evil.EvilScheduler"),
        ({"scheduler": ["subprocess", "Popen"]}, "its scheduler is a subprocess.Popen"),
        ({"transformer": ["diffusers", "DiffusionPipeline"]}, "its transformer is a diffusers.DiffusionPipeline"),
        ({"transformer": ["diffusers", "AutoModel"]}, "its transformer is a diffusers.AutoModel"),
        ({"transformer": "evil"}, "its transformer is a evil"),
    ],
    ids=str,
)
def test_a_model_can_not_name_code_of_its_own(named, line, study, tmp_path, capsys, monkeypatch):
    model = custom(copied(study.base, tmp_path), **named)
    for folder in (model, model / "transformer", model / "vae", model / "scheduler", tmp_path):
        (folder / "evil.py").write_text(
            f"open({str(tmp_path / 'mark')!r}, 'w')\nclass Evil: pass\nEvilScheduler = Evil\n"
        )
    monkeypatch.syspath_prepend(tmp_path)
    stage, words, family = trajectories_of(study, model)
    said = fails(capsys, stage, *words, "--output-dir", tmp_path / "out", family=family)
    assert line in said
    assert not (tmp_path / "mark").exists()
    assert "evil" not in sys.modules


# No way out of a folder


ODD_NAMES = [
    "../x",
    "/x",
    "x/y",
    "x y",
    "x;touch mark",
    "$(touch mark)",
    "x`",
    "x'",
    'x"',
    "-x",
    "{x}",
    "x\n",
    "x&",
    ".",
    "x|y",
]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_name_that_is_no_name_is_refused(name):
    section = configuration.shipped()["models"]["digits-dit"]
    for odd in ({name: section}, {"x": section | {"adapters": {name: {}}}}):
        with pytest.raises(UserError, match="is not allowed; must be string, matching"):
            configuration.check(configuration.shipped() | {"models": odd})


def tree(folder: Path) -> set[str]:
    return {str(file.relative_to(folder)) for file in folder.rglob("*")}


def test_names_in_a_zip_lead_nowhere(study, tmp_path):
    """Images are read under any name, and nothing but the reference is written."""
    entries = ["../../up.png", "/absolute.png", "a/../../b.png", "plain.png", "C:\\x.png"]
    buffer = io.BytesIO()
    Image.new("L", (8, 8)).save(buffer, "PNG")
    (tmp_path / "in").mkdir()
    with zipfile.ZipFile(tmp_path / "in" / "images.zip", "w") as archive:
        for name in entries:
            archive.writestr(name, buffer.getvalue())
    before = tree(tmp_path.parent)
    words = ("--reference", tmp_path / "in" / "images.zip", "--output", tmp_path / "in" / "r.npz")
    command("prepare_reference", *words, "--features-weights", study.classifier, family=None)
    assert references.read_reference(tmp_path / "in" / "r.npz").n == len(entries)
    assert tree(tmp_path.parent) - before == {f"{tmp_path.name}/in/{name}" for name in ("r.npz", "r.json")}


def test_a_link_in_a_zip_is_not_followed(tmp_path, capsys):
    (tmp_path / "captions_val2017.json").write_text(json.dumps({"annotations": []}))
    with zipfile.ZipFile(tmp_path / "captions.zip", "w") as archive:
        link = zipfile.ZipInfo("captions_train2017.json")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, str(tmp_path / "captions_val2017.json"))
    words = ("--captions", tmp_path / "captions.zip", "--output-dir", tmp_path / "out")
    assert "captions_train2017.json is not a file of COCO captions" in fails(
        capsys, "prepare_prompts", *words, family=None
    )


@pytest.mark.parametrize("name", ["../secret", "ABSOLUTE", "deep/../../secret"])
def test_a_record_lists_nothing_outside_of_its_folder(name, tmp_path):
    (tmp_path / "folder" / "deep").mkdir(parents=True)
    (tmp_path / "secret").write_text("secret")
    name = str(tmp_path / "secret") if name == "ABSOLUTE" else name
    record = {"files": {name: sha256(tmp_path / "secret")}}
    (tmp_path / "folder" / sealed_json.RECORD).write_bytes(sealed_json.sealed_json(record))
    with pytest.raises(UserError, match="lists .*secret, which is outside of its folder"):
        sealed_json.check_folder(tmp_path / "folder")


PYTHON = """#!/bin/bash
printf '%s\\0' "$PYTHONPATH" "$@" >> calls; printf '\\n' >> calls
while [ $# -gt 0 ]; do
  case $1 in
    --output) mkdir -p "$(dirname "$2")"; touch "$2"; case $2 in *.npz) touch "${2%.npz}.json";; esac;;
    --output-dir|--dir) mkdir -p "$2"; for name in trajectories.txt samples.txt provenance.json adapter.safetensors \\
      config.json training.csv cost.json 000000.zip 000000.json 000000.zarr.zip 000000.zarr.json fid.json fid.txt samples.png training.png fidelity.png; do
      [ -e "$2/$name" ] || touch "$2/$name"; done;;
  esac
  shift
done
"""


def own_environment(folder: Path) -> Path:
    """A virtual environment with this one's packages, whose `python` is the test's to replace; returns its python3."""
    venv.create(folder, symlinks=True)
    (packages,) = folder.glob("lib/python3*/site-packages")
    (packages / "ours.pth").write_text("\n".join(site.getsitepackages()))
    for name in ("python", "python3"):
        (folder / "bin" / name).unlink()
    (folder / "bin" / "python3").symlink_to(Path(sys.executable).resolve())
    return folder / "bin" / "python3"


def test_no_path_gets_into_the_shell(study, tmp_path):
    """The whole workflow, in a checkout and with inputs of the oddest names; a stand-in for Python notes its arguments."""
    odd = "a b'c\"d;touch mark;$(touch mark)`touch mark`&"
    checkout, inputs = tmp_path / f"checkout {odd}", tmp_path / "inputs"
    checkout.mkdir()
    for name in ("Snakefile", "rules", "agd", "config", "profiles", "envs", "report"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, checkout / name)
    for name in ("base", "captions", "clip"):
        (inputs / f"{name} {odd}").mkdir(parents=True)
    (inputs / f"base {odd}" / "model_index.json").write_text("{}")
    for name in ("reference.zip", "weights"):
        (inputs / f"{name} {odd}").touch()
    section = configuration.shipped()["models"]["digits-sd"]
    section = {name: part for name, part in section.items() if name != "train_base"} | {
        "base_model": str(inputs / f"base {odd}"),
        "captions": str(inputs / f"captions {odd}"),
        "reference": str(inputs / f"reference.zip {odd}"),
        "calculate_metrics": {"device": "cpu", "clip_model": str(inputs / f"clip {odd}")},
        "prepare_reference": {"device": "cpu", "features_weights": str(inputs / f"weights {odd}")},
    }
    for stage, total in (("sample", "num_samples"), ("sample_trajectories", "num_trajectories")):
        section[stage] = section[stage] | {total: 4, "chunk_size": 4}
    python = own_environment(tmp_path / "environment")
    (python.parent / "python").write_text(PYTHON)
    (python.parent / "python").chmod(0o755)
    (tmp_path / "study.yaml").write_text(yaml.safe_dump({"models": {"tiny": section}}))
    words = ["results/tiny/fid.json", "--cores", "1", "--snakefile", checkout / "Snakefile"]
    words += ["--directory", tmp_path / "work", "--configfile", tmp_path / "study.yaml"]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1"}
    line = [str(python), "-m", "snakemake", *map(str, words)]
    done = subprocess.run(line, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(tmp_path.rglob("mark")) == []
    noted = [call.split("\0")[:-1] for call in (tmp_path / "work" / "calls").read_text().split("\n")[:-1]]
    stages = {
        "prepare_base",
        "prepare_prompts",
        "prepare_reference",
        "sample_trajectories",
        "train",
        "sample",
        "calculate_metrics",
    }
    assert {call[2].rsplit(".", 1)[1] for call in noted} == stages | {"measure_fidelity", "measure_speed", "tabulate"}
    assert {call[0] for call in noted} == {str(checkout)}
    given = {word for call in noted for word in call}
    assert {str(file) for file in inputs.iterdir()} <= given


# Sizes


def test_an_entry_that_unpacks_to_too_much_is_named(study, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(zips, "_LARGEST_ENTRY", 1000)
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("captions_train2017.json", "1.png", "2.png", "3.png", "4.png"):
            archive.writestr(name, b" " * 1001)
    words = ("--captions", tmp_path / "bomb.zip", "--output-dir", tmp_path / "out")
    assert "captions_train2017.json: unpacks to 1001 bytes" in fails(capsys, "prepare_prompts", *words, family=None)
    stage, words, _ = measured(study, "--ref", tmp_path / "bomb.zip", "--output", tmp_path / "m.json")
    assert "bomb.zip/1.png: unpacks to 1001 bytes, more than 1000; unpack it yourself" in fails(capsys, stage, *words)


def png(width: int, height: int) -> bytes:
    """The smallest file that says it is a picture of that size."""
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"")),
        (b"IEND", b""),
    ]
    whole = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(whole)


def test_a_picture_that_unpacks_to_too_much_is_named(study, tmp_path, capsys):
    (tmp_path / "images").mkdir()
    for i in range(4):
        (tmp_path / "images" / f"{i}.png").write_bytes(png(60_000, 60_000))
    stage, words, _ = measured(study, "--ref", tmp_path / "images", "--output", tmp_path / "m.json")
    assert "images/0.png: not an image that can be read" in fails(capsys, stage, *words)


def test_a_picture_of_another_format_starts_no_program(study, tmp_path, capsys, monkeypatch):
    """Pillow would hand PostScript to Ghostscript, whatever the file is called."""
    monkeypatch.setattr(subprocess, "check_call", lambda *_, **__: (tmp_path / "mark").touch())
    (tmp_path / "images").mkdir()
    for i in range(4):
        (tmp_path / "images" / f"{i}.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EOF\n")
    stage, words, _ = measured(study, "--ref", tmp_path / "images", "--output", tmp_path / "m.json")
    assert "images/0.png: not an image that can be read" in fails(capsys, stage, *words)
    assert not (tmp_path / "mark").exists()


def test_a_shard_that_claims_too_much_is_named(study, tmp_path):
    """Chunks that are not there would be filled in: a small file, any amount of memory."""
    (source,) = study.shards.glob("*.zip")
    with open_zip(source) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    about = json.loads(entries["pairs/zarr.json"])
    about["shape"][1] = 10**12
    entries["pairs/zarr.json"] = json.dumps(about).encode()
    write_zip(tmp_path / "000000.zarr.zip", entries.items())
    with pytest.raises(UserError, match=r"000000.zarr.zip: holds less than it says"):
        trajectories.read(tmp_path / "000000.zarr.zip")


# Downloads


CONTENT = b"the right content" * 1000


class Handler(BaseHTTPRequestHandler):
    """/right, /wrong (other bytes), /short (hangs up early), /gone (404 with a page), /moved (to /gone), /loop."""

    def do_GET(self):
        status = {"/gone": 404, "/broken": 500, "/moved": 302, "/loop": 302}.get(self.path, 200)
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "/gone" if self.path == "/moved" else "/loop")
        body = CONTENT if self.path in ("/right", "/short") else b"another content!!" * 1000
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:500] if self.path == "/short" else body)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def address(monkeypatch):
    """A server on this machine, all of whose files should hold CONTENT."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        url = f"http://127.0.0.1:{server.server_port}"
        digest = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
        names = ("right", "wrong", "short", "gone", "broken", "moved", "loop")
        monkeypatch.setattr(downloads, "KNOWN", {f"{url}/{name}": digest for name in names})
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield url
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("wrong", "gave a file whose sha256 is"),
        ("short", "can't be downloaded"),
        ("gone", "can't be downloaded (HTTP 404); run again to go on, or fetch it and give its path"),
        ("broken", "can't be downloaded (HTTP 500)"),
        ("moved", "can't be downloaded (HTTP 404)"),
        ("loop", "can't be downloaded (HTTP 302)"),
    ],
)
def test_a_file_gets_its_name_when_it_is_known_to_be_right(name, line, address, tmp_path, capsys):
    words = ("--url", f"{address}/{name}", "--output", tmp_path / "file")
    assert line in fails(capsys, "download", *words, family=None)
    assert not (tmp_path / "file").exists()
    downloads.KNOWN[f"{address}/right"] = downloads.KNOWN[f"{address}/{name}"]
    (tmp_path / "file.part").unlink(missing_ok=True)
    command("download", "--url", f"{address}/right", "--output", tmp_path / "file", family=None)
    assert (tmp_path / "file").read_bytes() == CONTENT


# Secrets


SECRETS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "AGD_ANYTHING")


def texts(file: Path) -> bytes:
    """A file's bytes, and those of what it holds if it is a zip."""
    data = file.read_bytes()
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            data += b"".join(archive.read(name) for name in archive.namelist())
    return data


def test_nothing_secret_is_written_or_said(study, tmp_path, monkeypatch, capfd):
    for name in SECRETS:
        monkeypatch.setenv(name, f"hush-{name.lower()}")
    login = "https://someone:hush-password@127.0.0.1/folder"
    place, few = tmp_path / "out", ("--base-model", study.base, *FEW)
    command("sample_trajectories", "--num-trajectories", 10, *few, "--output-dir", place / "T")
    command("train", "--dir", place / "R", "--data-path", place / "T", "--steps", 1)
    command("sample", "--dir", place / "R", "--num-samples", 8, *FEW)
    measuring = ("--dir", place / "R", "--features-weights", study.classifier, "--ref")
    command("calculate_metrics", *measuring, study.real)
    failing = [
        ("calculate_metrics", *measuring, login),
        ("calculate_metrics", *measuring, f"{login}/statistics.npz"),
        ("sample_trajectories", "--base-model", login, "--output-dir", place / "T"),
        ("train", "--dir", place / "R2", "--data-path", login),
        ("sample", "--dir", login, "--output-dir", place / "S"),
        ("sample", "--guidance", "none", "--base-model", login, "--output-dir", place / "S"),
        ("sample", "--guidance", "none", "--base-model", "someone/private", "--output-dir", place / "S"),
    ]
    for stage, *words in failing:
        with pytest.raises(SystemExit):
            command(stage, *words)
    for words in (
        ("--reference", login, "--output", place / "r.npz"),
        ("--reference", login, "--output", f"{login}/r.npz"),
    ):
        with pytest.raises(SystemExit):
            command("prepare_reference", *words, "--features-weights", study.classifier, family=None)
    with pytest.raises(SystemExit):
        command("download", "--url", f"{login}/file.zip", "--output", place / "file.zip", family=None)
    printed = "".join(capfd.readouterr())
    assert printed.count(": error: ") == len(failing) + 3
    assert "127.0.0.1/folder" in printed
    assert "hush" not in printed
    files = [file for file in place.rglob("*") if file.is_file()]
    assert len(files) >= 8
    assert [file for file in files if b"hush" in texts(file)] == []


def test_a_secret_in_the_configuration_is_not_said():
    section = configuration.shipped()["models"]["digits-dit"] | {"reference": ["https://a:hush@host/x"]}
    with pytest.raises(UserError) as error:
        configuration.check(configuration.shipped() | {"models": {"x": section}})
    assert "reference" in str(error.value)
    assert "hush" not in str(error.value)


def test_modules_in_the_working_folder_are_not_run(tmp_path):
    """`python -m` puts the working folder before everything; data lies there."""
    for name in ("zipfile", "torch", "csv", "numpy"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'run')!r}, 'w').close()\n")
    root = Path(__file__).resolve().parent.parent
    words = [sys.executable, "-m", "agd.prepare_reference", "--reference", "none", "--output", "x.npz"]
    done = subprocess.run(
        words, cwd=tmp_path, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(root)}
    )
    assert "none: no such folder or file of images" in done.stderr
    assert done.returncode == 2
    assert not (tmp_path / "run").exists()
