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
import pickle
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from nstlib import UserError, cli, images, provenance
from nstlib.outputs import warn_of_replacing

log = logging.getLogger("nst")

# What counts as a picture in a folder. HEIC cannot be read, but is better reported than passed by.
ENDINGS = {*images.FORMATS, ".avif", ".bmp", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".jpe"}
ENDINGS |= {".pbm", ".pgm", ".png", ".pnm", ".ppm", ".psd", ".tga"}

TILE = 320  # width of a tile in pixels, less where the sheet would exceed
SHEET = 6000, 16000  # this width and height; WebP ends at 16383
GAP, LABEL = 1 / 40, 1 / 9  # in widths of a tile

BAR = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"

_one_at_a_time = threading.Lock()


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
    return any(Path(x).is_dir() for x in (content, *styles))


def refuse(settings, *names: str) -> None:
    """Raise UserError if any of these is set: each is for one picture."""
    for name in names:
        if getattr(settings, name):
            raise UserError(f"--{name} is for one picture: leave it out, or name files, no folder")


def pictures(path: str | os.PathLike) -> list[Path]:
    """The pictures in a folder by name, those in its own folders and hidden ones left out; or the
    file itself. Raises UserError for a folder without any."""
    path = Path(path)
    if not path.is_dir():
        return [path]
    try:
        found = [x for x in path.iterdir() if x.suffix.lower() in ENDINGS and not x.is_dir()]
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; choose another folder") from error
    found = sorted((x for x in found if not x.name.startswith(".")), key=lambda x: x.name)
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
    elif folder := next((x for x in styles if Path(x).is_dir()), None):
        raise UserError(
            f"cannot read {folder}: a folder cannot be mixed with other styles; name an image in "
            "it, or give it alone"
        )
    else:
        columns = [tuple(map(Path, styles))]
    given = [content, *styles]
    for file in given:
        if not Path(file).is_dir():
            images.image_size(file)
    sources = {*contents, *(style for column in columns for style in column), *keep}
    images.check_result_path(result, sources)
    folder = Path(result).with_suffix("")
    if folder.exists() and not folder.is_dir():
        raise UserError(
            f"cannot make the folder {folder}: it is a file; choose another name for -r"
        )
    for place, source in product((folder, folder.parent), given):
        if place.is_dir() and place.samefile(source):
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
        if folder.is_dir():
            images.check_result_path(cell.path, sources)
            if cell.path.exists() and images.read_metadata(cell.path) is None:
                raise UserError(
                    f"cannot write {cell.path}: there is such a file, not made by this program; "
                    "move it or choose another name for -r"
                )
    return Gallery(tuple(map(str, given)), Path(result), dict(rows), dict(columns), cells)


def _names(files: Sequence[Path]) -> list[str]:
    """What each picture is called: its stem, or its whole name where another has the same stem."""
    stems = Counter(x.stem.casefold() for x in files)
    return [x.stem if stems[x.stem.casefold()] == 1 else x.name for x in files]


