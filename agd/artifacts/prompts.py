"""Reads prompts from the command line or a file."""

import unicodedata
from pathlib import Path

from agd.artifacts.sealed_json import check_folder
from agd.runtime.errors import UserError


def read(files) -> list[str]:
    """Return the prompts of `--prompt`, or the lines of `--prompt-file`. Raises UserError if there are none."""
    given = getattr(files, "prompt", None)
    if given and files.prompt_file:
        raise UserError("--prompt: given together with --prompt-file; give one of them")
    found = given or read_file(files.prompt_file)
    if not all(map(_says_something, found)):
        raise UserError("--prompt: '' is empty; say what to depict")
    return found


def _says_something(prompt: str) -> bool:
    """Return whether a prompt has more than spaces and characters that nobody sees, such as U+200B."""
    return any(unicodedata.category(sign)[0] not in "ZC" for sign in prompt)


def read_file(path: str | None) -> list[str]:
    """Read one prompt per line and skip empty lines. Raises UserError, naming the file, if it can't be read, or differs
    from what `prepare_prompts` wrote."""
    if path is None:
        raise UserError("--prompt-file: missing; give a text file with one prompt per line")
    try:
        # Not splitlines, which also splits at characters that a sentence may hold, such as U+2028.
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"--prompt-file: {path} is not a file; give a text file with one prompt per line") from None
    except UnicodeDecodeError as error:
        raise UserError(f"--prompt-file: {path} is not UTF-8 (byte {error.start}); save it as UTF-8") from None
    check_folder(Path(path).parent, Path(path).name)
    found = [line.strip() for line in lines if _says_something(line)]
    if not found:
        raise UserError(f"--prompt-file: {path} holds no prompts; write one per line")
    return found
