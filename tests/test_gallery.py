"""Galleries: every cell, skipping what is done, failures, interrupts, the sheet, and Dask."""

import asyncio
import dataclasses
import io
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ROOT, arguments, free_address, picture, wait_for
from PIL import Image
from tqdm import tqdm

import nst
from nstlib import UserError, cli, gallery, images
from nstlib.networks import LoadedNetwork
from nstlib.sheet import TILE, sheet

LAYER = "level1_conv1"  # the only one of the style: each new setting traces all there are
QUICK = ["--network", "small", "--size", "48", "-n", "4", "--style_layers", LAYER]
SETTINGS = nst.Settings(network="small", size=48, num_iter=4, style_layers=[LAYER])


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """In the current folder: photos a, b and c of different shapes, and paintings x and y; a sheet
    of them is small."""
    monkeypatch.setattr("nstlib.sheet.TILE", 120)
    monkeypatch.chdir(tmp_path)
    for number, (name, shape) in enumerate(
        {
            "photos/a": (48, 48),
            "photos/b": (48, 64),
            "photos/c": (64, 48),
            "art/x": (48, 56),
        }.items()
    ):
        Path(name).parent.mkdir(exist_ok=True)
        images.save(f"{name}.png", picture(*shape, number))
    images.save("art/y.jpg", 255 - picture(48, 48, 9))
    age(2, "photos", "art")
    return tmp_path


def age(hours, *folders):
    """As if the files in a folder were that old."""
    for path in (path for folder in folders for path in Path(folder).iterdir()):
        os.utime(path, (time.time() - 3600 * hours,) * 2)


def main(*argv, status=0, content="photos", style="art"):
    good = {"-c": content, "-s": style, "-r": "sheet.png"}
    assert nst.main(arguments(good, [*QUICK, *argv])) == status


@pytest.fixture
def calls(monkeypatch):
    """What is painted, by the names of the sources; at once, as a mix of their mean colours."""
    calls = []

    def stylize(content, styles, settings, on_step, **how):
        calls.append("_".join(Path(x).stem for x in (content, *styles)))
        means = [images.load(x, settings.size).mean((0, 1)) for x in (content, *styles)]
        for step in range(3):
            if on_step(SimpleNamespace(progress=step / 2)) is False:
                break
        width, height = images.size_to_fit(*images.image_size(content), settings.size)
        image = np.full((height, width, 3), np.mean(means, 0), np.uint8)
        return nst.Result(image, {"total": [3.0, 2.0, step]}, settings)

    monkeypatch.setattr(nst, "stylize", stylize)
    monkeypatch.setattr(nst, "load_network", lambda x: LoadedNetwork(x.resolved(), None))
    return calls


ALL = [f"{content}_{style}" for content in "abc" for style in "xy"]


def cells():
    return {path.stem: images.load(path) for path in Path("sheet").glob("*.png")}


# What is painted


def test_each_cell_is_what_stylize_gives(folders, capsys, caplog):
    Path("photos/c.png").unlink()
    main()
    assert (capsys.readouterr(), caplog.text) == (("", ""), "")
    assert sorted(cells()) == ALL[:4]
    for name, image in cells().items():
        content, style = name.split("_")
        style = {"x": "art/x.png", "y": "art/y.jpg"}[style]
        alone = nst.stylize(f"photos/{content}.png", style, SETTINGS)
        assert (image == alone.image).all(), name
        made = images.read_metadata(f"sheet/{name}.png")
        assert (made["content"], made["style"]) == (f"photos/{content}.png", [style])
        assert made["settings"]["size"] == 48
        assert made["settings"]["style_layers"] == list(alone.settings.style_layers)
        assert made["losses"] == {x: values[-1] for x, values in alone.losses.items()}
        assert made["iterations"] == 4


