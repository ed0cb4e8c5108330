"""What a command line needs besides its options: plain errors, and interrupts that lose nothing."""

import argparse
import contextlib
import dataclasses
import re
import signal
from collections.abc import Iterator, Sequence

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


class Terminated(KeyboardInterrupt):
    """SIGTERM: ends a run as Ctrl-C does."""


def exit_status(interrupt: KeyboardInterrupt) -> int:
    """What a shell expects of a program ended by this signal: 128 and the signal's number."""
    return 128 + (signal.SIGTERM if isinstance(interrupt, Terminated) else signal.SIGINT)


@contextlib.contextmanager
def signals(handle) -> Iterator[None]:
    """Handle Ctrl-C and SIGTERM in this way for a while."""
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def interrupt(number: int, _) -> None:
    """A signal handler that raises KeyboardInterrupt, or Terminated; once, to let it save."""
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signal.SIG_IGN)
    raise Terminated if number == signal.SIGTERM else KeyboardInterrupt
