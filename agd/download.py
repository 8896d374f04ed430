"""Stage `download`: fetch one of the files that agd/downloads.py knows, and check it.

`python -m agd.download --url URL --output FILE`
"""

import dataclasses

from agd import downloads
from agd.cli import door
from agd.errors import UserError

STAGE = "download"


@dataclasses.dataclass(frozen=True)
class Settings:
    """There is nothing to set."""


def run(files, settings: Settings) -> None:
    """Write the file; an interrupted download goes on where it stopped."""
    if files.url not in downloads.KNOWN:
        raise UserError(f"--url: {files.url} has no known checksum; choose one of {', '.join(downloads.KNOWN)}")
    downloads.fetch(files.url, files.output, "--url")


main = door(STAGE)

if __name__ == "__main__":
    main()
