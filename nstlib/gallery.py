"""Galleries: every content in every style, each result in a file, and one labelled sheet of all.

The results lie in a folder beside the sheet, each with its settings in its metadata, so that a
second run finds what is done and makes the rest. Cells are painted one after another, or by the
workers of a Dask cluster.
"""

import dataclasses
import functools
import json
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from nstlib import UserError, cli, cluster, fetch, images, paths, provenance
from nstlib.outputs import warn_of_replacing
from nstlib.progress import progress_bar
from nstlib.sheet import sheet, side_by_side

log = logging.getLogger("nst")

# What counts as a picture in a folder.
ENDINGS = {*images.FORMATS, ".avif", ".bmp", ".gif", ".heic", ".heif", ".hif", ".jfif", ".jp2"}
ENDINGS |= {".jpe", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".psd", ".tga"}


@dataclass(frozen=True)
class Cell:
    """One picture of a gallery: what it is made from, and its file."""

    content: Path
    styles: tuple[Path, ...]  # mixed
    path: Path


@dataclass(frozen=True)
class Gallery:
    """Contents and styles by their names on the sheet, and a cell for each pair of names."""

    given: tuple[str, ...]  # content and styles as on the command line
    result: Path
    contents: dict[str, Path]
    styles: dict[str, tuple[Path, ...]]
    cells: dict[tuple[str, str], Cell]


def wanted(content: str, styles: Sequence[str]) -> bool:
    """Whether a folder is among these: then a gallery is to be made of them."""
    return any(map(paths.is_folder, (content, *styles)))


def refuse(settings, *names: str) -> None:
    """Raise UserError if any of these is not at its default: each is for one picture."""
    for field in dataclasses.fields(settings):
        name = field.name
        if name in names and getattr(settings, name) != field.default:
            raise UserError(f"--{name} is for one picture: leave it out, or name files, no folder")


def pictures(path: str | os.PathLike) -> list[Path]:
    """The pictures in a folder by name, those in its own folders and hidden ones left out; or the
    file itself. Raises UserError for a folder without any."""
    path = Path(path)
    if not paths.is_folder(path):
        return [path]
    found = [
        x
        for x in paths.files_in(path)
        if x.suffix.lower() in ENDINGS and not x.name.startswith(".") and not paths.is_folder(x)
    ]
    if not found:
        raise UserError(f"cannot read {path}: there is no picture in this folder")
    return found


def plan(content: str, styles: Sequence[str], result: str, keep: Sequence[str] = ()) -> Gallery:
    """The gallery of these files and folders, checked as far as can be without work.

    One folder of styles makes a column each; several style files are mixed, in one column. Raises
    UserError for what cannot be read or written, or would replace a source, one of the files to
    `keep`, or a file not made by this program.
    """
    contents = pictures(content)
    if len(styles) == 1:
        columns = [(x,) for x in pictures(styles[0])]
    elif folder := next(filter(paths.is_folder, styles), None):
        raise UserError(
            f"cannot read {folder}: a folder cannot be mixed with other styles; name an image in "
            "it, or give it alone"
        )
    else:
        columns = [tuple(map(Path, styles))]
    given = [content, *styles]
    for file in given:
        if fetch.is_address(file):
            raise UserError(f"cannot read {file} for a gallery: save the picture, name its file")
        if not paths.is_folder(file):
            images.image_size(file)
    sources = {*contents, *(style for column in columns for style in column), *keep}
    images.check_result_path(result, sources)
    folder = Path(result).with_suffix("")
    is_there = paths.check_folder(folder)
    for place, source in product((folder, folder.parent), given):
        if paths.is_folder(place) and paths.is_same(place, source):
            raise UserError(
                f"cannot write {result}: the next run would take it or what is in {folder} for a "
                f"picture of {source}; choose another place"
            )
    rows = list(zip(_names(contents), contents, strict=True))
    heads = _names([x for column in columns for x in column])
    if len(styles) > 1:
        heads = ["+".join(heads)]
    columns = list(zip(heads, columns, strict=True))
    cells = {}
    for (row, picture), (column, mixed) in product(rows, columns):
        cells[row, column] = Cell(picture, mixed, folder / f"{row}_{column}.png")
    names = Counter(x.path.name.casefold() for x in cells.values())
    if len(names) < len(rows) * len(columns):
        raise UserError(f"two pictures would both be {names.most_common(1)[0][0]}: rename a source")
    for cell in cells.values():
        if len(os.fsencode(cell.path.name)) > 255:
            raise UserError(f"the file name {cell.path.name} would be too long: rename a source")
        if is_there:
            images.check_result_path(cell.path, sources)
            if images.is_foreign(cell.path):
                raise UserError(
                    f"cannot write {cell.path}: there is such a file, not made by this program; "
                    "move it or choose another name for -r"
                )
    return Gallery(tuple(map(str, given)), Path(result), dict(rows), dict(columns), cells)


