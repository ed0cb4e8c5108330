"""What a command line needs: options from the fields of Settings, plain errors, the command that
made a picture, and interrupts that lose nothing."""

import argparse
import contextlib
import dataclasses
import logging
import re
import shlex
import signal
import sys
from collections.abc import Sequence

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from nstlib import UserError, __version__, images
from nstlib.settings import LIMITS

log = logging.getLogger("nst")

BAR = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"


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


def command(settings, content: str, styles: Sequence[str], result: str) -> list[str]:
    """The arguments that `Parser.add_fields` makes these settings of.

    Left out are those at their default, and those that `settings.resolved()` would fill in alike.
    """
    argv = []

    def add(flag, *values):
        values = [str(value).removesuffix(".0") for value in values]
        if values[0].startswith("-"):  # or it would be taken for an option
            flag, values = f"{flag}={values[0]}", values[1:]
        argv.extend([flag, *values])

    add("-c", content)
    for style in styles:
        add("-s", style)
    add("-r", result)
    for field in dataclasses.fields(settings):
        # What suits the machine is another's on another machine.
        if field.default in (None, "auto") and field.name != "precision":
            unset = dataclasses.replace(settings, **{field.name: field.default})
            if unset.resolved() == settings.resolved():
                settings = unset
        value = getattr(settings, field.name)
        if value == field.default:
            continue
        if not isinstance(value, list | tuple):
            add(f"--{field.name}", value)
        elif field.metadata.get("action") == "append":
            for item in value:
                add(f"--{field.name}", item)
        elif "nargs" in field.metadata:
            add(f"--{field.name}", *value)
        else:
            add(f"--{field.name}", ",".join(str(item).removesuffix(".0") for item in value))
    return argv


@contextlib.contextmanager
def progress(num_iter: int, print_every: int):
    """A function that shows each nst.Step, by a bar on a terminal or by lines in the log."""
    verbose = log.isEnabledFor(logging.INFO)
    quiet = verbose or not sys.stderr.isatty()
    with tqdm(total=1.0, disable=quiet, bar_format=BAR) as bar, logging_redirect_tqdm():

        def show(step):
            if step.iteration % print_every == 0 or step.iteration == num_iter:
                parts = "  ".join(f"{name} {value:.3e}" for name, value in step.losses.items())
                log.info("%6d  %s  %.1f s", step.iteration, parts, step.seconds)
            bar.set_description(f"{step.iteration}/{num_iter}", refresh=False)
            bar.set_postfix_str(f"loss {step.losses['total']:.3e}", refresh=False)
            bar.update(step.progress - bar.n)

        yield show


def metadata(content, styles: Sequence, path, result) -> dict:
    """How a picture was made, as `images.save` takes it; result: an nst.Result."""
    return {
        "version": __version__,
        "content": str(content),
        "style": [str(style) for style in styles],
        "result": str(path),
        "settings": dataclasses.asdict(result.settings),
        "losses": result.best,
        "iterations": len(result.losses["total"]) - 1,
    }


class Show(argparse.Action):
    """Prints the command that made a picture on stdout, and on stderr how it went; then exits."""

    def __init__(self, option_strings, dest, settings: type):
        text = "print the command that made a result, and stop"
        super().__init__(option_strings, argparse.SUPPRESS, metavar="FILE", help=text)
        self.settings = settings

    def __call__(self, parser, namespace, path, option_string=None):
        found = images.read_metadata(path)
        if not found:
            raise UserError(f"{path} does not tell how it was made: no result of nst, or edited")
        try:
            settings = self.settings(**found["settings"])
            argv = command(settings, found["content"], found["style"], found["result"])
            losses = "".join(f", {name} {value:.3e}" for name, value in found["losses"].items())
            version, iterations = found["version"], found["iterations"]
        except (UserError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{path} was made with options that nst {__version__} does not know; "
                f"show it with nst {found.get('version')}"
            ) from error
        with contextlib.suppress(AttributeError):  # names of files may be any bytes
            sys.stdout.reconfigure(errors="surrogateescape")
        print(shlex.join(["python3", "nst.py", *argv]))
        print(
            f"made by nst {version}, network {settings.network}, "
            f"{iterations} of {settings.num_iter} iterations{losses}",
            file=sys.stderr,
        )
        parser.exit()


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
