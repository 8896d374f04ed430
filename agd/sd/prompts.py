"""Prompts from the command line or a file."""

import sys
from pathlib import Path

from transformers import CLIPTokenizer

from agd.errors import UserError
from agd.records import check_folder


def read(files) -> list[str]:
    """The prompts that a command line gives: `--prompt`, or the lines of `--prompt-file`. Raises UserError without any."""
    given = getattr(files, "prompt", None)
    if given and files.prompt_file:
        raise UserError("--prompt: given together with --prompt-file; give one of them")
    found = given or read_file(files.prompt_file)
    if not all(prompt.strip() for prompt in found):
        raise UserError("--prompt: '' is empty; say what to depict")
    return found


def read_file(path: str | None) -> list[str]:
    """One prompt per line; empty lines are passed over. Raises UserError that names the file if it is none, or is not
    as `prepare_prompts` wrote it."""
    if path is None:
        raise UserError("--prompt-file: missing; give a text file with one prompt per line")
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"--prompt-file: {path} is not a file; give a text file with one prompt per line") from None
    except UnicodeDecodeError as error:
        raise UserError(f"--prompt-file: {path} is not UTF-8 (byte {error.start}); save it as UTF-8") from None
    check_folder(Path(path).parent, Path(path).name)
    found = [line.strip() for line in lines if line.strip()]
    if not found:
        raise UserError(f"--prompt-file: {path} holds no prompts; write one per line")
    return found


def say_what_is_cut(found: list[str], tokenizer: Path, name: str) -> None:
    """Print a line if prompts are longer than the model's text encoder takes."""
    try:
        read_by = CLIPTokenizer.from_pretrained(tokenizer, local_files_only=True)
    except Exception as error:  # the readers of a tokenizer's files each have words of their own
        problem = f"{tokenizer}: holds no tokenizer that can be read ({type(error).__name__})"
        raise UserError(f"{problem}; fetch the model again") from None
    most = read_by.model_max_length
    long = [prompt for prompt in found if len(read_by(prompt, verbose=False).input_ids) > most]
    if long:
        print(
            f"agd: {len(long)} of {len(found)} prompts are longer than the {most} tokens that {name} takes; their ends are "
            f"not read. The first: {long[0][:80]!r}",
            file=sys.stderr,
        )
