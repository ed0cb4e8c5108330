"""How a picture was made: kept in its metadata, and told by the command that makes it again."""

import dataclasses
import os
import re
from collections.abc import Sequence
from pathlib import Path

from nstlib import UserError, __version__, images
from nstlib.settings import Settings, shortest

# What was among the settings in 1.0.0, though no picture depends on it.
OUTPUTS = {"save_every", "timelapse", "plot"}
LOSSES = ("total", "content", "style", "tv")


def metadata(
    sources: Sequence[str | Path],
    path: str | Path,
    settings: Settings,
    losses: dict[str, float],
    iterations: int,
    depth: int = 8,
) -> dict:
    """How a picture was made, as `images.save` takes it.

    sources: the content and the styles; path: of the picture; losses: the weighted losses of the
    picture by name; iterations: how many there were; depth: bits a channel.
    """
    content, *styles = [str(source) for source in sources] or [""]
    return {
        "version": __version__,
        "content": content,
        "style": styles,
        "result": str(path),
        "settings": dataclasses.asdict(settings),
        "losses": losses,
        "iterations": iterations,
        "depth": depth,
    }


def read(path: str | Path) -> tuple[list[str], str]:
    """The arguments of the command that made a picture, and how that went, in a line.

    A picture may come from anyone: the command writes to the picture itself alone, whatever its
    metadata name. Raises UserError for a picture that does not tell, or was made with options
    unknown here.
    """
    found = images.read_metadata(path)
    if not found:
        raise UserError(f"{path} does not tell how it was made: no result of nst, or edited")
    version = str(found.get("version"))
    if not re.fullmatch(r"[\w.+-]{1,30}", version, re.ASCII):
        version = "of another version"
    try:
        chosen = found["settings"].items()
        settings = Settings(**{name: value for name, value in chosen if name not in OUTPUTS})
        argv = command(settings, found["content"], found["style"], str(path))
        if found.get("depth", 8) != 8:
            argv += ["--depth", f"{found['depth']:d}"]
        if any(b"\0" in os.fsencode(argument) for argument in argv):
            raise ValueError("no name of a file")
        losses = "".join(f", {x} {found['losses'][x]:.3e}" for x in LOSSES if x in found["losses"])
        iterations = f"{found['iterations']:d} of {settings.num_iter}"
    except Exception as error:  # anything may be wrong with what anyone may have written
        cause = "it was edited" if version == __version__ else f"show it with nst {version}"
        raise UserError(
            f"{path} was made with options that nst {__version__} does not know; {cause}"
        ) from error
    return argv, (
        f"made by nst {version}, network {settings.network}, {iterations} iterations{losses}"
    )


def command(settings, content: str, styles: Sequence[str], result: str) -> list[str]:
    """The arguments that `cli.Parser.add_fields` makes these settings of.

    Left out are those at their default, and those that `settings.resolved()` would fill in alike.
    """
    argv = []

    def add(flag, *values):
        values = [shortest(value) for value in values]
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
            add(f"--{field.name}", ",".join(map(shortest, value)))
    return argv
