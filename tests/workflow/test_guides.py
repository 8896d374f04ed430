"""Samples that follow a ControlNet too: a method with a guide, from the configuration to a table and its grid."""

import copy
import shutil

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from PIL import Image
from studies import planned_jobs, snakemake, two_models, write

from agd import verify
from agd.artifacts.images import read_images
from agd.artifacts.sealed_json import read_sealed
from agd.verify import wanted

ALL = ("results/tables/small/all",)
SAMPLES = "results/text/seed0/samples/{}/000000.zip"


def configuration(methods=("cfg", "cfg+sketch", "agd+sketch"), **guide) -> dict:
    sketch = {"controlnet": "control", "controlnet_image": "sketch.png"} | guide
    table = {"title": "Follows", "columns": ["fid", "nfe", "parameters"], "grid": {"columns": 4}}
    table["runs"] = [{"model": "text", "methods": list(methods), "steps": [3]}]
    models = two_models(text__guides={"sketch": sketch}, text__methods={"half": {"guided_share": 0.5}})
    return {**models, "tables": {"small": {"main": table}}}


@pytest.fixture(scope="module")
def followed(finished):
    """The study of the tiny models, with a table of images that follow a ControlNet."""
    torch.manual_seed(9)
    network = ControlNetModel.from_unet(
        UNet2DConditionModel.from_pretrained(finished / "base" / "unet"), conditioning_embedding_out_channels=(4, 8)
    )
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    network.save_pretrained(finished / "control")
    Image.new("RGB", (20, 20), (200, 0, 0)).save(finished / "sketch.png")
    snakemake(finished, "--cores", "2", "--configfile", write(finished, configuration()), targets=ALL)
    return finished


def pictures(folder, run: str) -> np.ndarray:
    images, _ = read_images(folder / SAMPLES.format(run))
    return np.stack([np.asarray(image, int) for image in images.values()])


def test_each_method_follows_the_guide(followed):
    record = read_sealed(followed / "results/tables/small/main.json")
    values = [{name: value["mean"] for name, value in row["values"].items()} for row in record["rows"]]
    assert [row["nfe"] for row in values] == [6, 6, 3]
    assert [row["parameters"] is None for row in values] == [True, True, False]
    for method in ("cfg", "agd"):
        free, led = (pictures(followed, f"{name}/w1.5/n3") for name in (method, f"{method}+sketch"))
        assert np.abs(free - led).max() > 2
    with Image.open(followed / "results/tables/small/main-grid.png") as picture:
        assert picture.height > 3 * 32
    assert verify.bad(followed / "results")[1] == {}
    assert planned_jobs(followed, configuration(), ALL) == []


def test_another_picture_makes_what_follows_it_again(followed):
    Image.new("RGB", (20, 20), (0, 90, 0)).save(followed / "other.png")
    jobs = planned_jobs(followed, configuration(controlnet_image="other.png"), ALL)
    assert {rule for rule, _ in jobs} == {"sample", "calculate_metrics", "tabulate_runs", "draw_grid", "index_tables"}
    assert len([rule for rule, _ in jobs if rule == "sample"]) == 4  # two methods of two chunks each: not those of cfg


def test_every_method_may_have_a_guide(followed):
    jobs = planned_jobs(followed, configuration(["none+sketch", "half+sketch"]), ALL)
    assert {rule for rule, _ in jobs} == {"sample", "calculate_metrics", "tabulate_runs", "draw_grid", "index_tables"}
    assert {(found["method"], found["scale"]) for rule, found in jobs if rule == "sample"} == {
        ("none+sketch", "1"),
        ("half+sketch", "1.5"),
    }


def test_exchanged_samples_are_seen(followed):
    there, other = (followed / "results/text/seed0/samples" / name / "w1.5/n3" for name in ("cfg", "cfg+sketch"))
    kept = shutil.move(there, followed / "kept")
    shutil.copytree(other, there)
    lines = verify.bad(followed / "results")[1]
    shutil.rmtree(there)
    shutil.move(kept, there)
    assert "made with a ControlNet or an IP-Adapter, unlike its path" in lines[str(there / "000000.zip")]


