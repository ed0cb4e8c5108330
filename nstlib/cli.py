"""What a command line needs: options from the fields of dataclasses, plain errors, progress, and
interrupts that lose nothing."""

import argparse
import contextlib
import dataclasses
import importlib
import io
import logging
import math
import os
import re
import shlex
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nstlib import UserError, memory, paths, provenance, tf
from nstlib.progress import progress_bar
from nstlib.settings import LIMITS, shortest

log = logging.getLogger("nst")

EXAMPLES = """\
examples:
  %(prog)s -c photo.jpg -s painting.jpg -r out.jpg
  %(prog)s -c photo.jpg -s painting.jpg -r out.jpg --network small -n 100
  %(prog)s -c photos -s paintings -r sheet.jpg   every photograph in every painting's manner
"""


class Parser(argparse.ArgumentParser):
    """Raises UserError instead of exiting; takes hyphens in option names for underscores.

    `action="once"`: an option that may not be given a second time.
    """

    def __init__(self, prog: str):
        super().__init__(
            prog,
            usage="%(prog)s -c CONTENT -s STYLE -r RESULT [option ...]",
            description="Paint a photograph in the manner of a painting.",
            epilog=EXAMPLES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self.register("action", "once", Once)

    def error(self, message):
        raise UserError(f"{message}; -h shows the options")

    def parse_args(self, argv: Sequence[str]) -> argparse.Namespace:
        def underscores(match):
            return "--" + match[0][2:].replace("-", "_")

        return super().parse_args([re.sub("^--[^=]+", underscores, x) for x in argv])

    def group(self, title: str):
        """The group of options under this title, which is added if there is none yet."""
        known = {group.title: group for group in self._action_groups}
        return known.get(title) or self.add_argument_group(title)

    def add_fields(self, settings: type) -> None:
        """An option for each field of a dataclass, by the field's name, default and metadata.

        See `option` for the metadata.
        """
        group: Any = self
        for field in dataclasses.fields(settings):
            argument = {"metavar": field.name.split("_")[-1].upper(), **field.metadata}
            flags = argument.pop("flags")
            if title := argument.pop("group", None):
                group = self.group(title)
            if choices := argument.get("one_of"):
                argument["metavar"] = "{" + ",".join(map(str, choices)) + "}"
            for limit in LIMITS:
                argument.pop(limit, None)
            if field.default is dataclasses.MISSING:
                argument["required"] = True
            else:
                argument["default"] = field.default
                if field.default is not None:
                    argument["help"] += f" [{shortest(field.default)}]"
                    argument.setdefault("type", type(field.default))
            group.add_argument(*flags, f"--{field.name}", **argument)


class Once(argparse.Action):
    def __call__(self, parser, namespace, value, option_string=None):
        if getattr(namespace, self.dest) not in (None, self.default):
            raise UserError(f"{option_string} was given twice: name one file")
        setattr(namespace, self.dest, value)


def chosen(settings: type, args: argparse.Namespace):
    """A dataclass whose fields `Parser.add_fields` made options of, as they were given."""
    return settings(**{x.name: getattr(args, x.name) for x in dataclasses.fields(settings)})


def importable(function: Callable) -> Callable:
    """A function of the script that is run, as other processes can import it by its name.

    There the script is no `__main__`, which is what pickle would name.
    """
    file = getattr(sys.modules["__main__"], "__file__", None)
    if function.__module__ != "__main__" or not file:
        return function
    return getattr(importlib.import_module(Path(file).stem), function.__name__)


@contextlib.contextmanager
def progress(print_every: int):
    """Functions that show each nst.Step, and each nst.Part, by a bar on a terminal and by lines in
    the log."""
    with progress_bar() as bar:
        bar.set_description("tracing")  # which comes before the first step, and takes seconds

        def show(step):
            num_iter = step.settings.num_iter
            if step.iteration % print_every == 0 or step.iteration == num_iter:
                parts = "  ".join(f"{name} {value:.3e}" for name, value in step.losses.items())
                log.info("%6d  %s  %.1f s", step.iteration, parts, step.seconds)
            bar.set_description(f"{step.iteration}/{num_iter}", refresh=False)
            bar.set_postfix_str(f"loss {step.losses['total']:.3e}", refresh=False)
            bar.update(step.progress - bar.n)

        announced = set()  # the scales of which it is said how long the run will take

        def show_part(part):
            bar.set_description(f"{part.iteration}, {part.share:.0%} of its tiles")
            if math.isnan(part.remaining):
                return
            bar.set_postfix_str(f"about {duration(part.remaining)} to go")
            if part.size not in announced:
                announced.add(part.size)
                log.info("%d pixels: about %s to go", part.size, duration(part.remaining))

        yield show, show_part


def duration(seconds: float) -> str:
    """As people say it: 50 seconds, 12 minutes, 2.5 hours."""
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def tile(text: str) -> int | str:
    """What --tile takes."""
    if text == "auto" or text == "0" or (text.isdecimal() and int(text) >= 64):
        return text if text == "auto" else int(text)
    raise UserError(f"--tile must be auto, 0, or at least 64 pixels, not {text}")


class Show(argparse.Action):
    """Prints the command that made a picture on stdout, and on stderr how it went; then exits."""

    def __init__(self, option_strings, dest):
        text = "print the command that made a result, and stop"
        super().__init__(option_strings, argparse.SUPPRESS, metavar="FILE", help=text)

    def __call__(self, parser, namespace, path, option_string=None):
        argv, how_it_went = provenance.read(path)
        if isinstance(sys.stdout, io.TextIOWrapper):  # names of files may be any bytes
            sys.stdout.reconfigure(encoding=sys.getfilesystemencoding(), errors="surrogateescape")
        line = shlex.join([*_called_as(), *argv])
        if sys.stdout.isatty():  # which must not obey what is hidden in the name of a file
            line = "".join(x if x.isprintable() else "?" for x in line)
        try:
            print(line, flush=True)
        except OSError as error:
            raise UserError(f"cannot write to standard output: {paths.why(error)}") from error
        say(how_it_went)
        parser.exit()


def _called_as() -> list[str]:
    """The words by which this program was called, without its arguments."""
    program = Path(sys.argv[0])
    if program.name == "nst.py":
        return sys.orig_argv[: len(sys.orig_argv) - len(sys.argv) + 1]
    if program.stem != "nst":
        return ["python3", "nst.py"]
    found = shutil.which("nst")  # where the shell finds another or none, its whole name
    return ["nst"] if found and paths.is_same(found, program) else [str(program)]


def say(message: str) -> None:
    """Write a line to standard error; where that is full or gone, nobody is listening."""
    with contextlib.suppress(OSError):
        print(message, file=sys.stderr, flush=True)


def say_where(path: str | os.PathLike) -> None:
    """Say where the result is, on a terminal or where -v asks for it."""
    tell = say if sys.stderr.isatty() else log.info
    tell(f"the result is in {path}")


def open_streams() -> None:
    """Stand-ins for standard streams that are closed, so that no file takes their numbers."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode))


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

    @property
    def raised(self) -> bool:
        """Whether one was raised: what comes out may be another error, in which Keras wraps it."""
        return bool(self.signal) and not self.hold

    def __enter__(self) -> "Interrupts":
        numbers = signal.SIGINT, signal.SIGTERM
        self._before = {number: signal.signal(number, self._note) for number in numbers}
        return self

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _) -> None:
        if self.signal and not self.hold:  # the second, and still nothing to lose
            os._exit(self.exit_status)
        self.signal = self.signal or number
        if not self.hold:
            raise KeyboardInterrupt


def answer(work: Callable[[Sequence[str], Interrupts], int], argv: Sequence[str]) -> int:
    """Do what a command line asks for, and return the exit status.

    `work(argv, interrupts)` returns it, or raises a UserError, of which the sentence is shown [2],
    or a KeyboardInterrupt.
    """
    open_streams()
    logging.basicConfig(format="%(message)s")
    os.environ.setdefault("TF_DETERMINISTIC_OPS", "1")  # or a GPU's sums differ from run to run
    tf.own_process = True
    with Interrupts() as interrupts:
        try:
            return work(argv, interrupts)
        except (Exception, KeyboardInterrupt) as error:
            status = 2
            if isinstance(error, KeyboardInterrupt) or interrupts.raised:
                status = interrupts.exit_status
                sentence = "stopped before there was a picture; nothing is saved"
            elif isinstance(error, UserError):
                sentence = str(error)
            elif isinstance(error, MemoryError):
                sentence = memory.LACK
            else:
                raise
            if "--debug" in argv:
                traceback.print_exc()
            say(f"nst: {sentence}")
            return status