def test_done_cells_are_skipped(folders, calls, caplog):
    main()
    first, sheet = cells(), Path("sheet.png").read_bytes()
    assert calls == ALL
    Path("content").mkdir()  # what --init content has nothing to do with
    main()
    assert calls == ALL  # and nothing since
    assert Path("sheet.png").read_bytes() == sheet
    Path("sheet/b_x.png").unlink()
    main()
    assert calls[len(ALL) :] == ["b_x"]
    assert all((image == first[name]).all() for name, image in cells().items())
    assert Path("sheet.png").read_bytes() == sheet
    assert not caplog.records


def test_other_settings_repaint_all_with_one_warning(folders, calls, caplog):
    main()
    main("--tv_weight", 7)
    assert calls == 2 * ALL
    (warning,) = caplog.messages
    assert "6 pictures in sheet made with other settings" in warning
    assert {images.read_metadata(x)["settings"]["tv_weight"] for x in Path("sheet").iterdir()} == {
        7
    }


def test_changed_sources_are_painted_again(folders, calls, caplog):
    main()
    age(1, "sheet")
    images.save("art/x.png", picture(48, 48, 5))
    main()
    assert calls[len(ALL) :] == ["a_x", "b_x", "c_x"]
    shutil.move("art/y.jpg", "y.jpg")  # a column's name is not all: the source is another
    images.save("art/y.png", picture(48, 48, 6))
    age(2, "art")
    main()
    assert calls[len(ALL) + 3 :] == ["a_y", "b_y", "c_y"]
    del calls[:]
    shutil.copy("photos/a.png", "start.png")
    main("--init", "start.png")
    main("--init", "start.png")
    assert calls == ALL
    age(1, "sheet")
    main("--init", "start.png")
    assert calls == 2 * ALL


def test_show_gives_the_command_of_a_sheet(folders, calls, capsys):
    main("--tv_weight", "7")
    with pytest.raises(SystemExit):
        nst.main(["--show", "sheet.png"])
    shown = shlex.split(capsys.readouterr().out)[2:]
    del calls[:]
    assert nst.main(shown) == 0
    assert calls == []  # all done: it is the same command


def test_mixed_styles_are_one_column(folders, calls):
    main("-s", "art/y.jpg", style="art/x.png")
    assert calls == ["a_x_y", "b_x_y", "c_x_y"]
    assert sorted(cells()) == ["a_x+y", "b_x+y", "c_x+y"]
    assert images.image_size("sheet.png")[0] == sheet_width(2)


def test_one_content_is_one_row(folders, calls):
    main(content="photos/a.png")
    assert calls == ["a_x", "a_y"]


def test_pictures(folders):
    for name in ("README.md", ".hidden.png", "small.h5", "c.JPG", "B.webp", "sub.png/d.png"):
        Path("photos", name).parent.mkdir(exist_ok=True)
        Path("photos", name).touch()
    names = ["B.webp", "a.png", "b.png", "c.JPG", "c.png"]
    assert gallery.pictures("photos") == [Path("photos", x) for x in names]
    assert gallery.pictures("photos/a.png") == [Path("photos/a.png")]


def test_equal_stems_are_told_apart(folders, calls):
    shutil.copy("photos/a.png", "photos/A.tif")
    main()
    assert len(calls) == len(cells()) == 8
    assert {"A.tif_x", "a.png_x", "b_x", "c_y"} < cells().keys()


# What goes wrong


def test_bad_content_leaves_its_row_empty(folders, calls, capsys):
    whole = Path("photos/b.png").read_bytes()
    Path("photos/b.png").write_bytes(whole[:-2000])
    main(status=2)
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert err.startswith("nst: b_x.png and 1 more failed: cannot read photos/b.png: ")
    assert sorted(cells()) == ["a_x", "a_y", "c_x", "c_y"]
    sheet = images.load("sheet.png")
    Path("photos/b.png").write_bytes(whole)
    main()
    assert calls[-2:] == ["b_x", "b_y"]
    rows, _ = np.nonzero(np.any(images.load("sheet.png") != sheet, axis=2))
    assert len(rows) > 0.95 * 3 * 120 * 90
    # One row of tiles, the other rows as they were.
    assert np.ptp(rows) < 90


