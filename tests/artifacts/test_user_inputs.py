"""Files that users bring: pictures, prompts, folders with links, and what must not be read in part or otherwise than meant."""

import os
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from agd.artifacts import prompts
from agd.artifacts.files import all_below, can_write, files_below
from agd.artifacts.images import iterate_images, list_images, open_image, read_images, write_images
from agd.artifacts.user_files import date_as_of_now
from agd.artifacts.zips import write_zip
from agd.diffusion.sampling import eight_bits
from agd.runtime.errors import UserError


def picture(path, value: int = 0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 4), value).save(path)


def test_folders_behind_links_are_read_whole(tmp_path):
    picture(tmp_path / "images" / "cat" / "0.png")
    picture(tmp_path / "disk" / "1.png", 7)
    (tmp_path / "images" / "dog").symlink_to(tmp_path / "disk")
    names = list_images(tmp_path / "images")
    assert names == ["cat/0.png", "dog/1.png"]
    assert [image.getpixel((0, 0)) for image in iterate_images(tmp_path / "images", names)] == [0, 7]


def test_links_in_a_circle_end(tmp_path):
    picture(tmp_path / "images" / "0.png")
    (tmp_path / "images" / "again").symlink_to(tmp_path / "images")
    (tmp_path / "images" / "nowhere").symlink_to(tmp_path / "none")
    assert files_below(tmp_path / "images") == [tmp_path / "images" / "0.png"]
    assert len(all_below(tmp_path / "images")) == 3


def test_dates_behind_links_are_mended(tmp_path):
    picture(tmp_path / "disk" / "1.png")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "part").symlink_to(tmp_path / "disk")
    os.utime(tmp_path / "disk" / "1.png", (4e9, 4e9))
    assert date_as_of_now(tmp_path / "results") == [tmp_path / "results" / "part" / "1.png"]


def test_a_zip_of_macos_has_its_pictures_alone(tmp_path):
    picture(tmp_path / "0.png")
    with zipfile.ZipFile(tmp_path / "mac.zip", "w") as archive:
        archive.write(tmp_path / "0.png", "images/0.png")
        archive.writestr("__MACOSX/images/._0.png", b"no picture")
        archive.writestr("images/.hidden.png", b"no picture")
    assert list_images(tmp_path / "mac.zip") == ["images/0.png"]


@pytest.mark.parametrize("value", [0, 255, 256, 32768, 65535])
def test_grey_pictures_of_sixteen_bits_keep_their_grey(value, tmp_path):
    Image.fromarray(np.full((4, 4), value, dtype=np.uint16)).save(tmp_path / "deep.png")
    image = open_image((tmp_path / "deep.png").read_bytes(), "deep.png")
    assert image.mode == "L"
    assert abs(image.getpixel((0, 0)) - value / 257) <= 0.5


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_image_that_overflowed_is_refused(value):
    decoded = torch.zeros(2, 1, 4, 4)
    assert eight_bits(decoded).unique().tolist() == [128]
    decoded[1, 0, 2, 2] = value
    with pytest.raises(UserError, match="dtype: an image has values that are not finite; use bfloat16 or float32"):
        eight_bits(decoded)


def test_prompts_are_lines_and_nothing_else(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_bytes("\ufeffa cat\r\na\u2028dog\x85and\x0cmore\n\u200b\n\n  a bird  \n".encode())
    assert prompts.read_file(str(file)) == ["a cat", "a\u2028dog\x85and\x0cmore", "a bird"]


def test_a_device_is_not_replaced():
    with pytest.raises(UserError, match="/dev/null: no ordinary file, and would be replaced by one"):
        can_write("/dev/null")


@pytest.mark.parametrize("sealed", [False, True])
def test_a_zip_that_is_damaged_anywhere_is_read_right_or_refused(tmp_path, sealed):
    file = tmp_path / "images.zip"
    if sealed:
        write_images(file, np.zeros((2, 1, 4, 4), np.uint8), ["a", "b"], {})
    else:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in ("a.png", "b.png"):
                Image.new("L", (4, 4)).save(tmp_path / name)
                archive.write(tmp_path / name, name)
    whole, refused = file.read_bytes(), 0
    for at in range(len(whole)):
        for damaged in (whole[:at] + b"\0" + whole[at:], whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :]):
            file.write_bytes(damaged)
            try:
                pictures = list(iterate_images(file, list_images(file)))
            except UserError:
                refused += 1
            else:
                assert not sealed or len(pictures) == 2
    assert refused > len(whole) / 2


def test_samples_without_a_record_are_refused(tmp_path):
    write_zip(tmp_path / "s.zip", [("manifest.json", b"[" * 100_000)])
    with pytest.raises(UserError, match=r"its manifest.json is no record; give what `sample` wrote"):
        read_images(tmp_path / "s.zip")
