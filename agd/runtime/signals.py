"""Handles SIGTERM from schedulers: a stage stops at once, or after its current step if that saves hours of work."""

import contextlib
import signal
from collections.abc import Iterator


class Terminated(BaseException):
    """SIGTERM was received. Not an Exception, so that no code before the entry point handles it as an error."""


@contextlib.contextmanager
def stop_at_once() -> Iterator[None]:
    """Make SIGTERM raise Terminated at once, within the block."""

    def stop(number, frame):
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def stop_when_safe() -> Iterator[list[int]]:
    """Make SIGTERM only append to the yielded list, within the block. The block checks the list where it can stop."""
    asked: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, before)
