"""Captions in, prompts out."""

import json
import re
import zipfile

from coco import TRAINING, VALIDATION, coco, prompts, write_captions, zipped
from conftest import command

from agd import prepare_prompts
from agd.digits.data import PHRASINGS, WORDS, captions, digits


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
