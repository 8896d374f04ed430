"""Reads and writes images: sealed zips of PNG files, external folders and zips, and grids to look at."""

import io
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from agd.artifacts.files import files_below, writing
from agd.artifacts.sealed_json import json_bytes, parse_json
from agd.artifacts.zips import check_if_sealed, open_zip, read_entry, write_zip
from agd.runtime.errors import UserError, errors_say, one_line
from agd.runtime.threads import ahead

_MANIFEST = "manifest.json"
_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP")  # for any file name: Pillow runs other programs to read some other formats


def write_images(path: str | Path, images_BCHW: np.ndarray, names: Sequence[str], manifest: dict) -> None:
    """Write uint8 images (B, 1 or 3, H, W) as PNG files into a sealed zip, with a manifest.

    Equal images, equal bytes.
    """
    with ThreadPoolExecutor() as pool:  # Pillow lets other threads run while it encodes
        entries = list(zip([f"{name}.png" for name in names], pool.map(_png, images_BCHW), strict=True))
    write_zip(path, [*entries, (_MANIFEST, json_bytes(manifest))])


def _png(image_CHW: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    to_pil(image_CHW).save(buffer, "PNG", compress_level=1)  # faster by 1.4 to 3.5 times, a tenth larger
    return buffer.getvalue()


def to_pil(image_CHW: np.ndarray) -> Image.Image:
    """Convert uint8 (1 or 3, H, W) to a grey or RGB picture."""
    return Image.fromarray(image_CHW[0] if image_CHW.shape[0] == 1 else image_CHW.transpose(1, 2, 0))


def read_images(path: str | Path) -> tuple[dict[str, Image.Image], dict]:
    """Read a sealed zip: images by name, and the manifest. Raises UserError, naming the file, if it is damaged."""
    with open_zip(path) as archive:
        names = [name for name in archive.namelist() if name != _MANIFEST]
        if _MANIFEST not in archive.namelist():
            raise UserError(f"{path}: not a file of samples (it has no {_MANIFEST}); give what `sample` wrote")
        try:
            manifest = parse_json(archive.read(_MANIFEST))
        except ValueError:
            raise UserError(f"{path}: its {_MANIFEST} is no record; give what `sample` wrote") from None
        files = ((archive.read(name), f"{path}/{name}") for name in names)
        return dict(zip(names, ahead(lambda file: open_image(*file), files), strict=True)), manifest


def list_images(source: str | Path) -> list[str]:
    """List the names of the images in a folder (including subfolders) or zip, sorted. Leaves out hidden ones, and what macOS
    adds to its zips. Raises UserError if there are none, or if it is a sealed zip that is damaged."""
    source = Path(source)
    if source.is_dir():
        names = [str(file.relative_to(source)) for file in files_below(source)]
    elif source.is_file() and zipfile.is_zipfile(source):
        check_if_sealed(source)
        with _external(source) as archive:
            names = archive.namelist()
    elif source.exists():
        raise UserError(f"{source}: neither a folder nor a zip of images; check the path")
    else:
        raise UserError(f"{source}: no such folder or file of images; check the path")
    names = [name for name in names if Path(name).suffix.lower() in _SUFFIXES and not _is_hidden(name)]
    if not names:
        raise UserError(f"{source}: holds no images ({', '.join(sorted(_SUFFIXES))}); check the path")
    return sorted(names)


def _is_hidden(name: str) -> bool:
    return any(part.startswith((".", "__MACOSX")) and part != ".." for part in Path(name).parts)


def iterate_images(source: str | Path, names: Sequence[str]) -> Iterator[Image.Image]:
    """Yield the named images of a folder or zip. Raises UserError, naming the image, if one can't be read."""
    source = Path(source)
    if source.is_dir():
        yield from ahead(lambda name: open_image((source / name).read_bytes(), str(source / name)), names)
        return
    with _external(source) as archive:
        files = ((_entry(archive, name), f"{source}/{name}") for name in names)
        yield from ahead(lambda file: open_image(*file), files)


def _external(source: Path) -> zipfile.ZipFile:
    with errors_say(str(source), lambda error: f"{source}: a damaged zip ({one_line(error)}); replace it"):
        return zipfile.ZipFile(source)


def _entry(archive: zipfile.ZipFile, name: str) -> bytes:
    where = f"{archive.filename}/{name}"
    with errors_say(where, lambda _: f"{where}: damaged; replace the file"):
        return read_entry(archive, name)


def open_image(data: bytes, name: str) -> Image.Image:
    """Decode an image file's bytes to a grey or RGB picture. Raises UserError, naming the image, if it is damaged, of
    another format, or larger than Pillow's limit."""
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
        image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise UserError(f"{name}: not an image that can be read; replace or delete it") from None
    if image.mode in ("I", "I;16"):  # a grey PNG of 16 bits; Pillow's own conversion would clip it to white
        return Image.fromarray((np.asarray(image, dtype=np.float32) / 257).round().astype(np.uint8))
    return image if image.mode in ("L", "RGB") else image.convert("RGB")


def centre_crop(image: Image.Image, size: int) -> Image.Image:
    """Crop the largest square at the centre, at size x size pixels. 0: return the picture as it is.

    As for ADM (Dhariwal and Nichol, arXiv 2105.05233): halve by box filters while the shorter side is at least twice the
    size, resize it bicubically to the size, then crop.
    """
    if not size or image.size == (size, size):
        return image
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


def write_grid(
    path: str | Path, rows: Sequence[Sequence[Image.Image]], labels: Sequence[str] = (), least: int = 64
) -> None:
    """Write a picture with rows of equally large images, each row labelled on its left. Small images are enlarged to at
    least `least` pixels by whole factors, so that single pixels stay visible."""
    from PIL import ImageDraw, ImageFont

    width, height = rows[0][0].size
    factor = max(1, -(-least // min(width, height)))
    cell_w, cell_h, gap = width * factor, height * factor, 4
    font = ImageFont.load_default(size=max(12, cell_h // 4))
    margin = max((int(font.getlength(label)) + 4 * gap for label in labels), default=0)
    columns = max(len(row) for row in rows)
    sheet = Image.new("RGB", (margin + columns * (cell_w + gap) + gap, len(rows) * (cell_h + gap) + gap), "white")
    draw = ImageDraw.Draw(sheet)
    for r, row in enumerate(rows):
        top = gap + r * (cell_h + gap)
        if labels:
            draw.text((2 * gap, top + cell_h // 2), labels[r], fill="black", anchor="lm", font=font)
        for c, image in enumerate(row):
            enlarged = image.resize((cell_w, cell_h), Image.Resampling.NEAREST)
            sheet.paste(enlarged.convert("RGB"), (margin + gap + c * (cell_w + gap), top))
    with writing(path) as aside:
        sheet.save(aside, "PNG")
