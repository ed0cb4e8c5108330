"""The command line: a real example from start to end, bad input, interrupts, failures to save."""

import fcntl
import io
import os
import pty
import re
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, arguments, picture, style_distance
from PIL import Image, ImageCms
from test_show import PLAIN

import nst
from nstlib import UserError, __version__, cli, images, networks, provenance, tf
from nstlib.optimizers import OPTIMIZERS

CONTENT = min((ROOT / "examples" / "content").glob("*.jpg"))
STYLE = min((ROOT / "examples" / "style").glob("*.jpg"))
TRACEBACK = "Traceback"


def command(*arguments):
    return [sys.executable, "nst.py", *map(str, arguments)]


def run(*arguments):
    pipes = {"capture_output": True, "text": True, "stdin": subprocess.DEVNULL}
    return subprocess.run(command(*arguments), cwd=ROOT, timeout=600, check=False, **pipes)


def example(result, *arguments):
    """The arguments that paint an example."""
    return ("-c", CONTENT, "-s", STYLE, "-r", result, "--network", "small", *arguments)


# Soon: each new setting traces all layers there are.
QUICK = ("--style_layers", "level1_conv1", "--style_loss", "gram", "--size", 64)


# A real example


def test_example(tmp_path, small):
    """Not a word when all is well and nobody watches; the style has come nearer."""
    done = run(*example(tmp_path / "out.jpg", "--size", 96, "-n", 20, "--content_weight", 1))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [path.name for path in tmp_path.iterdir()] == ["out.jpg"]
    with Image.open(tmp_path / "out.jpg") as result:
        assert result.format == "JPEG"
        assert max(result.size) == 96
        profile = ImageCms.ImageCmsProfile(io.BytesIO(result.info["icc_profile"]))
        assert "sRGB" in ImageCms.getProfileDescription(profile)
    content, style = images.load(CONTENT, 96), images.load(STYLE, 96)
    painted = images.load(tmp_path / "out.jpg")
    assert painted.shape == content.shape
    before, after = (style_distance(image, style, small) for image in (content, painted))
    assert after < 0.5 * before
    assert np.corrcoef(content.ravel(), painted.ravel())[0, 1] > 0.3  # of the same scene


def test_verbose(tmp_path, capsys, caplog):
    """The network, the sizes, a line each so many iterations; hyphens as good as underscores."""
    arguments = ("--num-iter", 5, "--print-every=2", "--style-weight", "1e-2", "--tv_weight=1e2")
    argv = example(tmp_path / "out.png", "-v", *QUICK, *arguments)
    assert nst.main(list(map(str, argv))) == 0
    width, height = images.size_to_fit(*images.image_size(CONTENT), 64)
    said = "\n".join(caplog.messages)
    for part in (
        "network small",
        f"{width} x {height}",
        CONTENT.name,
        STYLE.name,
        "5 at 64 pixels",
    ):
        assert part in said
    number = r"\d\.\d+e[+-]\d+"
    line = rf"^ *(\d+) +total {number} +content {number} +style {number} +tv {number} +\d+\.\d s$"
    assert re.findall(line, said, re.MULTILINE) == ["0", "2", "4", "5"]
    out, err = capsys.readouterr()
    assert (out, "%|" in err) == ("", False)
    assert images.image_size(tmp_path / "out.png") == (width, height)


