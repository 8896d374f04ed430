"""Shows a progress bar in a terminal, and plain lines, seconds apart, elsewhere."""

import sys
from collections.abc import Iterable

from tqdm import tqdm

_SECONDS_BETWEEN_LINES = 10


class _Lines(tqdm):
    """A tqdm that prints a new line each time instead of redrawing one."""

    def display(self, msg=None, pos=None):
        print(msg or str(self), file=sys.stderr, flush=True)

    def close(self):
        if not self.disable:
            self.disable = True
            self._instances.discard(self)
            self.display()


def progress_bar(iterable: Iterable | None, stage: str, total: int | None = None, initial: int = 0) -> tqdm:
    """Wrap a loop to show its progress. `set_postfix` adds values such as the loss."""
    shape = "{desc}: {n_fmt}/{total_fmt} ({percentage:.0f}%) {elapsed}<{remaining}{postfix}"
    if sys.stderr.isatty():
        return tqdm(iterable, desc=stage, total=total, initial=initial, dynamic_ncols=True)
    return _Lines(
        iterable, desc=stage, total=total, initial=initial, mininterval=_SECONDS_BETWEEN_LINES, bar_format=shape
    )
