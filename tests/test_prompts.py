"""Captions in, prompts out; files fetched from an address; how well images show their prompts."""

import concurrent.futures
import hashlib
import json
import re
import string
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import command
from PIL import Image
from server import Server
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

from agd import config, downloads, prepare_prompts
from agd.clip_score import clip_score
from agd.digits.data import PHRASINGS, WORDS, captions, digits
from agd.errors import UserError
from agd.images import write_images
from agd.records import sealed_json, vouch

ROOT = Path(__file__).resolve().parent.parent
CPU = torch.device("cpu")


def coco(texts: dict[int, list[str]], first: int = 100) -> dict:
    """COCO's layout: sentences by image, their annotations numbered on from `first`."""
    pairs = [(image, text) for image, sentences in texts.items() for text in sentences]
    return {
        "images": [{"id": image, "file_name": f"{image:012d}.jpg"} for image in texts],
        "annotations": [{"id": i, "image_id": image, "caption": t} for i, (image, t) in enumerate(pairs, first)],
    }


TRAINING = coco({image: [f"training sentence {image}-{i}" for i in range(5)] for image in range(20)})
VALIDATION = coco({image: [f"validation  sentence\n{image}-{i} " for i in range(5)] for image in (9, 3, 7, 5)})


def write_captions(folder: Path, training=TRAINING, validation=VALIDATION) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in ((prepare_prompts.TRAINING, training), (prepare_prompts.VALIDATION, validation)):
        (folder / name).write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return folder


def zipped(folder: Path, prefix: str = "annotations/") -> Path:
    file = folder.with_suffix(".zip")
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for each in folder.iterdir():
            archive.write(each, prefix + each.name)
    return file


def prompts(captions: Path, output: Path, *words) -> tuple[list[str], list[str]]:
    """The two files that the stage writes."""
    options = ("--captions", captions, "--output-dir", output, "--num-prompts", 12, *words)
    command("prepare_prompts", *options, family=None)
    return tuple(
        (output / f"{name}.txt").read_text(encoding="utf-8").splitlines() for name in ("trajectories", "samples")
    )


def test_prompts_are_drawn_from_both_parts(tmp_path):
    drawn, validation = prompts(write_captions(tmp_path / "coco"), tmp_path / "out")
    assert len(drawn) == len(set(drawn)) == 12
    assert set(drawn) <= {each["caption"] for each in TRAINING["annotations"]}
    assert [re.fullmatch(r"validation sentence (\d)-\d", line)[1] for line in validation] == ["3", "5", "7", "9"]


def test_prompts_depend_on_the_seed_and_not_on_the_order_of_the_file(tmp_path):
    first = prompts(write_captions(tmp_path / "coco"), tmp_path / "a")
    turned = [part | {"annotations": part["annotations"][::-1]} for part in (TRAINING, VALIDATION)]
    assert prompts(write_captions(tmp_path / "turned", *turned), tmp_path / "b") == first
    other = prompts(tmp_path / "coco", tmp_path / "c", "--seed", 1)
    assert other[0] != first[0]
    assert other[1] != first[1]
    assert len(other[1]) == 4


def test_more_prompts_begin_with_the_same_ones(tmp_path):
    folder = write_captions(tmp_path / "coco")
    few, many = prompts(folder, tmp_path / "a"), prompts(folder, tmp_path / "b", "--num-prompts", 100)
    assert many[0][:12] == few[0]
    assert sorted(many[0]) == sorted(each["caption"] for each in TRAINING["annotations"])


def test_zip_and_folders_of_any_layout_give_the_same_prompts(tmp_path):
    flat = write_captions(tmp_path / "flat")
    write_captions(tmp_path / "deep" / "annotations")
    sources = [flat, tmp_path / "deep", zipped(flat), zipped(write_captions(tmp_path / "top"), "")]
    found = [prompts(source, tmp_path / f"out{i}") for i, source in enumerate(sources)]
    assert found == found[:1] * 4


def test_a_caption_is_one_line_and_an_empty_one_is_none(tmp_path):
    odd = coco({1: ["a\tcat \n on\u2028a  mat\r\n", " \n", "ein Bär, größer"]})
    drawn, _ = prompts(write_captions(tmp_path / "coco", training=odd), tmp_path / "out", "--num-prompts", 2)
    assert sorted(drawn) == ["a cat on a mat", "ein Bär, größer"]