def is_done(cell: Cell, settings) -> bool:
    """Whether its file was made from these sources with these settings, and since they changed."""
    made = images.read_metadata(cell.path) if cell.path.exists() else None
    if made is None:
        return False
    sources = [cell.content, *cell.styles]
    seen = [made.get("content"), *made.get("style", [])]
    used = [*sources, *(Path(x) for x in (settings.init, settings.weights) if x)]
    return (
        made.get("settings") == json.loads(json.dumps(dataclasses.asdict(settings)))
        and list(map(os.path.abspath, seen)) == list(map(os.path.abspath, sources))
        and all(x.is_file() for x in sources)
        and all(x.stat().st_mtime <= cell.path.stat().st_mtime for x in used if x.is_file())
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
    styles, settings, on_step)` is `nst.stylize`; `dask` the address of a scheduler, whose workers
    then paint. A cell that fails is reported on stderr and left empty: the status is 2. After an
    interrupt (130 or 143) the sheet shows what is done. Raises UserError before work starts.
    """
    with _connect(dask) if dask else nullcontext() as client:
        return _make(gallery, resolve(), paint, interrupts, client)


def _make(gallery: Gallery, settings, paint: Callable, interrupts, client) -> int:
    done = {cell for cell in gallery.cells.values() if is_done(cell, settings)}
    todo = [cell for cell in gallery.cells.values() if cell not in done]
    folder = gallery.result.with_suffix("")
    if done:
        log.info("%d of %d pictures are in %s already", len(done), len(gallery.cells), folder)
    if old := sum(cell.path.exists() for cell in todo):
        log.warning(
            "%s in %s made with other settings, or from what has changed since, will be replaced",
            *("1 picture" if old == 1 else f"{old} pictures", folder),
        )
    if gallery.result.exists() and images.read_metadata(gallery.result) is None:
        warn_of_replacing(gallery.result)
    interrupts.hold = True  # from here on there is something to finish
    folder.mkdir(exist_ok=True)
    failures: dict[str, list[Cell]] = {}
    quiet = log.isEnabledFor(logging.INFO) or not sys.stderr.isatty()
    with (
        tqdm(total=len(gallery.cells), initial=len(done), disable=quiet, bar_format=BAR) as bar,
        logging_redirect_tqdm(),
        _saying_once(),
    ):
        painted = (
            _on_cluster(todo, settings, paint, interrupts, bar, client)
            if client
            else _one_by_one(todo, settings, paint, interrupts, bar)
        )
        for cell, result in painted:
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
    for message, cells in failures.items():
        others = f" and {len(cells) - 1} more" if len(cells) > 1 else ""
        print(f"nst: {cells[0].path.name}{others} failed: {message}", file=sys.stderr)
    if done:
        _write_sheet(gallery, done, settings)
    elif failures:
        print("nst: no picture came about, so no sheet is written", file=sys.stderr)
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


def _one_by_one(cells, settings, paint, interrupts, bar) -> Iterator[tuple]:
    """(cell, its Result or an exception) for each; ends early after an interrupt."""
    start, stopped = 0, False

    def on_step(step):
        nonlocal stopped
        bar.update(start + step.progress - bar.n)
        stopped = bool(interrupts.signal)
        return not stopped

    for cell in cells:
        start = bar.n
        bar.set_description(f"{start + 1:.0f}/{bar.total} {cell.path.stem}")
        try:
            result = paint(cell.content, list(cell.styles), settings, on_step)
        except Exception as error:
            result = error
        if stopped:
            return
        bar.update(start + 1 - bar.n)
        yield cell, result
        if interrupts.signal:
            return


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


# On a Dask cluster


def _connect(address: str):
    """A Client of the scheduler at this address, with at least one worker."""
    try:
        import dask
        import distributed
    except ImportError as error:
        raise UserError("--dask needs dask.distributed: pip install distributed") from error
    # Pictures are sent whole, whatever Dask thinks of their size.
    dask.config.set({"distributed.admin.large-graph-warning-threshold": "1 TB"})
    for name in ("distributed", "distributed.client"):  # what goes wrong is told in a sentence
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        place = urlsplit(address if "//" in address else f"//{address}")
        socket.create_connection((place.hostname, place.port), timeout=10).close()
        client = distributed.Client(address, timeout=10, set_as_default=False)
    except Exception as error:  # OSError, or ValueError and others for what is no address
        raise UserError(
            f"no Dask scheduler answers at {address}: check --dask, or start one (dask scheduler)"
        ) from error
    try:
        client.wait_for_workers(1, timeout=10)
    except Exception as error:
        client.close()
        raise UserError(
            f"the Dask scheduler at {address} has no workers: start some "
            f"(dask worker {address} --nthreads 1)"
        ) from error
    return client


def _on_cluster(cells, settings, paint, interrupts, bar, client) -> Iterator[tuple]:
    """Like _one_by_one, in the order in which the cells come from the workers.

    Sources travel as pixels, at the size at which they are used, so that workers need no access to
    the files. They are tasks of their own: the scheduler holds each picture once, and can give it
    out again when a worker that had it is lost. All is pickled, for workers to unpickle: the
    scheduler unpacks what it is sent, and need not have this program, nor NumPy.
    """
    from distributed import as_completed

    job = pickle.dumps(functools.partial(_paint_on_worker, paint, settings))

    def unpickle_and_paint(*sources):
        return pickle.loads(job)(*map(pickle.loads, sources))

    @functools.cache
    def pixels(path, scale=1.0):
        size = round(settings.size * scale)
        image = images.load(path, size)
        images.check_size(path, image, size)
        return client.submit(bytes, pickle.dumps(images.to_uint8(image)))

    futures = {}
    for cell in cells:
        try:
            styles = [pixels(path, settings.style_scale) for path in cell.styles]
            sources = [pixels(cell.content), *styles]
        except Exception as error:
            bar.update()
            yield cell, error
            continue
        futures[client.submit(unpickle_and_paint, *sources, pure=False)] = cell
    finished = as_completed(futures, loop=client.loop, with_results=True, raise_errors=False)
    while not finished.is_empty() and not interrupts.signal:
        bar.set_description(f"{bar.n}/{bar.total}")
        for future, result in finished.next_batch(block=False):
            bar.update()
            yield futures.pop(future), _outcome(future, result)
        time.sleep(0.1)
    if interrupts.signal:
        client.cancel(list(futures))


def _outcome(future, result):
    """The Result of a task, or the exception that it raised."""
    if future.status == "finished" and not isinstance(result, BaseException):
        return result
    if future.status == "error":
        _, error, _ = result
        if isinstance(error, ModuleNotFoundError):
            return UserError(
                f"a Dask worker lacks a module ({error}): install this program there, too"
            )
        return error
    return UserError("the Dask scheduler was lost; run the same command again")


def _paint_on_worker(paint, settings, content, *styles):
    os.environ.setdefault("TF_DETERMINISTIC_OPS", "1")  # as on the command line
    with _one_at_a_time:  # TensorFlow uses all cores already, however many threads a worker has
        return paint(content, styles, settings)


# The sheet


def _write_sheet(gallery: Gallery, done: set[Cell], settings) -> None:
    """First row the styles, first column the contents; empty where a cell is not done."""
    rows = [[(None, ""), *((_beside(x), name) for name, x in gallery.styles.items())]]
    for row, content in gallery.contents.items():
        cells = [gallery.cells[row, column] for column in gallery.styles]
        results = [(cell.path if cell in done else None, "") for cell in cells]
        rows.append([(_beside([content]), row), *results])
    made = provenance.metadata(gallery.given, gallery.result, settings, {}, settings.num_iter)
    images.save(gallery.result, sheet(rows), made)


def _beside(files: Sequence[Path]) -> np.ndarray | None:
    """Pictures side by side, uint8 [H, W, 3], somewhat larger than a tile; None for a bad file."""
    try:
        loaded = [images.load(path, 2 * TILE) for path in files]
    except UserError:
        return None
    height = min(map(len, loaded))
    widths = [round(x.shape[1] * height / len(x)) for x in loaded]
    scaled = [images.resize(x, height, w) for x, w in zip(loaded, widths, strict=True)]
    return images.to_uint8(np.hstack(scaled))


def sheet(rows: Sequence[Sequence[tuple]]) -> np.ndarray:
    """Rows of (picture, label) on white, as uint8 [H, W, 3].

    A picture is a file, a uint8 array or None for an empty tile, shown whole, its label below.
    Tiles are equally wide, and in each row as high as its highest picture, at most 4:3 upright.
    """

    def aspect(picture):
        width, height = images.image_size(picture)
        return min(height / width, 4 / 3)

    heights = [max((aspect(x) for x, _ in row if x is not None), default=3 / 4) for row in rows]
    strips = [LABEL if any(label for _, label in row) else 0 for row in rows]
    across = max(map(len, rows)) * (1 + GAP) + GAP
    down = sum(heights) + sum(strips) + (len(rows) + 1) * GAP
    tile = min(TILE, SHEET[0] / across, SHEET[1] / down)
    page = Image.new("RGB", (round(tile * across), round(tile * down)), "white")
    draw = ImageDraw.Draw(page)
    font = ImageFont.load_default(max(1, 0.7 * LABEL * tile))
    top = GAP
    for row, height, strip in zip(rows, heights, strips, strict=True):
        for column, (picture, label) in enumerate(row):
            middle, bottom = GAP + column * (1 + GAP) + 1 / 2, top + height
            if picture is not None:
                size = images.image_size(picture)
                scale = min(1 / size[0], height / size[1]) * tile
                image = images.load(picture, max(1, round(scale * max(size))))
                image = Image.fromarray(images.to_uint8(image))
                left, lower = tile * middle - image.width / 2, tile * bottom - image.height
                page.paste(image, (round(left), round(lower)))
            label = _shorten(label, font, tile)
            draw.text((tile * middle, tile * bottom), label, "black", font, anchor="ma")
        top += height + strip + GAP
    return np.asarray(page)


def _shorten(label: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """The label in one line of at most so many pixels."""
    label = "".join(x if x.isprintable() else "?" for x in label)
    if font.getlength(label) <= width:
        return label
    while label and font.getlength(label + "…") > width:
        label = label[:-1]
    return label + "…"