def test_progress_bar_on_a_terminal(tmp_path):
    terminal, stderr = pty.openpty()
    fcntl.ioctl(stderr, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = subprocess.Popen(
        command(*example(tmp_path / "out.png", *QUICK, "-n", 20, "-v")),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=stderr,
    )
    os.close(stderr)
    shown = b""
    try:
        while block := os.read(terminal, 1000):
            shown += block
    except OSError:  # Linux's way to say that the other end is closed
        pass
    os.close(terminal)
    assert process.communicate(timeout=600)[0] == b""
    assert process.returncode == 0
    shown = shown.decode()
    *_, last_bar, last = re.split(r"[\r\n]+", shown.strip())
    assert re.search(r"20/20.*100%\|.*<00:00, loss \d\.\d+e", last_bar)
    assert last == f"the result is in {tmp_path / 'out.png'}"
    assert "loading TensorFlow ..." in shown
    assert "tracing" in shown
    assert re.search(r"^ *20  total \d", shown.replace("\r", "\n"), re.MULTILINE)
    assert TRACEBACK not in shown
    assert "tensorflow/" not in shown.lower()  # of its own log


def test_help_has_groups_choices_and_examples(capsys):
    with pytest.raises(SystemExit):
        nst.main(["-h"])
    groups, _, examples = capsys.readouterr().out.partition("examples:\n")
    optimizing = groups.partition("how to optimize:")[2].partition("\n\n")[0]
    assert f"--optimizer {{{','.join(OPTIMIZERS)}}}" in optimizing
    assert "iterations; of small 200, else 1000" in optimizing
    assert "--size" not in optimizing
    assert f"--network {{{','.join(networks.NETWORKS)}}}" in groups
    examples = [shlex.split(line.partition("   ")[0]) for line in examples.strip().split("\n  ")]
    assert len(examples) == 3
    for program, *argv in examples:
        assert program == "nst.py"
        assert nst.parse(argv).style


def test_tensorflow_waits_for_work(tmp_path):
    """Neither `import nst` nor help nor --show nor a bad argument imports what takes seconds."""
    code = """
import sys, nst
for asked in ["-h"], ["--show", sys.argv[4]], ["--version"]:
    try:
        nst.main(asked)
    except SystemExit as done:
        assert done.code == 0
for bad in (["-n", "0"], ["--network", "x"], ["--content_layers", "x"], ["-c", "gone.jpg"]):
    argv = ["-c", sys.argv[1], "-s", sys.argv[2], "-r", sys.argv[3], *bad]
    assert nst.main(argv) == 2, bad
assert nst.main([]) == 2
slow = {"tensorflow", "keras", "scipy", "h5py", "matplotlib", "dask"}
sys.exit(bool(slow & sys.modules.keys()))
"""
    images.save(tmp_path / "x.png", picture(20, 20), PLAIN)
    words = [sys.executable, "-c", code, CONTENT, STYLE, "out.jpg", tmp_path / "x.png"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--content_weight" in done.stdout
    assert done.stdout.endswith(f"nst {__version__}\n")


@pytest.fixture
def finish(monkeypatch):
    """Lets stylize give back a picture at once; returns a list of what is asked of it."""

    def finish(cut_short=None, first=lambda: None):
        calls = []

        def stylize(content, styles, settings, on_step, tile, **how):
            first()
            calls.append((content, styles, settings, tile))
            return nst.Result(picture(32, 48), {"total": [2.0, 1.0]}, settings, cut_short)

        monkeypatch.setattr(nst, "stylize", stylize)
        return calls

    return finish


@pytest.mark.parametrize("hyphens", [False, True])
def test_options_reach_stylize(tmp_path, monkeypatch, finish, hyphens):
    monkeypatch.chdir(tmp_path)
    calls = finish()
    options = {"learning_rate": 1 / 3, "style_weight": 0.0, "network": "small", "seed": 9}
    options |= {"style_layers": ["level1_conv1=2", "level2_conv1"], "init": "-an image 'of' mine"}
    wanted = nst.Settings(**options, mask=["a b.png", "-c.png"], style_blend=(3.0, 7.5))
    styles = [str(STYLE), str(CONTENT)]
    argv = provenance.command(wanted, str(CONTENT), styles, "x.png")
    if hyphens:
        argv = [re.sub(r"^--\w+", lambda name: name[0].replace("_", "-"), x) for x in argv]
    assert nst.main(argv) == 0
    assert calls == [(str(CONTENT), styles, wanted, "auto")]
    assert (images.load(tmp_path / "x.png") == picture(32, 48)).all()


@pytest.mark.parametrize("tile", [0, 512])
def test_short_options(tmp_path, finish, tile):
    calls = finish()
    argv = ["-c", str(CONTENT), "-s", str(STYLE), "-r", str(tmp_path / "my-own_name.png")]
    assert nst.main([*argv, "-n", "9", "-l", "1.5", "-p", "3", "--tile", str(tile)]) == 0
    ((_, _, settings, found),) = calls
    assert (settings.num_iter, settings.learning_rate, found) == (9, 1.5, tile)
    assert (tmp_path / "my-own_name.png").exists()


# Bad input


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Good and bad files in the current folder; what comes to TensorFlow has come too far."""
    monkeypatch.chdir(tmp_path)
    images.save("photo.jpg", picture(64, 96))
    images.save("style.png", picture(64, 64, 1))
    images.save("other.png", picture(64, 64, 2))
    images.save("black.png", np.full([64, 96, 3], 100.0))
    Path("text.jpg").write_text("no picture at all\n" * 99)
    Path("cut.jpg").write_bytes(Path("photo.jpg").read_bytes()[:-500])
    Path("folder.jpg").mkdir()
    Path("symlink.gif").symlink_to("photo.jpg")
    Path("hardlink.jpg").hardlink_to("photo.jpg")
    shutil.copy(networks.find_weights("small"), "small.h5")
    monkeypatch.setattr(tf, "_tensorflow", lambda: pytest.fail("is accepted"))
    return tmp_path


@pytest.fixture
def complaint(files, capsys, caplog):
    """The one line that is said about bad arguments; nothing is written."""

    def complaint(*argv):
        def found():
            return {path: path.is_file() and path.read_bytes() for path in files.iterdir()}

        before = found()
        good = {"-c": "photo.jpg", "-s": "style.png", "-r": "out.jpg", "--size": "64"}
        assert nst.main(arguments(good, argv)) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.endswith("\n")
        assert err.count("\n") == 1
        assert err.startswith("nst: ")
        assert TRACEBACK not in err
        assert not caplog.records
        assert found() == before
        return err

    return complaint


@pytest.mark.parametrize("option", ["-c", "-s", "--init", "--mask"])
@pytest.mark.parametrize("file", ["gone.jpg", "text.jpg", "cut.jpg", "folder.jpg", "style.png/x"])
def test_bad_image(complaint, option, file):
    said = complaint(option, file)
    if (option, file) == ("-s", "folder.jpg"):
        assert "a folder cannot be mixed with other styles" in said
    else:
        assert f"cannot read {file}: " in said


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("--num_iter", ["0", "-1", "many", "1.5", "", "1" + 20 * "0"]),
        ("--learning_rate", ["0", "-1", "nan", "inf", "x"]),
        ("--content_weight", ["-1", "nan", "inf", "x", "1e+38"]),
        ("--style_weight", ["-1", "nan", "inf", "x", "1e+38"]),
        ("--tv_weight", ["-1", "nan", "inf", "x", "1e+38"]),
        ("--size", ["31", "0", "-512", "x"]),
        ("--scales", ["0", "x", "21"]),
        ("--seed", ["x", "-1"]),
        ("--save_every", ["x", "-1", "1.5"]),
        ("--print_every", ["0", "x"]),
        ("--network", ["vgg11"]),
        ("--pooling", ["min"]),
        ("--optimizer", ["sgd"]),
        ("--precision", ["int8"]),
        ("--colors", ["none"]),
        ("--init_noise", ["1.1", "-0.1", "nan"]),
        ("--style_scale", ["0", "nan"]),
        ("--style_blend", ["1,much", ""]),
        ("--tolerance", ["-1", "nan"]),
        ("--tile", ["-1", "63", "many", "1.5", ""]),
    ],
)
def test_bad_value(complaint, option, values):
    for value in values:
        for argv in ((option, value), (option.replace("_", "-") + "=" + value,)):
            said = complaint(*argv)
            assert option in said
            assert value in said


@pytest.mark.parametrize("option", ["--content_layers", "--style_layers"])
@pytest.mark.parametrize("weight", ["0", "-1", "nan", "inf", "-inf", "x", "", "1=2", " "])
def test_bad_layer(complaint, option, weight):
    assert "vgg19 has no layer 'conv9_1'" in complaint(option, "conv1_1", "conv9_1")
    layer = f"conv1_1={weight}"
    assert f"the weight in {layer!r} must be" in complaint(option, "conv2_1", layer)


BLEND = "--style_blend must be of numbers from 0 on, not all 0, not "


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ("--nonsense", "--nonsense"),
        ("stray", "stray"),
        ("-r", "--result"),
        ("-c other.png -c photo.jpg", "-c was given twice: name one file"),
        ("-r other.png -r out.jpg", "-r was given twice: name one file"),
        ("--content other.png -c photo.jpg", "was given twice: name one file"),
        ("-s other.png --style_blend 1,2,3", "--style_blend is for 3 styles, not for the 2 given"),
        ("-s other.png --style_blend 1", "--style_blend is for 1 styles, not for the 2 given"),
        ("--style_blend 0,0", BLEND + "(0.0, 0.0)"),
        ("--style_blend=-1,2", BLEND + "(-1.0, 2.0)"),
        ("--style_blend 1,nan", BLEND + "(1.0, nan)"),
        ("--style_blend inf,1", BLEND + "(inf, 1.0)"),
        ("--style_blend 1e308,1e308", BLEND + "(1e+308, 1e+308)"),
        ("--content_weight 0 --style_weight 0", "--style_weight must be above 0 where --content"),
        ("-s other.png --mask other.png", "--mask is for 1 styles, not for the 2 given"),
        ("--mask other.png --mask other.png", "--mask is for 2 styles, not for the 1 given"),
        ("--mask black.png", "black.png is nowhere white"),
        (
            "--style_scale 0.1",
            "would be 6 x 6 pixels, too thin",
        ),
        ("--weights gone.h5", "cannot read gone.h5: "),
        ("--weights photo.jpg", "cannot read photo.jpg: it is not a whole .h5 file"),
        ("--weights small.h5", "small.h5 does not hold the weights of vgg19"),
        ("-r gone/out.jpg", "cannot write gone/out.jpg: "),
        ("-r out.bmp", "cannot write out.bmp: the ending .bmp is unknown"),
        ("-r style.png", "cannot write style.png: it would replace style.png"),
        ("-r ./photo.jpg", "cannot write ./photo.jpg: it would replace photo.jpg"),
        ("-r hardlink.jpg", "cannot write hardlink.jpg: it would replace photo.jpg"),
        ("--plot out.jpg", "cannot write out.jpg: it would replace out.jpg"),
        ("--plot ./style.png", "cannot write ./style.png: it would replace style.png"),
        ("--mask other.png --plot other.png", "cannot write other.png: it would replace other.png"),
        ("--init other.png --plot other.png", "cannot write other.png: it would replace other.png"),
        ("--timelapse x.webp --plot x.webp", "cannot write x.webp: it would replace x.webp"),
        ("--plot curves.bmp", "cannot write curves.bmp: the ending .bmp is unknown"),
        ("--plot gone/curves.png", "cannot write gone/curves.png: "),
        ("--timelapse x", "cannot write x: its name has no ending; use one of .gif, .webp, .mp4"),
        ("--timelapse gone/x.gif", "cannot write gone/x.gif: "),
        ("--timelapse symlink.gif", "cannot write symlink.gif: it would replace photo.jpg"),
        ("-r x.webp --timelapse ./x.webp", "cannot write ./x.webp: it would replace x.webp"),
    ],
)
def test_bad_arguments(complaint, argv, said):
    assert said in complaint(*argv.split())


@pytest.mark.parametrize("missing", ["--content", "--style", "--result"])
def test_missing_option(files, capsys, missing):
    given = {"--content": "photo.jpg", "--style": "style.png", "--result": "out.jpg"}
    del given[missing]
    assert nst.main([x for pair in given.items() for x in pair]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert missing in err
    assert not any(name in err for name in given)


def test_debug_shows_where(tmp_path):
    """And only then."""
    for debug in ([], ["--debug"]):
        done = run("-c", "gone.jpg", "-s", STYLE, "-r", tmp_path / "out.jpg", *debug)
        assert done.returncode == 2
        assert done.stdout == ""
        assert (TRACEBACK in done.stderr) == bool(debug)
        assert "cannot read gone.jpg: " in done.stderr.splitlines()[-1]


# Interrupts


def test_interrupts_are_raised_until_there_is_something_to_lose():
    before = signal.getsignal(signal.SIGINT)  # ignored in a shell's background
    with cli.Interrupts() as interrupts:
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
        interrupts.hold = True
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupts.exit_status == 143  # of the first
    assert signal.getsignal(signal.SIGINT) == before
    assert cli.Interrupts().exit_status == 0


@pytest.fixture
def running(tmp_path):
    """A run that would take hours, once a line of stderr contains a given text."""
    processes = []

    def running(until):
        arguments = (*QUICK, "-n", 1_000_000, "-v", "-p", 1)
        process = subprocess.Popen(
            command(*example(tmp_path / "out.png", *arguments)),
            cwd=ROOT,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        processes.append(process)
        for line in process.stderr:
            if until in line:
                return process
        raise AssertionError(f"ends before it says {until!r}")

    yield running
    for process in processes:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("signals", "status"),
    [
        ([signal.SIGTERM], 143),
        ([signal.SIGINT, signal.SIGINT], 130),
    ],
    ids=["SIGTERM", "impatient Ctrl-C"],
)
def test_interrupted_run_saves_the_best_picture(tmp_path, running, signals, status):
    process = running("    3  total")
    for number in signals:
        process.send_signal(number)
        time.sleep(0.002)
    out, err = process.communicate(timeout=600)
    assert process.returncode == status
    assert out == ""
    assert TRACEBACK not in err
    last = err.splitlines()[-1]
    assert re.search(r"iteration \d+", last)
    assert str(tmp_path / "out.png") in last
    assert [path.name for path in tmp_path.iterdir()] == ["out.png"]
    assert max(images.load(tmp_path / "out.png").shape) == 64


def test_interrupt_before_there_is_a_picture(tmp_path, running):
    process = running(STYLE.name)  # next it imports TensorFlow
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 130
    assert out == ""
    assert TRACEBACK not in err
    assert "nothing is saved" in err.splitlines()[-1]
    assert not list(tmp_path.iterdir())


# Endings other than the good one, with a stylize that gives them at once


@pytest.fixture
def out(tmp_path, monkeypatch):
    """A folder for the result, beside the system's temporary folder."""
    (tmp_path / "rescue").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "rescue"))
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def main(out, *argv):
    return nst.main(["-c", str(CONTENT), "-s", str(STYLE), "-r", str(out / "x.png"), *argv])


