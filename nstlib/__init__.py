"""What nst.py stands on: networks, losses, images."""

__version__ = "1.0.0"


class UserError(Exception):
    """Something the user can mend; its message is one plain sentence saying what and how."""