def test_without_any_picture_there_is_no_sheet(folders, calls, capsys):
    for path in Path("photos").iterdir():
        path.write_text("no picture")
    main(status=2)
    assert "no sheet is written" in capsys.readouterr().err.splitlines()[-1]
    assert not Path("sheet.png").exists()


class Bug(Exception):
    pass


@pytest.mark.parametrize(
    ("problem", "told", "traceback"),
    [
        (Bug("of some\nkind"), "unexpected Bug: of some kind", True),
        (UserError("a reason"), "failed: a reason", False),
        (nst.Result(picture(8, 8), {}, SETTINGS, UserError("not finite")), "not finite", False),
        (nst.Result(picture(8, 8), {}, nst.Settings(network="vgg19")), "--network vgg19", False),
    ],
)
def test_one_failure_costs_one_cell(
    folders, calls, monkeypatch, capsys, caplog, problem, told, traceback
):
    paint = nst.stylize

    def stylize(content, *args, **how):
        if Path(content).stem != "b":
            return paint(content, *args)
        if isinstance(problem, Exception):
            raise problem
        return problem

    monkeypatch.setattr(nst, "stylize", stylize)
    main(status=2)
    *before, err = capsys.readouterr().err.splitlines()
    assert err.startswith("nst: b_x.png and 1 more failed: ")
    assert told in err
    assert bool(before) == traceback
    assert caplog.text.count("Traceback") == traceback
    assert sorted(cells()) == ["a_x", "a_y", "c_x", "c_y"]


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["-s", "art"], "cannot read art: a folder cannot be mixed"),
        (["-s", "photos/a.png"], "cannot read art: a folder cannot be mixed"),
        (["-c", "empty"], "cannot read empty: "),
        (["-c", "photos/gone.png"], "cannot read photos/gone.png: "),
        (["-r", "taken.png"], "taken"),
        (["-r", "photos/sheet.png"], "photos"),
        (["-r", "art/sheet.png"], "art"),
        (["-r", "photos.png"], "photos"),
        (["-r", "start.png", "--init", "start.png"], "would replace start.png"),
        (["-r", "foreign.png"], "cannot write foreign/a_x.png: "),
        (["-r", "blocked.png"], "cannot write blocked/a_x.png: "),
        (["-c", "clash"], "a_x_y.png"),
        (["-c", "long"], "too long"),
        (["--style_blend", "1,2"], "--style_blend is for 2 styles, not for the 1 given"),
        (["--init", "empty"], "cannot read empty: "),
        (["--init", "gone.png"], "cannot read gone.png: "),
    ],
)
def test_what_cannot_work_is_refused_before_work(folders, calls, capsys, argv, told):
    for name in ("empty", "foreign", "blocked/a_x.png", "clash", "long"):
        Path(name).mkdir(parents=True)
    Path("taken").touch()
    shutil.copy("photos/a.png", "start.png")
    Image.new("RGB", (8, 8)).save("foreign/a_x.png")
    for name in ("clash/a.png", "clash/a_x.png", f"long/{'n' * 249}.png"):
        shutil.copy("photos/a.png", name)
    shutil.copy("art/y.jpg", "art/x_y.jpg")
    before = sorted(folders.rglob("*"))
    main(*argv, status=2)
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert told in err
    assert not calls
    assert sorted(folders.rglob("*")) == before


def test_options_for_one_picture_are_refused():
    names = "save_every", "timelapse", "plot"
    gallery.refuse(nst.Outputs("x.png"), *names)
    with pytest.raises(UserError, match="--timelapse is for one picture"):
        gallery.refuse(nst.Outputs("x.png", timelapse="x.gif"), *names)
    with pytest.raises(UserError, match="--mask is for one picture"):
        gallery.refuse(dataclasses.replace(SETTINGS, mask=("x.png",)), "mask")