def _names(files: Sequence[Path]) -> list[str]:
    """What each picture is called: its stem, or its whole name where another has the same stem."""
    stems = Counter(x.stem.casefold() for x in files)
    return [x.stem if stems[x.stem.casefold()] == 1 else x.name for x in files]


def _is_sheet(gallery: Gallery) -> bool:
    """Whether the result is there, and the sheet of the same gallery."""
    try:
        made = images.read_metadata(gallery.result)
    except UserError:  # there is none, or it is damaged
        return False
    given = list(gallery.given)  # and a sheet has no losses
    return bool(made) and not made.get("losses") and [made["content"], *made["style"]] == given


def _is_whole(path: Path) -> bool:
    """Whether there is a picture that can be read to its end."""
    try:
        return images.load(path) is not None
    except UserError:
        return False


def is_done(cell: Cell, settings) -> bool:
    """Whether its file was made from these sources with these settings, and since they changed."""
    made = images.read_metadata(cell.path) if _is_whole(cell.path) else None
    if not made:
        return False
    sources = [cell.content, *cell.styles]
    own, now = paths.changed(cell.path) or 0, time.time_ns()

    def is_older(source):  # a date in the future tells nothing
        when = paths.changed(source) or 0
        return when <= own or when > now

    return (
        made["settings"] == json.loads(json.dumps(dataclasses.asdict(settings)))
        and list(map(os.path.abspath, (made["content"], *made["style"])))
        == list(map(os.path.abspath, sources))
        and all(map(paths.exists, sources))
        and all(
            map(is_older, [*sources, *filter(paths.is_file, (settings.init, settings.weights))])
        )
    )


def make(
    gallery: Gallery,
    resolve: Callable,
    paint: Callable,
    interrupts: cli.Interrupts,
    dask: str | None = None,
) -> int:
    """Paint the cells that are not done, write the sheet, and return the exit status.

    `resolve() -> settings` gives them as they will be used, nothing left None; `paint(content,
    styles, settings, on_step, on_part=...)` is `nst.stylize`; `dask` the address of a scheduler,
    whose workers then paint. A cell that fails is reported on stderr and left empty: the status is
    2. After an interrupt (130 or 143) the sheet shows what is done. Raises UserError before work
    starts.
    """
    with cluster.connect(dask) if dask else nullcontext() as client:
        return _make(gallery, resolve(), paint, interrupts, client)


