"""The exception for users' mistakes, and the conversion of other libraries' errors to it."""

import contextlib
import errno
import os
import re
from collections.abc import Callable, Iterator

_LOGIN = re.compile(r"(:/{1,2})[^/@\s]+@")
_LIMITS = (errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)


def one_line(error: BaseException, longest: int = 200) -> str:
    """Return another library's error message on one line of at most `longest` characters."""
    return " ".join(str(error).split())[:longest]


class UserError(Exception):
    """A mistake that the user can correct. The message is one line: key or file, value, and what to do.

    The text is safe for logs. External names can't break the line or control the terminal, and the login in a URL
    (https://user:password@host) is removed.
    """

    def __str__(self) -> str:
        text = _LOGIN.sub(r"\1...@", super().__str__())
        return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


class MachineLimit(UserError):
    """The machine ran out of memory, disk or open files. It says nothing of the file that was being read."""


def machine_limit(error: BaseException) -> str | None:
    """Return what this machine ran out of, if that is why the error was raised: memory, disk, or open files."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "CPUAllocator" in str(error):
        return "not enough memory"
    number = error.errno if isinstance(error, OSError) else None
    return os.strerror(number) if number in _LIMITS else None


@contextlib.contextmanager
def errors_say(what: str, line: Callable[[Exception], str]) -> Iterator[None]:
    """Convert any error of a library within the block into a UserError, or MachineLimit. A UserError passes.

    For files and services of others: there is no end of what libraries raise for them. what: start of the message if
    the machine's memory, disk or open files ran out. line: gives the message for all other errors.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if limit := machine_limit(error):
            raise MachineLimit(f"{what}: {limit}; free some, or take a larger machine") from None
        raise UserError(line(error)) from None