def test_a_sheet_of_another_kind_is_replaced_not_without_a_word(folders, calls, caplog):
    images.save("sheet.png", picture(8, 8))
    main("-v")
    assert "sheet.png is there already" in caplog.text
    assert caplog.messages[-1] == "the result is in sheet.png"


def test_what_is_not_the_sheet_of_the_same_is_replaced_not_without_a_word(folders, calls, caplog):
    """Though this program made it: a picture, or the sheet of other sources."""
    result = nst.Result(picture(8, 8), {"total": [1.0]}, SETTINGS, best_losses={"total": 1.0})
    result.save("sheet.png")
    main()
    assert "sheet.png is there already" in caplog.text
    for again in (False, True):
        caplog.clear()
        main(style="art/x.png")
        assert ("sheet.png is there already" in caplog.text) is not again


# Interrupts


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_gallery_is_finished_by_the_next_run(folders, monkeypatch, caplog, number):
    Path("photos/c.png").unlink()
    stylize = nst.stylize
    count = 0

    def interrupted(content, styles, settings, on_step, **how):
        nonlocal count
        count += 1

        def step(step):
            if count == 2 and step.iteration == 2:
                os.kill(os.getpid(), number)
                os.kill(os.getpid(), number)
            return on_step(step)

        return stylize(content, styles, settings, step)

    monkeypatch.setattr(nst, "stylize", interrupted)
    main(status=128 + number)
    assert count == 2
    assert sorted(cells()) == ALL[:1]
    assert "1 of 4 pictures" in caplog.messages[-1]
    assert "same command" in caplog.messages[-1]
    unfinished, kept = images.load("sheet.png"), cells()
    main()
    assert count == 2 + 3
    assert sorted(cells()) == ALL[:4]
    assert all((cells()[name] == image).all() for name, image in kept.items())
    # What was empty is filled; what was there is the same.
    changed = np.any(images.load("sheet.png") != unfinished, axis=2)
    assert (unfinished[changed] == 255).all()
    assert changed.sum() > 3 * 75 * 50


def test_interrupted_gallery_of_the_script(folders):
    """Which imports itself once more, under the name by which Dask's workers find it."""
    argv = arguments({"-c": "photos", "-s": "art", "-r": "sheet.png"}, [*QUICK, "-n", 10**6, "-v"])
    command = [sys.executable, ROOT / "nst.py", *argv]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        while "used at" not in process.stderr.readline():  # of the first picture's sources
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert "Stopped with 0 of 6 pictures done" in process.communicate(timeout=300)[1]
        assert process.returncode == 130
    finally:
        process.kill()


def test_progress_is_smooth_and_ends_full(folders):
    bar = tqdm(total=2, file=io.StringIO())
    seen, titles = [], []

    def paint(content, styles, settings, on_step, on_part):
        titles.append(bar.desc)
        for step in range(5):
            on_step(SimpleNamespace(progress=step / 4))
            seen.append(bar.n)
        titles.append(bar.desc)

    cell = gallery.Cell(Path("photos/a.png"), (Path("art/x.png"),), Path("sheet/a_x.png"))
    list(gallery.paint_cells([cell, cell], SETTINGS, paint, cli.Interrupts(), bar))
    assert seen == [0, 0.25, 0.5, 0.75, 1, 1, 1.25, 1.5, 1.75, 2]
    assert titles == ["tracing: ", "1/2 a_x: ", "1/2 a_x: ", "2/2 a_x: "]


def test_an_interrupt_ends_a_picture_between_its_tiles():
    """Which may take minutes each."""
    interrupts, told = cli.Interrupts(), []

    def paint(content, styles, settings, on_step, on_part):
        told.append(on_part(None))
        interrupts.signal = 2
        told.append(on_part(None))
        raise KeyboardInterrupt  # as stylize does before there is an image

    cell = gallery.Cell(Path("photos/a.png"), (Path("art/x.png"),), Path("sheet/a_x.png"))
    bar = tqdm(total=2, file=io.StringIO())
    assert not list(gallery.paint_cells([cell, cell], SETTINGS, paint, interrupts, bar))
    assert told == [True, False]