def test_samples_of_another_guide_are_seen(followed):
    there = followed / "results/text/seed0/samples/cfg+other"
    shutil.copytree(there.with_name("cfg+sketch"), there)
    lines = verify.bad(followed / "results")[1]
    shutil.rmtree(there)
    assert "made without the guide 'other', unlike its path" in lines[str(there / "w1.5/n3/000000.zip")]


def test_samples_of_another_picture_are_seen(followed, monkeypatch):
    monkeypatch.chdir(followed)
    Image.new("RGB", (20, 20), (0, 90, 0)).save(followed / "other.png")
    lines = verify.bad(
        followed / "results", wanted.of_files([write(followed, configuration(controlnet_image="other.png"))])
    )[1]
    path = str(followed / SAMPLES.format("agd+sketch/w1.5/n3"))
    assert "made with another controlnet_image than other.png" in lines[path]
    lines = verify.bad(followed / "results", wanted.of_files([write(followed, configuration(controlnet="none"))]))[1]
    assert "can't be compared with its controlnet, none, which is not there" in lines[path]


def test_samples_are_compared_with_the_configurations_guides(followed, monkeypatch):
    monkeypatch.chdir(followed)
    asked = wanted.of_files([write(followed, configuration())])
    assert verify.bad(followed / "results", asked)[1] == {}
    asked["models"]["text"]["guides"] = {"other": asked["models"]["text"]["guides"]["sketch"]}
    lines = verify.bad(followed / "results", asked)[1]
    path = str(followed / SAMPLES.format("agd+sketch/w1.5/n3"))
    assert "the guide 'sketch' is not in the configuration" in lines[path]


SKETCH = "models.text.guides.sketch"
WRONG = [
    (lambda text, _: text["guides"]["sketch"].pop("controlnet_image"), ALL, f"{SKETCH}.controlnet_image: missing; "),
    (lambda text, _: text["guides"]["sketch"].pop("controlnet"), ALL, f"{SKETCH}.controlnet_image: given without "),
    (lambda text, _: text["guides"]["sketch"].update(control="x"), ALL, f"{SKETCH}.control: "),
    (lambda text, _: text["guides"]["sketch"].update(controlnet="none"), ALL, f"{SKETCH}.controlnet: none is not there; "),
    (lambda text, _: text["guides"]["sketch"].update(controlnet="base"), ALL, f"{SKETCH}.controlnet: base: holds no weights"),
    (lambda text, _: text["guides"]["sketch"].update(controlnet="base/unet"), ALL, f"{SKETCH}.controlnet: base/unet holds UNet2D"),
    (lambda text, _: text["guides"]["sketch"].update(controlnet_image="base"), ALL, f"{SKETCH}.controlnet_image: base is not a picture"),
    (lambda text, _: text.pop("guides"), ALL, "models.text.guides: 'sketch' of 'cfg+sketch' is not there; add it"),
    (lambda text, tiny: tiny.update(guides=text["guides"]), ALL, "models.tiny.guides: not for models of the family dit; leave it out"),
    (lambda *_: None, ("results/text/seed0/fidelity/agd+sketch.json",), "fidelity/agd+sketch.json: fidelity is measured without guides"),
    (lambda *_: None, (SAMPLES.format("agd+line/w1.5/n3"),), "models.text.guides: 'line' of 'agd+line' is not there; add it ("),
]  # fmt: skip


@pytest.mark.parametrize(("change", "targets", "line"), WRONG)
def test_a_wrong_guide_ends_before_any_job(followed, tmp_path, change, targets, line):
    asked = copy.deepcopy(configuration())
    change(asked["models"]["text"], asked["models"]["tiny"])
    done = snakemake(followed, "--configfile", write(tmp_path, asked), "-n", targets=targets, check=False)
    assert done.returncode != 0
    (said,) = [said for said in done.stderr.splitlines() if "rror" in said]
    assert said.startswith(f"agd: error: {line}")