@pytest.mark.parametrize("cut_short", [None, UserError("the style loss is no longer finite")])
def test_failed_save_rescues_the_picture(out, finish, capsys, cut_short):
    finish(cut_short, first=lambda: shutil.rmtree(out))
    assert main(out) == 2
    stdout, err = capsys.readouterr()
    assert stdout == ""
    assert err.count("\n") == 1
    assert f"cannot write {out / 'x.png'}: " in err
    (rescue,) = (out.parent / "rescue").iterdir()
    assert str(rescue) in err
    assert (images.load(rescue) == picture(32, 48)).all()


def test_interrupt_that_keras_wraps(out, monkeypatch, capsys):
    """In an error of its own, while it asks what a layer makes of its input."""
    networks._compiled_extractor.cache_clear()
    monkeypatch.setattr(networks, "_halve", lambda features: os.kill(os.getpid(), signal.SIGTERM))
    assert main(out, "--network", "small", *map(str, QUICK)) == 143
    assert capsys.readouterr().err == "nst: stopped before there was a picture; nothing is saved\n"
    assert not list(out.iterdir())


def test_interrupt_after_the_last_iteration(out, monkeypatch):
    """While the picture is on its way to the file, it is not lost either."""
    make_result = nst.Result

    def interrupted(*args):
        os.kill(os.getpid(), signal.SIGINT)
        return make_result(*args)

    monkeypatch.setattr(nst, "Result", interrupted)
    assert main(out, "--network", "small", "-n", "1", *map(str, QUICK)) in {0, 130}
    assert max(images.image_size(out / "x.png")) == 64


def test_bad_loss_saves_the_last_good_picture(out, finish, capsys):
    finish(UserError("the style loss is no longer finite: lower --style_weight"))
    assert main(out) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "lower --style_weight" in err
    assert str(out / "x.png") in err
    assert (images.load(out / "x.png") == picture(32, 48)).all()


def test_earlier_result_is_replaced_not_without_a_word(out, finish, caplog):
    finish()
    assert main(out) == 0
    assert not caplog.records
    assert main(out) == 0
    assert str(out / "x.png") in caplog.text


def test_signal_handlers_are_put_back(out, finish):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    finish(KeyboardInterrupt())
    main(out)
    main(out, "--num_iter", "0")
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
