"""The one exception that a user's mistake raises."""


class UserError(Exception):
    """A mistake that the user can mend: one line that names the key or file, the value, and what to do."""
