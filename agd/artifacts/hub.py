"""Reports errors of the Hugging Face hub's client in one line."""

import contextlib
from collections.abc import Iterator

from agd.runtime.errors import errors_say


@contextlib.contextmanager
def hub_errors(name: str, advice: str = "") -> Iterator[None]:
    """Convert any error of the hub's client within the block into a UserError.

    name: start of the message, what the user gave. advice: end of the message, what else to do.
    """
    from huggingface_hub.errors import HFValidationError, RevisionNotFoundError

    def line(error: Exception) -> str:
        if isinstance(error, HFValidationError):
            return f"{name} neither a folder here nor a hub id; check the path"
        if isinstance(error, RevisionNotFoundError):
            return f"{name} not on the hub in this revision; check what stands behind the @"
        return (
            f"{name} neither a folder here nor in the hub's local cache, and the hub did not give it "
            f"({type(error).__name__}); give a local folder, or log in and connect{advice}"
        )

    with errors_say(f"{name} not fetched", line):
        yield
