"""The one exception that a user's mistake raises."""

import re

_LOGIN = re.compile(r"(:/{1,2})[^/@\s]+@")


class UserError(Exception):
    """A mistake that the user can mend: one line that names the key or file, the value, and what to do.

    Fit for a log as it is: a name from outside can neither break the line nor steer the terminal, and the login in an
    address (https://user:password@host) is left out.
    """

    def __str__(self) -> str:
        text = _LOGIN.sub(r"\1...@", super().__str__())
        return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