def _make(gallery: Gallery, settings, paint: Callable, interrupts, client) -> int:
    done = {cell for cell in gallery.cells.values() if is_done(cell, settings)}
    todo = [cell for cell in gallery.cells.values() if cell not in done]
    folder = gallery.result.with_suffix("")
    if done:
        log.info("%d of %d pictures are in %s already", len(done), len(gallery.cells), folder)
    if old := sum(paths.exists(cell.path) for cell in todo):
        log.warning(
            "%s in %s made with other settings, or from what has changed since, will be replaced",
            *("1 picture" if old == 1 else f"{old} pictures", folder),
        )
    if not _is_sheet(gallery):
        warn_of_replacing(gallery.result)
    interrupts.hold = True  # from here on there is something to finish
    paths.make_folder(folder)
    failures: dict[str, list[Cell]] = {}
    paint_all = functools.partial(cluster.paint_cells, client) if client else paint_cells
    with progress_bar(len(gallery.cells), len(done)) as bar, _saying_once():
        for cell, result in paint_all(todo, settings, paint, interrupts, bar):
            try:
                _keep(cell, result, settings)
                done.add(cell)
            except UserError as error:
                failures.setdefault(str(error), []).append(cell)
            except Exception as error:  # a bug here must not cost the other pictures
                message = f"unexpected {type(error).__name__}: {' '.join(str(error).split())}"
                if message not in failures:
                    log.error("%s:", cell.path.name, exc_info=error)
                failures.setdefault(message, []).append(cell)
    for cell in [cell for cell in done if not _is_whole(cell.path)]:
        done.remove(cell)
        failures.setdefault("it was lost meanwhile; run the same command again", []).append(cell)
    for message, cells in failures.items():
        others = f" and {len(cells) - 1} more" if len(cells) > 1 else ""
        cli.say(f"nst: {cells[0].path.name}{others} failed: {message}")
    if done:
        _write_sheet(gallery, done, settings)
    elif failures:
        cli.say("nst: no picture came about, so no sheet is written")
    if interrupts.signal:
        log.warning(
            "Stopped with %d of %d pictures done; run the same command again to make the rest.",
            *(len(done), len(gallery.cells)),
        )
    return interrupts.exit_status or (2 if failures else 0)


def _keep(cell: Cell, result, settings) -> None:
    """Save a result, unless it is an exception or not what was asked for: that is raised."""
    if isinstance(result, BaseException):
        raise result
    if result.cut_short:
        raise result.cut_short
    if result.settings != settings:
        used = ", ".join(
            f"--{name} {value}"
            for name, value in vars(result.settings).items()
            if value != getattr(settings, name)
        )
        raise UserError(f"it was painted with {used} instead of what was asked for")
    named = dataclasses.replace(result, sources=(str(cell.content), *map(str, cell.styles)))
    named.save(cell.path)
    losses = "  ".join(f"{name} {values[-1]:.3e}" for name, values in result.losses.items())
    log.info("%s  %s", cell.path.name, losses)


def paint_cells(cells, settings, paint: Callable, interrupts, bar) -> Iterator[tuple]:
    """(cell, its Result or an exception) for each in turn; ends early after an interrupt."""
    start, title, stopped = 0, "", False

    def on_step(step):
        bar.set_description(title, refresh=False)
        bar.update(start + step.progress - bar.n)
        return goes_on()

    def goes_on(part=None):
        nonlocal stopped
        stopped = bool(interrupts.signal)
        return not stopped

    for cell in cells:
        if not title:  # and no step yet: what comes before the first takes seconds
            bar.set_description("tracing")
        start, title = bar.n, f"{bar.n + 1:.0f}/{bar.total} {cell.path.stem}"
        try:
            result = paint(cell.content, list(cell.styles), settings, on_step, on_part=goes_on)
        except (Exception, KeyboardInterrupt) as error:
            result = error
        if stopped:
            return
        bar.update(start + 1 - bar.n)
        yield cell, result
        if interrupts.signal:
            return


def _write_sheet(gallery: Gallery, done: set[Cell], settings) -> None:
    """First row the styles, first column the contents; empty where a cell is not done."""
    rows = [[(None, ""), *((side_by_side(x), name) for name, x in gallery.styles.items())]]
    for row, content in gallery.contents.items():
        cells = [gallery.cells[row, column] for column in gallery.styles]
        results = [(cell.path if cell in done else None, "") for cell in cells]
        rows.append([(side_by_side([content]), row), *results])
    made = provenance.metadata(gallery.given, gallery.result, settings, {}, settings.num_iter)
    images.save(gallery.result, sheet(rows), made)
    cli.say_where(gallery.result)


@contextmanager
def _saying_once():
    """Nothing is logged twice, such as a source's size for each cell that it is used in."""
    said = set()

    def is_new(record):
        message = record.getMessage()
        return message not in said and not said.add(message)

    log.addFilter(is_new)
    try:
        yield
    finally:
        log.removeFilter(is_new)