# The sheet


def sheet_width(columns, tile=120):
    return round(tile * (columns + (columns + 1) / 40))


def box(page, colour):
    """(left, top, right, bottom) of a colour on the sheet."""
    rows, columns = np.nonzero((page == colour).all(axis=2))
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def test_sheet_shows_pictures_whole_in_rows_and_columns():
    shapes = {
        (0, 1): (30, 40),
        (0, 2): (40, 40),
        (1, 0): (20, 40),
        (1, 1): (80, 40),
        (2, 2): (9, 90),
    }
    rows = [[(None, "") for _ in range(3)] for _ in range(3)]
    for (y, x), (height, width) in shapes.items():
        rows[y][x] = np.full((height, width, 3), (80 * y, 80 * x, 7), np.uint8), f"{y} {x}"
    page = sheet(rows)
    assert page.shape[1] == sheet_width(3, TILE)
    assert (page[:300, :300] == 255).all()  # top left
    boxes = {(y, x): box(page, (80 * y, 80 * x, 7)) for y, x in shapes}
    for (y, x), (left, top, right, bottom) in boxes.items():
        height, width = shapes[y, x]
        assert (bottom - top) / (right - left) == pytest.approx(height / width, rel=0.03)
        middle = TILE * (x * 41 / 40 + 21 / 40)
        assert (left + right) / 2 == pytest.approx(middle, abs=1)
        assert right - left <= TILE
    tops, bottoms = (
        [[boxes[at][i] for at in boxes if at[0] == y] for y in range(3)] for i in (1, 3)
    )
    assert max(bottoms[0]) < min(tops[1])
    assert max(bottoms[1]) < min(tops[2])
    for (y, _), (left, _, right, _) in boxes.items():  # its label below the row
        assert (page[max(bottoms[y]) : max(bottoms[y]) + 30, left:right] == 0).any()
    assert np.ptp(bottoms[0]) <= 1  # on one line
    assert max(bottoms[1]) - min(tops[1]) == pytest.approx(TILE * 4 / 3, abs=2)


@pytest.mark.parametrize(("rows", "columns"), [(3, 60), (700, 3), (2000, 2)])
def test_large_sheets_stay_within_limits(rows, columns):
    small = np.zeros((3, 4, 3), np.uint8)
    height, width, _ = sheet([[(small, "name")] * columns] * rows).shape
    assert 0.9 < max(width / 6000, height / 16000) <= 1


@pytest.mark.parametrize(
    "label", ["W" * 99, "写真 Фото \u202e שלום", "two\nlines" * 9, "bad \udcff"]
)
def test_labels_stay_below_their_tile(label):
    white = np.full((360, 480, 3), 255, np.uint8)
    page = sheet([[(white, ""), (white, label), (white, "")]])
    rows, columns = np.nonzero(page.min(axis=2) < 128)
    assert len(rows)
    assert rows.min() >= 12 + 360
    assert rows.max() < len(page) - 2
    assert columns.min() >= 12 + 492 - 1
    assert columns.max() <= 12 + 492 + 480 + 1


# Dask


def check_cells(settings):
    """All are there, and as `stylize` gives them."""
    assert sorted(cells()) == ALL
    for name, image in cells().items():
        content, style = name.split("_")
        (style,) = Path("art").glob(f"{style}.*")
        assert (image == nst.stylize(f"photos/{content}.png", style, settings).image).all(), name


def test_dask_paints_the_same(folders):
    """On two workers, which here are threads."""
    distributed = pytest.importorskip("distributed")
    options = {"processes": False, "threads_per_worker": 1, "protocol": "tcp"}
    with distributed.LocalCluster(2, **options, dashboard_address=":0") as cluster:
        main("--dask", cluster.scheduler_address)
    check_cells(SETTINGS)
    assert images.image_size("sheet.png")[0] == sheet_width(3)


