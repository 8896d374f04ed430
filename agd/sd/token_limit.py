"""Reports prompts that are longer than the text encoder's limit."""

import sys
from pathlib import Path

from transformers import CLIPTokenizer

from agd.runtime.errors import errors_say


def say_what_is_cut(found: list[str], tokenizer: Path, name: str) -> None:
    """Print a line if prompts are longer than the model's text encoder allows.

    tokenizer: its folder. name: the user's name of the model.
    """
    problem = f"{tokenizer}: holds no tokenizer that can be read"
    with errors_say(str(tokenizer), lambda error: f"{problem} ({type(error).__name__}); fetch the model again"):
        read_by = CLIPTokenizer.from_pretrained(tokenizer, local_files_only=True)
    most = read_by.model_max_length
    long = [prompt for prompt in found if len(read_by(prompt, verbose=False).input_ids) > most]
    if long:
        print(
            f"agd: {len(long)} of {len(found)} prompts are longer than the {most} tokens that {name} takes; their ends are "
            f"not read. The first: {long[0][:80]!r}",
            file=sys.stderr,
        )
