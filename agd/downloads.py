"""Files that are known by address and checksum: fetched whole, resumed where they broke off, checked before they get
their name. Imports nothing heavy at the top, for Snakemake reads it at every start."""

import functools
import hashlib
import os
from pathlib import Path

from agd.artifacts import make_folder, room_for
from agd.errors import UserError
from agd.progress import progress

INCEPTION = "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt"
KNOWN = {
    "http://images.cocodataset.org/annotations/annotations_trainval2017.zip": "md5:f4bbac642086de4f52a3fdda2de5fa2c",
    "http://images.cocodataset.org/zips/val2017.zip": "md5:442b8da7639aecaf257c1dceb8ba8c80",
    INCEPTION: "sha256:f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4",
}
_SECONDS_TO_ANSWER = 10
_SECONDS_BETWEEN_BYTES = 60
_MIB = 1 << 20
_RANGE_BEYOND_THE_END = 416


def file_name(url: str) -> str:
    """The last part of an address."""
    return url.rsplit("/", 1)[1]


def fetch(url: str, path: str | Path, key: str) -> None:
    """Download a known file; what an earlier call got of it, `{path}.part`, is kept and continued.

    key: what the user set it with, named in errors. Raises UserError if the file can't be had, or not all of it, or if
    its checksum is another than expected; what was got is then deleted.
    """
    import requests

    path = Path(path)
    make_folder(path.parent)
    part = path.with_name(f"{path.name}.part")
    try:
        with room_for(path):
            _continue(url, part)
    except requests.RequestException as error:
        raise UserError(
            f"{key}: {url} can't be downloaded ({_reason(error)}); run again to go on, or fetch it and give its path"
        ) from None
    kind, expected = KNOWN[url].split(":")
    found = checksum(part, kind)
    if found != expected:
        part.unlink()
        raise UserError(
            f"{key}: {url} gave a file whose {kind} is {found} and not {expected}; run again, or fetch it and give its path"
        )
    os.replace(part, path)


def checksum(path: Path, kind: str) -> str:
    """Hexadecimal checksum of a file, md5 or sha256."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()


def _continue(url: str, part: Path) -> None:
    """Add to a part what is missing; from the start, if the server knows no ranges."""
    import requests

    have = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    timeout = (_SECONDS_TO_ANSWER, _SECONDS_BETWEEN_BYTES)
    with requests.get(url, headers=headers, stream=True, timeout=timeout) as answer:
        if have and answer.status_code == _RANGE_BEYOND_THE_END:
            return  # it was whole already
        answer.raise_for_status()
        resumed = answer.status_code == requests.codes.partial_content
        have = have if resumed else 0
        total = (have + int(answer.headers.get("Content-Length", 0))) // _MIB
        name = f"{file_name(url)} (MiB)"
        with open(part, "ab" if resumed else "wb") as file, progress(None, name, total, have // _MIB) as bar:
            for piece in answer.iter_content(_MIB):
                file.write(piece)
                bar.update(len(piece) // _MIB)
            os.fsync(file.fileno())


@functools.cache
def reachable(url: str, key: str) -> None:
    """Ask once whether an address answers. Raises UserError, naming the key and what to do, if it does not."""
    import requests

    try:
        requests.head(url, allow_redirects=True, timeout=_SECONDS_TO_ANSWER).raise_for_status()
    except requests.RequestException as error:
        raise UserError(f"{key}: {url} can't be reached ({_reason(error)}); fetch it and give its path") from None


def _reason(error) -> str:
    return f"HTTP {error.response.status_code}" if error.response is not None else type(error).__name__
