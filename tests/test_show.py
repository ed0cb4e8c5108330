"""What a picture tells of how it was made, and the command that --show makes of it."""

import json
import os
import shlex
import struct
import subprocess
import sys

import pytest
from conftest import ROOT, picture
from PIL import ExifTags, Image

import nst
from nstlib import __version__, cli, images, provenance, tf

METADATA = {
    "version": "1.2",
    "content": "Ölbild/漢 'x'.jpg",
    "style": ["a.png", "not utf-8 \udcff.png"],
    "result": "r.png",
    "settings": {"num_iter": 3, "init": "noise", "weights": None, "content_layers": ["a", "b"]},
    "losses": {"total": 0.1 + 0.2},
    "iterations": 3,
}


# In the file


@pytest.mark.parametrize("suffix", images.FORMATS)
def test_metadata_round_trip(tmp_path, suffix):
    """With it, the pixels and the profile are the same as without."""
    plain, path, again = (tmp_path / f"{name}{suffix}" for name in ("plain", "x", "again"))
    images.save(plain, picture(40, 60))
    images.save(path, picture(40, 60), METADATA)
    images.save(again, picture(40, 60), METADATA)
    assert images.read_metadata(path) == METADATA
    assert images.read_metadata(plain) is None
    assert path.read_bytes() == again.read_bytes()
    assert (images.load(path) == images.load(plain)).all()
    with Image.open(path) as im, Image.open(plain) as bare:
        assert im.info["icc_profile"] == bare.info["icc_profile"]
        exif = im.getexif()
        assert exif[ExifTags.Base.Software] == "nst 1.2"
        text = exif.get(ExifTags.Base.ImageDescription)
        if im.format != "TIFF":
            comment = exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment]
            assert comment[:8] == b"ASCII\0\0\0"  # as EXIF 2.3, table 9, wants it
            text = comment[8:].decode("ascii")
        assert json.loads(text) == METADATA


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
@pytest.mark.parametrize(
    "text", ["a holiday", "[1, 2]", "{}", '{"settings": 1', '"settings"', "ASCII\0\0\0{"]
)
def test_foreign_metadata(tmp_path, suffix, text):
    exif = Image.Exif()
    exif[ExifTags.Base.ImageDescription] = text
    if suffix != ".tif":
        exif[ExifTags.IFD.Exif] = {ExifTags.Base.UserComment: text.encode()}
    Image.fromarray(picture(20, 20)).save(tmp_path / f"x{suffix}", exif=exif)
    assert images.read_metadata(tmp_path / f"x{suffix}") is None


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0MM\0*", b"Exif\0\0" + bytes(40), b"Exif\0\0II*\0\xff\xff\xff\xff"]
)
def test_damaged_exif(tmp_path, exif):
    Image.fromarray(picture(20, 20)).save(tmp_path / "x.jpg", exif=exif)
    assert images.read_metadata(tmp_path / "x.jpg") is None


def test_metadata_after_the_pixels(tmp_path):
    """Where other programs put it when they write a PNG anew."""
    images.save(tmp_path / "x.png", picture(20, 20), METADATA)
    data = (tmp_path / "x.png").read_bytes()
    start = data.index(b"eXIf") - 4
    end = start + 12 + struct.unpack(">I", data[start : start + 4])[0]
    moved = data[:start] + data[end:-12] + data[start:end] + data[-12:]
    (tmp_path / "x.png").write_bytes(moved)
    assert images.read_metadata(tmp_path / "x.png") == METADATA


def test_metadata_too_long_for_jpeg_cost_no_picture(tmp_path, caplog):
    images.save(tmp_path / "x.jpg", picture(20, 20), {**METADATA, "style": ["漢" * 100] * 200})
    assert images.image_size(tmp_path / "x.jpg") == (20, 20)
    assert images.read_metadata(tmp_path / "x.jpg") is None
    assert "too many settings" in caplog.text


# The command of settings


