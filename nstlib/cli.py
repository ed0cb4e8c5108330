"""What a command line needs: options from a dataclass's fields, plain errors, and interrupts that
lose nothing."""

import argparse
import dataclasses
import math
import operator
import re
import signal
from collections.abc import Sequence

from nstlib import UserError

LIMITS = {
    "at_least": operator.ge,
    "above": operator.gt,
    "at_most": operator.le,
    "one_of": lambda value, choices: value in choices,
}


def option(default, help: str, *flags: str, **metadata):
    """A field of a dataclass with what its option of the command line needs.

    metadata: its LIMITS, and arguments of `ArgumentParser.add_argument`.
    """
    return dataclasses.field(default=default, metadata={"flags": flags, "help": help, **metadata})


def check_fields(settings) -> None:
    """Raise UserError unless each field of a dataclass keeps within its LIMITS, or is its default.

    Numbers must be finite.
    """
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if value == field.default:
            continue
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"--{field.name} must be a finite number, not {value}")
        for name, holds in LIMITS.items():
            limit = field.metadata.get(name)
            if limit is not None and not holds(value, limit):
                limit = ", ".join(limit) if name == "one_of" else limit
                wanted = f"{name.replace('_', ' ')} {limit}"
                raise UserError(f"--{field.name} must be {wanted}, not {value}")


def auto_or_number(text: str) -> int | str:
    return text if text == "auto" else int(text)


def numbers(text: str) -> tuple[float, ...]:
    """Of numbers with commas between."""
    return tuple(float(number) for number in text.split(","))


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

        See `option` for the metadata.
        """
        for field in dataclasses.fields(settings):
            argument = {"metavar": field.name.split("_")[-1].upper(), **field.metadata}
            flags = argument.pop("flags")
            for limit in LIMITS:
                argument.pop(limit, None)
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
