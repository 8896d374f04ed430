"""How well images show their prompts: CLIP score, alone and among the metrics."""

import json
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CLIP_SIDE, CLIP_TOKENS, command, letters, save_clip
from PIL import Image
from transformers import CLIPModel

from agd.artifacts.images import write_images
from agd.artifacts.sealed_json import checksums, sealed_json
from agd.digits.data import captions, digits
from agd.measures.clip import clip_score
from agd.runtime.errors import UserError

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> str:
    return save_clip(tmp_path_factory.mktemp("clip"))


def pictures(number: int) -> list[Image.Image]:
    colours = np.random.default_rng(1).integers(0, 256, (number, 1, 1, 3), dtype=np.uint8)
    return [Image.fromarray(value) for value in np.tile(colours, (1, CLIP_SIDE, CLIP_SIDE, 1))]


def cosine(clip: str, image: Image.Image, prompt: str) -> float:
    """By hand: one pair, no padding, no library beyond the two encoders."""
    model, read_by = CLIPModel.from_pretrained(clip).eval(), letters()
    words = read_by(prompt, verbose=False).input_ids
    words = words if len(words) <= CLIP_TOKENS else [*words[: CLIP_TOKENS - 1], words[-1]]
    mean, std = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])
    pixels = torch.tensor(((np.asarray(image) / 255 - mean) / std).transpose(2, 0, 1)[None], dtype=torch.float32)
    with torch.no_grad():
        seen = model.vision_model(pixels).pooler_output[0].numpy()
        read = model.text_model(torch.tensor([words])).last_hidden_state[0, -1].numpy()
    a, b = model.visual_projection.weight.detach().numpy() @ seen, model.text_projection.weight.detach().numpy() @ read
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_clip_score_is_a_hundred_times_the_cosine(clip, batch_size):
    images, texts = pictures(6), [*captions()[:5], "the number five written by hand " * 3]
    cosines = np.array([cosine(clip, image, text) for image, text in zip(images, texts, strict=True)])
    assert cosines.min() < 0 < cosines.max()  # so that the cut at zero is tested
    found = clip_score(zip(images, texts, strict=True), clip, CPU, batch_size)
    assert found == pytest.approx(100 * np.maximum(cosines, 0).mean(), abs=1e-3)


def test_a_folder_without_clip_is_named(clip, base, tmp_path):
    def refused(folder) -> str:
        with pytest.raises(UserError) as error:
            clip_score([], str(folder), CPU, 1)
        assert "\n" not in str(error.value)
        return str(error.value)

    assert refused(tmp_path / "none").startswith(f"clip_model: {tmp_path}/none doesn't hold a CLIP model")
    assert "doesn't hold a CLIP model and its processor; give a local folder" in refused(Path(base) / "transformer")
    for lacking, problem in {
        "model.safetensors": "holds no weights (*.safetensors)",
        "tokenizer.json": "doesn't hold a CLIP model and its processor (",
        "processor_config.json": "doesn't hold a CLIP model and its processor (",
    }.items():
        folder = tmp_path / lacking
        folder.mkdir()
        for file in Path(clip).iterdir():
            if file.name != lacking:
                (folder / file.name).symlink_to(file)
        assert f"clip_model: {folder} {problem}" in refused(folder).replace(f"{folder}:", str(folder))


@pytest.fixture
def study(tmp_path):
    """Samples in two files, real images, and a classifier: a function from subjects to the command line."""
    command("train_classifier", "--output", tmp_path / "classifier.safetensors", "--steps", 2, family=None)
    pixels = (digits()[0][:20] * 255).to(torch.uint8).numpy()
    write_images(tmp_path / "real.zip", pixels, [f"{i}" for i in range(20)], {})

    def words(subjects) -> list:
        made = {"base": {"fingerprint": "f"}, "guidance": "cfg", "seed": 0}
        for first in (0, 5):
            names = [f"{i:06d}" for i in range(first, first + 5)]
            shown = {"subjects": dict(zip(names, subjects[first : first + 5], strict=True))}
            write_images(tmp_path / f"{first}.zip", pixels[first : first + 5], names, {"provenance": made} | shown)
            cost = {"images": 5, "evaluations": 10, "seconds": 1, "files": checksums(tmp_path, [f"{first}.zip"])}
            (tmp_path / f"{first}.json").write_bytes(sealed_json(cost))
        files = ["--samples", tmp_path / "0.zip", tmp_path / "5.zip", "--ref", tmp_path / "real.zip"]
        files += ["--output", tmp_path / "metrics.json"]
        return [*files, "--features-weights", tmp_path / "classifier.safetensors", "--device", "cpu", "--batch-size", 4]

    return words


def test_metrics_have_a_clip_score_if_a_model_is_given(study, clip, tmp_path):
    words = study(captions()[:10])
    command("calculate_metrics", *words, family="sd")
    assert "clip_score" not in json.loads((tmp_path / "metrics.json").read_text())
    command("calculate_metrics", *words, "--clip-model", clip, family="sd")
    record = json.loads((tmp_path / "metrics.json").read_text())
    with zipfile.ZipFile(tmp_path / "real.zip") as archive:
        images = [Image.open(archive.open(f"{i}.png")) for i in range(10)]
        expected = clip_score(zip(images, captions()[:10], strict=True), clip, CPU, 10)
    assert record["clip_score"] == pytest.approx(expected, abs=1e-4)
    assert re.fullmatch("[0-9a-f]{64}", record["provenance"]["clip_model"])


@pytest.mark.parametrize(
    ("subjects", "model", "message"),
    [
        (list(range(10)), "CLIP", "clip_model: the samples in TMP/0.zip have classes, not prompts; leave it empty"),
        (captions()[:10], "TMP/none", "clip_model: TMP/none doesn't hold a CLIP model and its processor"),
    ],
)
def test_one_clear_line_for_clip(subjects, model, message, study, clip, tmp_path, capsys):
    model = clip if model == "CLIP" else model.replace("TMP", str(tmp_path))
    words = study(subjects)
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        command("calculate_metrics", *words, "--clip-model", model, family="sd")
    lines = [line for line in capsys.readouterr().err.splitlines() if "%)" not in line]
    assert stop.value.code == 2
    assert len(lines) == 1
    assert message.replace("TMP", str(tmp_path)) in lines[0]
    assert not (tmp_path / "metrics.json").exists()