def test_command_has_what_was_chosen_alone():
    """And nothing that could be taken for another option."""
    options = {"num_iter": 7, "tv_weight": 1e-9, "network": "small", "precision": "float32"}
    options |= {"style_layers": ["level1_conv1", "level2_conv1=2"], "style_blend": (3.0, 0.7)}
    settings = nst.Settings(**options, mask=["-m 1.png", "b.png"], init="-x").resolved()
    assert provenance.command(settings, "-c.jpg", ["b.jpg", "-s"], "-r.png") == [
        *("-c=-c.jpg", "-s", "b.jpg", "-s=-s", "-r=-r.png"),
        *("--num_iter", "7", "--precision", "float32", "--tv_weight", "1e-09"),
        *("--style_blend", "3,0.7", "--mask=-m 1.png", "--mask", "b.png", "--init=-x"),
        *("--network", "small", "--style_layers", "level1_conv1", "level2_conv1=2"),
    ]


# --show


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a result that the command line made of files with unusual names."""
    folder = tmp_path_factory.mktemp("it's a folder")
    images.save(folder / "cön tent.png", picture(48, 64))
    images.save(folder / "style.png", picture(32, 32, 1))
    argv = ["-c", folder / "cön tent.png", "-s", folder / "style.png", "-r", folder / "out.png"]
    more = ["--network", "small", "--size", 64, "--scales", 2, "-n", 6, "--init", "noise"]
    more += ["--seed", 4, "--style_layers", "level1_conv1", "level2_conv1=3", "-l", "12.5"]
    assert nst.main(list(map(str, argv + more))) == 0
    return folder


@pytest.fixture
def show(capsys):
    """The exit status of --show, and what it prints on stdout and stderr."""

    def show(path):
        try:
            status = nst.main(["--show", str(path)])
        except SystemExit as done:
            status = done.code
        return status, *capsys.readouterr()

    return show


@pytest.fixture
def show_made(tmp_path, show):
    """The same of a picture that was made so."""

    def show_made(metadata):
        images.save(tmp_path / "x.png", picture(20, 20), metadata)
        return show(tmp_path / "x.png")

    return show_made


def test_shown_command_makes_the_same_picture(made, show):
    status, out, err = show(made / "out.png")
    assert status == 0
    assert out.startswith("python3 nst.py -c ")  # for a shell
    assert out.count("\n") == 1
    assert f"nst {__version__}, network small, 6 of 6 iterations" in err
    before = images.load(made / "out.png")
    (made / "out.png").rename(made / "first.png")
    assert nst.main(shlex.split(out)[2:]) == 0
    assert (images.load(made / "out.png") == before).all()
    assert images.read_metadata(made / "out.png") == images.read_metadata(made / "first.png")


@pytest.mark.parametrize(("second", "best"), [([9, 4, 3, 8], 3), ([7, 8, 9, 8], 7)])
def test_losses_are_those_of_the_picture(monkeypatch, second, best):
    """Of the best of the last scale, although an earlier one was lower and a later one higher."""
    totals = iter([[6, 1, 5, 4, 3, 2, 2], second])

    def minimize(*args):
        *_, report = args
        for iteration, total in enumerate(next(totals)):
            report(iteration, {"total": total, "style": total / 2}, tf.zeros([1, 96, 96, 3]))

    monkeypatch.setattr(nst, "minimize", minimize)
    options = {"size": 64, "network": "small", "style_layers": ["level1_conv1"]}
    settings = nst.Settings(num_iter=9, scales=2, **options)
    result = nst.stylize(picture(48, 48), picture(32, 32, 1), settings)
    assert result.losses["total"] == [6, 1, 5, 4, 3, 2, 2, *second[1:]]
    assert result.best_losses == {"total": best, "style": best / 2}


def test_saved_result_tells_how_it_was_made(tmp_path):
    images.save(tmp_path / "style.png", picture(32, 32, 1))
    options = {"size": 32, "network": "small", "precision": "float32"}
    settings = nst.Settings(num_iter=1, style_layers=["level1_conv1"], **options)
    result = nst.stylize(picture(32, 32), tmp_path / "style.png", settings)
    result.save(tmp_path / "x.png")
    assert images.read_metadata(tmp_path / "x.png")["losses"] == result.best_losses
    argv, how_it_went = provenance.read(tmp_path / "x.png")
    args = nst.parse(argv)
    assert (args.content, args.style) == ("(array)", [str(tmp_path / "style.png")])
    assert cli.chosen(nst.Settings, args).resolved() == result.settings
    assert "1 of 1 iterations" in how_it_went


def test_names_of_any_bytes_are_shown(tmp_path):
    images.save(tmp_path / "x.png", picture(20, 20), PLAIN | {"style": METADATA["style"]})
    done = subprocess.run(
        [sys.executable, "nst.py", "--show", tmp_path / "x.png"],
        cwd=ROOT,
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert done.returncode == 0
    argv = ["-c", METADATA["content"], "-s", "a.png", "-s", METADATA["style"][1], "-r"]
    program = [sys.executable, "nst.py"]  # as it was called
    shown = [*program, *argv, str(tmp_path / "x.png"), "--precision", "float32"]
    assert shlex.split(os.fsdecode(done.stdout)) == shown


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"num_iter": 3, "new_option": 1}, "show it with nst 1.2"),
        ({"network": "vgg99"}, "show it with nst 1.2"),
        ({"num_iter": "x"}, "show it with nst 1.2"),
        ([], "does not tell how it was made"),
        (None, "does not tell how it was made"),
    ],
)
def test_what_cannot_be_shown(tmp_path, show_made, settings, reason):
    status, out, err = show_made(settings is not None and METADATA | {"settings": settings})
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"nst: {tmp_path / 'x.png'} ")
    assert reason in err


def test_what_this_version_cannot_have_made(show_made):
    settings = {"network": "vgg99"}
    assert "it was edited" in show_made(PLAIN | {"settings": settings, "version": __version__})[2]


PLAIN = {**METADATA, "style": ["a.png"], "settings": {"precision": "float32"}}
HUGE = 10**400
HOSTILE = [
    {"style": 5},
    {"style": [5]},
    {"content": None},
    {"content": "a\ud800.png"},
    {"content": "a\0.png"},
    {"content": "\x1b]0;title\x07.png"},
    {"losses": 5},
    {"losses": {"total": "x"}},
    {"losses": {"total": HUGE}},
    {"iterations": "many"},
    {"settings": {"learning_rate": HUGE}},
    {"settings": {"tv_weight": "1"}},
    {"settings": {"style_blend": 5}},
    {"settings": {"mask": [None]}},
    {"settings": {"content_layers": [[1]]}},
    {"settings": {"network": []}},
    {"version": "\x1b[2J", "settings": {"num_iter": 0}},
]


@pytest.mark.parametrize("changes", HOSTILE, ids=lambda x: str(x)[:40])
def test_metadata_of_anyone(show_made, monkeypatch, changes):
    """One sentence, or a command, and nothing that a terminal obeys."""
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    status, out, err = show_made(PLAIN | changes)
    assert status == (0 if out else 2)
    assert err.count("\n") == 1
    assert (out + err).replace("\n", "").isprintable()


def test_command_writes_to_the_picture_alone(tmp_path, show_made):
    """Whatever files a foreign picture names, or one of version 1.0.0, in which they were settings;
    and how far it came is told."""
    files = dict.fromkeys(("plot", "timelapse"), "precious.png")
    settings = {**files, "save_every": 1, "num_iter": 50}
    status, out, err = show_made(PLAIN | {"settings": settings, "result": "precious.png"})
    assert status == 0
    assert "precious" not in out
    assert shlex.split(out)[-4:] == ["-r", str(tmp_path / "x.png"), "--num_iter", "50"]
    assert "3 of 50 iterations, total 3.000e-01" in err


def test_command_is_the_one_that_was_called(tmp_path, show_made, monkeypatch):
    """Where the shell would not find it, by its whole name."""
    program = tmp_path / "bin" / "nst"
    program.parent.mkdir()
    program.touch(0o755)
    monkeypatch.setattr(sys, "argv", [str(program), "--show", "x.png"])
    assert show_made(PLAIN)[1].startswith(f"{program} -c ")
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    assert show_made(PLAIN)[1].startswith("nst -c ")


def test_show_of_no_image(tmp_path, show):
    (tmp_path / "x.png").write_text("no picture")
    for name in ("x.png", "gone.png"):
        status, out, err = show(tmp_path / name)
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert f"cannot read {tmp_path / name}: " in err
