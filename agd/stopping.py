"""How a stage stops when a scheduler sends SIGTERM: at once, or, where a moment later saves hours, after the step."""

import contextlib
import signal
from collections.abc import Iterator


class Terminated(BaseException):
    """SIGTERM came. Not an Exception, so that nothing on the way to the stage's door takes it for an error."""


@contextlib.contextmanager
def at_once() -> Iterator[None]:
    """Within the block, SIGTERM raises Terminated where the work stands."""

    def stop(number, frame):
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def when_asked() -> Iterator[list[int]]:
    """Within the block, SIGTERM only joins the list that is yielded: the block looks into it where stopping is safe."""
    asked: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, before)
