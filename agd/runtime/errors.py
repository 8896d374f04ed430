"""The exception for users' mistakes."""

import re

_LOGIN = re.compile(r"(:/{1,2})[^/@\s]+@")


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