def test_digits_have_captions_of_every_kind(tmp_path):
    words = ("--output", tmp_path / "images.zip", "--annotations", tmp_path / "annotations.zip")
    command("prepare_digits", *words, family=None)
    parts = {
        part: prepare_prompts.read_captions(tmp_path / "annotations.zip", f"captions_{part}2017.json")
        for part in ("train", "val")
    }
    labels, written = digits()[1].tolist(), captions()
    assert [each.image_id for each in parts["val"]] == [i for i in range(1797) if i // 10 % 5 == 0]
    assert sorted(each.image_id for part in parts.values() for each in part) == list(range(1797))
    for part in parts.values():
        assert all(each.text == written[each.image_id] for each in part)
        assert all(WORDS[labels[each.image_id]] in each.text.split() for each in part)
        assert len({each.text for each in part}) == len(WORDS) * len(PHRASINGS)
    with zipfile.ZipFile(tmp_path / "images.zip") as images, zipfile.ZipFile(tmp_path / "annotations.zip") as texts:
        listed = json.loads(texts.read("annotations/captions_val2017.json"))["images"]
        assert {each["file_name"] for each in listed} <= set(images.namelist())
    drawn, validation = prompts(tmp_path / "annotations.zip", tmp_path / "out")
    assert (len(drawn), len(validation)) == (12, 360)


# An address on this machine

CONTENT = np.random.default_rng(0).bytes(3_000_000)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server(CONTENT) as serving:
        digest = "md5:" + hashlib.md5(CONTENT).hexdigest()
        monkeypatch.setattr(downloads, "KNOWN", {serving.url: digest, serving.url + "x": digest})
        yield serving


def whole(path: Path) -> bool:
    return path.read_bytes() == CONTENT and not list(path.parent.glob("*.part"))


def test_a_download_is_whole(server, tmp_path, capsys):
    command("download", "--url", server.url, "--output", tmp_path / "new" / "file.bin", family=None)
    assert whole(tmp_path / "new" / "file.bin")
    assert "file.bin (MiB): 2/2 (100%)" in capsys.readouterr().err


@pytest.mark.parametrize("ranges", [True, False])
def test_an_interrupted_download_goes_on(server, tmp_path, ranges):
    server.breaks_after, server.ranges = 2_000_000, ranges
    with pytest.raises(UserError, match=r"key: http://127.0.0.1.*can't be downloaded \(.*Error\); run again to go on"):
        downloads.fetch(server.url, tmp_path / "file.bin", "key")
    assert not (tmp_path / "file.bin").exists()
    had = (tmp_path / "file.bin.part").stat().st_size
    assert 0 < had <= 2_000_000
    downloads.fetch(server.url, tmp_path / "file.bin", "key")
    assert whole(tmp_path / "file.bin")
    assert server.asked == [None, f"bytes={had}-"]


def test_two_at_once_fetch_it_once(server, tmp_path, capsys):
    server.seconds = 1
    file = tmp_path / "file.bin"
    both = [threading.Thread(target=downloads.fetch, args=(server.url, file, "key")) for _ in range(2)]
    for each in both:
        each.start()
    for each in both:
        each.join()
    assert whole(file)
    assert server.asked == [None]
    assert f"{file}.part: another process is at it; waiting" in capsys.readouterr().out


def test_one_that_waited_goes_on_where_the_other_broke_off(server, tmp_path):
    server.seconds, server.breaks_after = 1, 2_000_000
    file = tmp_path / "file.bin"
    with concurrent.futures.ThreadPoolExecutor() as pool:
        both = [pool.submit(downloads.fetch, server.url, file, "key") for _ in range(2)]
    assert sorted(type(each.exception()).__name__ for each in both) == ["NoneType", "UserError"]
    assert whole(file)
    assert len(server.asked) == 2
    assert server.asked[1].startswith("bytes=")


def test_nothing_is_left_of_a_download_that_got_nothing(server, tmp_path):
    server.shutdown()
    server.server_close()
    with pytest.raises(UserError, match="can't be downloaded"):
        downloads.fetch(server.url, tmp_path / "file.bin", "key")
    assert list(tmp_path.iterdir()) == []


def test_a_whole_part_is_only_checked(server, tmp_path):
    (tmp_path / "file.bin.part").write_bytes(CONTENT)
    downloads.fetch(server.url, tmp_path / "file.bin", "key")
    assert whole(tmp_path / "file.bin")


def test_a_wrong_checksum_is_named_and_nothing_is_left(server, tmp_path):
    (tmp_path / "file.bin.part").write_bytes(b"something else")
    with pytest.raises(UserError) as error:
        downloads.fetch(server.url, tmp_path / "file.bin", "key")
    found = hashlib.md5(b"something else" + CONTENT[14:]).hexdigest()
    expected = hashlib.md5(CONTENT).hexdigest()
    assert f"key: {server.url} gave a file whose md5 is {found} and not {expected}; run again" in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_an_address_is_asked_once(server):
    downloads.reachable.cache_clear()
    downloads.reachable(server.url, "models.x.captions")
    with pytest.raises(UserError) as error:
        downloads.reachable(server.url + "x", "models.x.captions")
    assert str(error.value) == (
        f"models.x.captions: {server.url}x can't be reached (HTTP 404); fetch it and give its path"
    )
    server.shutdown()
    server.server_close()
    downloads.reachable(server.url, "models.x.captions")  # still known
    with pytest.raises(UserError, match=r"another: .* can't be reached \(ConnectionError\)"):
        downloads.reachable(server.url, "another")


def test_only_known_addresses_are_fetched(tmp_path, capsys):
    with pytest.raises(SystemExit):
        command("download", "--url", "http://127.0.0.1/x.zip", "--output", tmp_path / "x.zip", family=None)
    assert "--url: http://127.0.0.1/x.zip has no known checksum; choose one of http" in capsys.readouterr().err


def test_what_is_known_of_inception_is_one_thing():
    from agd import features

    assert downloads.KNOWN[downloads.INCEPTION] == f"sha256:{features.INCEPTION_SHA256}"
    assert all(re.fullmatch(r"md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}", digest) for digest in downloads.KNOWN.values())


# The rules


def snakemake(folder: Path, model: dict, *words: str) -> subprocess.CompletedProcess:
    """Plan or run a study whose model `tiny` has the settings of digits-sd and these."""
    section = config.shipped()["models"]["digits-sd"] | model
    (folder / "study.yaml").write_text(yaml.safe_dump({"models": {"tiny": section}}))
    options = ["--snakefile", ROOT / "Snakefile", "--directory", folder, "--configfile", folder / "study.yaml"]
    line = [sys.executable, "-m", "snakemake", *words, *options]
    return subprocess.run(list(map(str, line)), capture_output=True, text=True)


COCO = "http://images.cocodataset.org/annotations/annotations_trainval2017.zip"


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"captions": None}, "models.tiny.captions: not set; give COCO's annotations_trainval2017.zip, or a folder"),
        ({"captions": "no.zip"}, "models.tiny.captions: no.zip is not there; give COCO's"),
        ({"captions": COCO}, f"models.tiny.captions: {COCO} can't be reached (ProxyError); fetch it and give its path"),
    ],
)
def test_missing_captions_stop_before_any_job(model, message, tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # no way out, on any machine
    done = snakemake(tmp_path, model, "-n", "results/tiny/prompts/samples.txt")
    assert done.returncode != 0
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("agd: error: ")]
    assert line.startswith(f"agd: error: {message}")


