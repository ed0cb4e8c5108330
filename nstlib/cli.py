"""What a command line needs besides its options: plain errors, and interrupts that lose nothing."""

import argparse
import dataclasses
import re
import signal
from collections.abc import Sequence

from nstlib import UserError


class Parser(argparse.ArgumentParser):
    """Raises UserError instead of exiting; takes hyphens in option names for underscores."""

    def error(self, message):
        raise UserError(f"{message}; -h shows the options")

    def parse_args(self, argv: Sequence[str]) -> argparse.Namespace:
        def underscores(match):
            return "--" + match[0][2:].replace("-", "_")

        return super().parse_args([re.sub("^--[^=]+", underscores, x) for x in argv])

    def add_fields(self, settings: type) -> None:
        """An option for each field of a dataclass, by the field's name, default and metadata.

        The metadata holds "flags", "help" and what else `add_argument` is to be told.
        """
        for field in dataclasses.fields(settings):
            argument = {"metavar": field.name.split("_")[-1].upper(), **field.metadata}
            flags = argument.pop("flags")
            if field.default is not None:
                argument["help"] += f" [{field.default}]"
                argument.setdefault("type", type(field.default))
            self.add_argument(*flags, f"--{field.name}", default=field.default, **argument)


class Interrupts:
    """Ctrl-C and SIGTERM, while this context lasts: a KeyboardInterrupt at first; once `hold` is
    set, only noted in `signal`, for the run to end by itself and lose nothing."""

    def __init__(self):
        self.hold = False
        self.signal = 0

    @property
    def exit_status(self) -> int:
        """What a shell expects of a program ended by a signal, or 0."""
        return self.signal and 128 + self.signal

    def __enter__(self) -> "Interrupts":
        numbers = signal.SIGINT, signal.SIGTERM
        self._before = {number: signal.signal(number, self._note) for number in numbers}
        return self

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _) -> None:
        self.signal = self.signal or number
        if not self.hold:
            raise KeyboardInterrupt
