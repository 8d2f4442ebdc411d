"""The one exception that reaches the user as a single line and exit code 2."""


class UserError(Exception):
    """Wrong input. The message is one line: what is wrong, where, and what would be right."""


class DiskFull(UserError):
    """There is no space for a file. Whoever goes on after other errors stops here: every further file would fail too."""
