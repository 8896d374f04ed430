"""Stage `download`: download one of the files in agd/artifacts/downloads.py, and check it.

`python -m agd.download --url URL --output FILE`
"""

import dataclasses

from agd.artifacts import downloads
from agd.runtime.errors import UserError
from agd.settings.entry_points import entry_point

STAGE = "download"


@dataclasses.dataclass(frozen=True)
class Settings:
    """This stage has no settings."""


def run(files, settings: Settings) -> None:
    """Write the file, or continue an interrupted download."""
    if files.url not in downloads.KNOWN:
        raise UserError(f"--url: {files.url} has no known checksum; choose one of {', '.join(downloads.KNOWN)}")
    downloads.fetch(files.url, files.output, "--url")


main = entry_point(STAGE)

if __name__ == "__main__":
    main()