def test_what_comes_of_a_task_is_told_by_its_result():
    """Its worker may be lost in the moment in which the result is there; then the task waits."""
    outcome, error = gallery.cluster._outcome, ValueError("a cell")
    assert outcome("a Result") == "a Result"
    assert outcome((ValueError, error, None)) is error
    lacking = outcome((ModuleNotFoundError, ModuleNotFoundError("No module named 'nst'"), None))
    assert isinstance(lacking, UserError)
    assert "lacks a module" in str(lacking)
    lost = outcome(asyncio.CancelledError())
    assert isinstance(lost, UserError)
    assert "scheduler was lost" in str(lost)


@pytest.mark.slow
def test_dask_loses_nothing_with_a_worker(folders, cluster):
    """Two workers; one is killed half way, painting. Pictures as without Dask."""
    import distributed

    address, workers, _ = cluster
    with distributed.Client(address, timeout=120, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=120)
        command = [sys.executable, ROOT / "nst.py", "-c", "photos", "-s", "art", "-r", "sheet.png"]
        gallery_run = subprocess.Popen(
            [*command, *QUICK, "-n", "40", "--dask", address],
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_for(lambda: list(folders.glob("sheet/*.png")))
        at_work = client.processing()
        victim = max(at_work, key=lambda worker: len(at_work[worker]))
        assert at_work[victim]
        workers.pop(victim).kill()
        stderr = gallery_run.communicate(timeout=300)[1]
        assert client.nthreads().keys() == workers.keys()
    assert (gallery_run.returncode, stderr) == (0, "")
    check_cells(dataclasses.replace(SETTINGS, num_iter=40))


def test_dask_that_cannot_work(folders, calls, capsys, monkeypatch):
    pytest.importorskip("distributed", reason="dask.distributed is not installed")
    monkeypatch.setattr(gallery.cluster, "PATIENCE", 0.5)
    nobody = free_address()
    monkeypatch.setattr(BaseHTTPRequestHandler, "log_message", lambda *_: None)
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        page = f"127.0.0.1:{other.server_port}"  # a dashboard's, say
        for address in (nobody, "nonsense://x:y", f"tcp://{page}", f"http://{page}"):
            main("--dask", address, status=2)
            sentence = f"nst: no Dask scheduler answers at {address}: "
            assert re.fullmatch(f"{re.escape(sentence)}.*\n", capsys.readouterr().err)
        other.shutdown()
    monkeypatch.setitem(sys.modules, "distributed", None)
    main("--dask", nobody, status=2)
    assert "pip install distributed" in capsys.readouterr().err
    main("--dask", nobody, content="photos/a.png", style="art/x.png", status=2)
    assert "pip install distributed" in capsys.readouterr().err
    assert not calls
    assert not Path("sheet").exists()


# What came between


@pytest.mark.parametrize("share", [0, 0.7])
def test_damaged_cells_are_painted_again(folders, calls, share):
    main()
    cell = Path("sheet/b_x.png")
    good = cell.read_bytes()
    cell.write_bytes(good[: round(share * len(good))])
    main()
    assert calls[len(ALL) :] == ["b_x"]
    assert cell.read_bytes() == good


def test_cells_lost_meanwhile_are_left_out(folders, calls, capsys, monkeypatch):
    keep = gallery._keep

    def keep_and_lose(cell, result, settings):
        keep(cell, result, settings)
        if cell.path.stem == "a_x":
            cell.path.write_bytes(b"")

    monkeypatch.setattr(gallery, "_keep", keep_and_lose)
    main(status=2)
    assert "a_x.png failed: it was lost meanwhile; run the same" in capsys.readouterr().err
    assert images.image_size("sheet.png")[0] == sheet_width(3)


def test_metadata_of_anyone_in_a_cell(folders, calls, capsys):
    main()
    made = images.read_metadata("sheet/a_x.png")
    images.save("sheet/a_x.png", picture(48, 48), made | {"style": 5})
    main(status=2)
    assert "cannot write sheet/a_x.png: there is such a file" in capsys.readouterr().err


def test_sources_that_cannot_be_read_are_left_out(folders, calls, capsys):
    Path("photos/loop.png").symlink_to("loop.png")
    os.mkfifo("photos/pipe.png")
    main(status=2)
    err = capsys.readouterr().err
    assert "loop_x.png and 1 more failed: cannot read photos/loop.png: " in err
    assert "pipe_x.png and 1 more failed: cannot read photos/pipe.png: " in err
    assert sorted(cells()) == ALL
    assert Path("sheet.png").exists()


def test_a_date_in_the_future_is_no_change(folders, calls):
    age(-48, "photos", "art")
    main()
    main()
    assert calls == ALL


@pytest.mark.parametrize("content", ["", "http://127.0.0.1:9/x.png"])
def test_what_is_no_gallery(folders, calls, capsys, content):
    """Not of the working folder either, which has a picture."""
    images.save("here.png", picture(48, 48))
    main(status=2, content=content)
    assert capsys.readouterr().err.startswith(f"nst: cannot read {content}")
    assert not calls
    main(status=2, content=content, style="art/x.png")
    assert not Path("sheet").exists()


def test_dask_address_that_is_mute(folders, calls, capsys, monkeypatch):
    """Something accepts connections there, and says nothing."""
    pytest.importorskip("distributed", reason="dask.distributed is not installed")
    monkeypatch.setattr(gallery.cluster, "PATIENCE", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        main("--dask", address, status=2)
    assert capsys.readouterr().err.startswith(f"nst: no Dask scheduler answers at {address}")


@pytest.mark.parametrize(
    ("answer", "missing"),
    [
        ({"workers": {"tcp://x": {}}}, None),
        ({"workers": {}}, "the Dask cluster has no workers"),
        (TimeoutError(), "the Dask scheduler does not answer"),
    ],
)
def test_what_a_cluster_lacks(answer, missing):
    def sync(ask, callback_timeout):
        if isinstance(answer, Exception):
            raise answer
        return answer

    client = SimpleNamespace(sync=sync, scheduler=SimpleNamespace(identity=None))
    assert gallery.cluster._missing(client) == missing


def test_a_cluster_that_is_silent_is_spoken_of(folders, caplog, monkeypatch):
    """By what waits for a gallery, and by what waits for a tile."""
    distributed = pytest.importorskip("distributed", reason="dask.distributed is not installed")
    silence = {"workers": {}}
    client = SimpleNamespace(
        submit=lambda *_, **__: object(),
        loop=None,
        sync=lambda *_, **__: silence,
        scheduler=SimpleNamespace(identity=None),
        cancel=list,
    )
    nothing = SimpleNamespace(is_empty=lambda: False, next_batch=lambda block: [])
    monkeypatch.setattr(distributed, "as_completed", lambda *_, **__: nothing)
    monkeypatch.setattr(gallery.cluster, "SILENCE", 0.05)
    interrupts = cli.Interrupts()
    threading.Timer(2.5, lambda: setattr(interrupts, "signal", signal.SIGINT)).start()
    cell = gallery.Cell(Path("photos/a.png"), (Path("art/x.png"),), Path("a_x.png"))
    with tqdm(disable=True) as bar:
        found = gallery.cluster.paint_cells(client, [cell], SETTINGS, None, interrupts, bar)
        assert list(found) == []
    told = "the Dask cluster has no workers; waiting for it (Ctrl-C ends that)"
    assert {record.message for record in caplog.records} == {told}
    caplog.clear()
    interrupts.signal = 0
    slow = SimpleNamespace(result=lambda: time.sleep(1.5))
    gallery.cluster.TileWorkers(client, interrupts)._result(slow)
    assert {record.message for record in caplog.records} == {told}
