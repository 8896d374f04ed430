"""What a program prints."""

import sys


def any_encoding() -> None:
    """Print characters that the terminal's encoding lacks as escapes: no word may end a program that has done its work."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
