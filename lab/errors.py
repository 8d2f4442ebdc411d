"""The one exception that reaches the user as a single line and exit code 2."""


class UserError(Exception):
    """Wrong input. The message is one line: what is wrong, where, and what would be right."""
