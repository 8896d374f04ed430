"""Downloads files with known URLs and checksums. Resumes partial downloads, and checks a file before its final rename.

Imports nothing heavy at the top, because Snakemake reads this module at every start.
"""

import contextlib
import fcntl
import functools
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from agd.artifacts.files import make_folder, room_for
from agd.runtime.errors import UserError
from agd.runtime.progress import progress_bar

INCEPTION = "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt"
KNOWN = {
    "http://images.cocodataset.org/annotations/annotations_trainval2017.zip": "md5:f4bbac642086de4f52a3fdda2de5fa2c",
    "http://images.cocodataset.org/zips/val2017.zip": "md5:442b8da7639aecaf257c1dceb8ba8c80",
    INCEPTION: "sha256:f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4",
}
_MOST = 2 << 30  # bytes; the largest file above has 0.8 GB
_SECONDS_TO_ANSWER = 10
_SECONDS_BETWEEN_BYTES = 60
_MIB = 1 << 20
_RANGE_BEYOND_THE_END = 416


def file_name(url: str) -> str:
    """Return the last part of a URL."""
    return url.rsplit("/", 1)[1]


def fetch(url: str, path: str | Path, key: str) -> None:
    """Download a known file, or only check it if it is there. A partial file, `{path}.part`, is kept and continued.

    If another process is downloading the same file (from a killed Snakemake, for example), this call waits.
    key: the user's setting, named in errors. Raises UserError if the download fails or is incomplete, or if the
    checksum is wrong. A file with a wrong checksum is deleted.
    """
    import requests

    path = Path(path)
    make_folder(path.parent)
    kind, expected = KNOWN[url].split(":")
    with room_for(path), _alone(path.with_name(f"{path.name}.part")) as part:
        if not part.stat().st_size and path.is_file() and checksum(path, kind) == expected:
            part.unlink()  # downloaded earlier, or by the process that this one waited for
            return
        try:
            _continue(url, part)
        except requests.RequestException as error:
            if not part.stat().st_size:
                part.unlink()
            raise UserError(
                f"{key}: {url} can't be downloaded ({_reason(error)}); run again to go on, or fetch it and give its path"
            ) from None
        found = checksum(part, kind)
        if found != expected:
            part.unlink()
            raise UserError(
                f"{key}: {url} gave a file whose {kind} is {found} and not {expected}; run again, or fetch it and give its path"
            )
        os.replace(part, path)


@contextlib.contextmanager
def _alone(part: Path) -> Iterator[Path]:
    """Yield the same path; the file exists and is locked against other processes within the block."""
    while True:
        if part.is_symlink():  # whoever may write here could have any file of this user overwritten
            raise UserError(f"{part}: is a link; delete it")
        with open(part, "ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"{part}: another process is at it; waiting", flush=True)
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError:
                pass  # some clusters' file systems have no locks
            # During the wait, the other process may have renamed or deleted the file.
            if part.exists() and os.path.samestat(part.stat(), os.fstat(file.fileno())):
                yield part
                return


def checksum(path: Path, kind: str) -> str:
    """Return the hexadecimal checksum of a file, md5 or sha256."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()


def _continue(url: str, part: Path) -> None:
    """Download the rest of a partial file, or all of it if the server does not support ranges."""
    import requests

    have = part.stat().st_size
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    timeout = (_SECONDS_TO_ANSWER, _SECONDS_BETWEEN_BYTES)
    with requests.get(url, headers=headers, stream=True, timeout=timeout, auth=_no_login) as answer:
        if have and answer.status_code == _RANGE_BEYOND_THE_END:
            return  # the file was complete already
        answer.raise_for_status()
        resumed = answer.status_code == requests.codes.partial_content
        have = have if resumed else 0
        total = (have + int(answer.headers.get("Content-Length", 0))) // _MIB
        name = f"{file_name(url)} (MiB)"
        with open(part, "ab" if resumed else "wb") as file, progress_bar(None, name, total, have // _MIB) as bar:
            for piece in answer.iter_content(_MIB):
                if file.tell() > _MOST:
                    raise requests.RequestException("more than any file that is known")
                file.write(piece)
                bar.update(len(piece) // _MIB)
            os.fsync(file.fileno())


def _no_login(request):
    """Leave a request as it is. Without this, a login in ~/.netrc would go out, in the open over http."""
    return request


@functools.cache
def reachable(url: str, key: str) -> None:
    """Check once that a URL answers. Raises UserError, naming the key and what to do, if it does not."""
    import requests

    try:
        requests.head(url, allow_redirects=True, timeout=_SECONDS_TO_ANSWER, auth=_no_login).raise_for_status()
    except requests.RequestException as error:
        raise UserError(f"{key}: {url} can't be reached ({_reason(error)}); fetch it and give its path") from None


def _reason(error) -> str:
    return f"HTTP {error.response.status_code}" if error.response is not None else type(error).__name__
