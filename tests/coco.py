"""Captions in COCO's layout, written by hand, and the prompts that are drawn from them."""

import json
import zipfile
from pathlib import Path

from conftest import command

from agd import prepare_prompts


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
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
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