def test_a_missing_clip_model_stops_before_any_job(tmp_path):
    model = {"calculate_metrics": {"clip_model": "no/clip"}}
    done = snakemake(tmp_path, model, "-n", "results/tiny/seed0/metrics/none/w1/n25.json")
    assert done.returncode != 0
    assert (
        "agd: error: models.tiny.calculate_metrics.clip_model: no/clip is not a folder; check the path" in done.stderr
    )


def test_fetched_files_are_used_without_asking(tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    fetched = tmp_path / "results" / "downloads"
    zipped(write_captions(fetched / "annotations_trainval2017"))
    (fetched / "val2017.zip").write_bytes(b"for the plan only")
    model = {"captions": COCO, "reference": "http://images.cocodataset.org/zips/val2017.zip"}
    model["prepare_prompts"] = {"num_prompts": 12}
    done = snakemake(tmp_path, model, "--cores", "1", "results/tiny/prompts/samples.txt")
    assert done.returncode == 0, done.stderr
    expected = prompts(fetched / "annotations_trainval2017.zip", tmp_path / "by-hand")
    written = tmp_path / "results" / "tiny" / "prompts"
    assert (written / "trajectories.txt").read_text().splitlines() == expected[0]
    assert (written / "samples.txt").read_text().splitlines() == expected[1]
    planned = snakemake(tmp_path, model, "-n", "-p", "results/tiny/reference.npz")
    assert "--reference results/downloads/val2017.zip" in planned.stdout + planned.stderr


# CLIP score

LONGEST, SIDE = 40, 12


def letters() -> CLIPTokenizer:
    """A tokenizer of CLIP's kind that knows single letters only."""
    pieces = [letter + end for end in ("", "</w>") for letter in string.ascii_lowercase]
    vocabulary = {piece: i for i, piece in enumerate([*pieces, "<|startoftext|>", "<|endoftext|>"])}
    return CLIPTokenizer(vocabulary, [], model_max_length=LONGEST)


def save_clip(folder: Path) -> str:
    """A CLIP model with random weights, and its processor, as a folder."""
    read_by = letters()
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = {
        "bos_token_id": read_by.bos_token_id,
        "eos_token_id": read_by.eos_token_id,
        "pad_token_id": read_by.pad_token_id,
    }
    text = small | ids | {"vocab_size": len(read_by), "max_position_embeddings": LONGEST}
    vision = small | {"image_size": SIDE, "patch_size": 4}
    torch.manual_seed(1)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(folder)
    pictures = CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    CLIPProcessor(pictures, read_by).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> str:
    return save_clip(tmp_path_factory.mktemp("clip"))


def pictures(number: int) -> list[Image.Image]:
    colours = np.random.default_rng(1).integers(0, 256, (number, 1, 1, 3), dtype=np.uint8)
    return [Image.fromarray(value) for value in np.tile(colours, (1, SIDE, SIDE, 1))]


def cosine(clip: str, image: Image.Image, prompt: str) -> float:
    """By hand: one pair, no padding, no library beyond the two encoders."""
    model, read_by = CLIPModel.from_pretrained(clip).eval(), letters()
    words = read_by(prompt, verbose=False).input_ids
    words = words if len(words) <= LONGEST else [*words[: LONGEST - 1], words[-1]]
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
            cost = {"images": 5, "evaluations": 10, "seconds": 1, "files": vouch(tmp_path, [f"{first}.zip"])}
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
