"""What nst.py stands on: networks, losses, images."""

__version__ = "1.1.0.dev0"


class UserError(Exception):
    """Something the user can mend; its message is one plain sentence saying what and how."""


class CannotGoOn(UserError):
    """Ends a run amid its iterations; the best image so far is the result, if there is one."""
