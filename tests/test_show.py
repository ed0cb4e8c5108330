"""What a picture tells of how it was made, and the command that --show makes of it."""

import dataclasses
import json
import os
import shlex
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from conftest import picture
from PIL import ExifTags, Image

import nst
from nstlib import UserError, __version__, cli, images, networks, provenance, tf

ROOT = Path(nst.__file__).parent
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


def test_rescued_image_has_its_metadata(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(UserError, match="is in"):
        images.save(tmp_path / "gone" / "x.jpg", picture(20, 20), METADATA)
    (rescue,) = tmp_path.iterdir()
    assert images.read_metadata(rescue) == METADATA


# From settings to the command line and back


def settings_of(argv):
    args = nst.parse(argv)
    return cli.chosen(nst.Settings, args), args


CHANGES = {
    "num_iter": 7,
    "learning_rate": 1 / 3,
    "content_weight": 1e-7,
    "style_weight": 0.0,
    "tv_weight": 123456789.125,
    "size": 64,
    "scales": 2,
    "init": "-an image 'of' \"mine\" & $HOME.png",
    "network": "small",
    "weights": "-w ü.h5",
    "content_layers": ["level2_conv1", "level1_conv2"],
    "style_layers": ["level1_conv1"],
    "pooling": "max",
    "style_loss": "gram",
    "optimizer": "lbfgs",
    "tolerance": 0.001,
    "precision": "float32",
    "style_scale": 0.5,
    "style_blend": (3.0, 7.5),
    "mask": ("a b.png", "-c.png"),
    "colors": "content",
    "init_noise": 0.25,
    "seed": 9,
}
NAMES = [
    ("a.jpg", ["b.jpg"], "c.png"),
    ("a b.jpg", ["it's.jpg", '"quoted".jpg'], "$(date) `date` \\.png"),
    ("-c.jpg", ["--style", "-s=x.jpg", "x=-y"], "--a-result.png"),
    ("漢字 ü.jpg", ["new\nline.jpg", "*?.jpg", "~/x"], "not utf-8 \udcff.png"),
]


def test_every_option_has_a_change_to_try():
    assert CHANGES.keys() == {field.name for field in dataclasses.fields(nst.Settings)}
    defaults = nst.Settings()
    assert all(getattr(defaults, name) != value for name, value in CHANGES.items())


def alone(name):
    """A change of one option; layers are of a network."""
    return {x: CHANGES[x] for x in ([name, "network"] if name.endswith("_layers") else [name])}


@pytest.mark.parametrize("change", [{}, *map(alone, CHANGES), CHANGES])
def test_command_of_settings(change):
    """Each option alone, and all at once; with what resolved() fills in, and without."""
    settings = nst.Settings(**change)
    for wanted in (settings, settings.resolved()):
        argv = provenance.command(wanted, "a.jpg", ["b.jpg"], "c.png")
        assert settings_of(argv)[0].resolved() == settings.resolved()
        options = {x.partition("=")[0] for x in argv if x.startswith("--")}
        assert options <= {f"--{name}" for name in (*change, "precision")}


@pytest.mark.parametrize(("content", "styles", "result"), NAMES)
def test_names_in_the_command(content, styles, result):
    argv = provenance.command(nst.Settings(**CHANGES), content, styles, result)
    settings, args = settings_of(shlex.split(shlex.join(argv)))
    assert (args.content, args.style, args.result) == (content, styles, result)
    assert settings.resolved() == nst.Settings(**CHANGES).resolved()


def test_kinds_of_options():
    """One of each kind that a field of settings can be."""

    def numbers(text):
        return tuple(float(x) for x in text.split(","))

    def option(default, **more):
        return dataclasses.field(default=default, metadata={"flags": (), "help": "", **more})

    @dataclasses.dataclass(frozen=True)
    class Settings:
        number: float = option(2.0)
        text: str | None = option(None)
        several: tuple | None = option(None, nargs="+")
        repeated: tuple | None = option(None, action="append")
        blend: tuple | None = option(None, type=numbers)

        def resolved(self):
            return dataclasses.replace(self, text=self.text or f"of {self.number}")

    changes = {
        "number": -1e-9,
        "text": "-x",
        "several": ["a", "b=2"],
        "repeated": ["-m 1.png", "b.png"],
        "blend": (-3.0, 0.7),
    }
    for change in ({}, *({name: value} for name, value in changes.items()), changes):
        parser = cli.Parser("nst.py")
        parser.add_fields(Settings)
        argv = provenance.command(Settings(**change).resolved(), "c", ["s"], "r")
        assert argv[:6] == ["-c", "c", "-s", "s", "-r", "r"]
        assert Settings(**vars(parser.parse_args(argv[6:]))) == Settings(**change)
    assert argv[6:] == [
        *("--number=-1e-09", "--text=-x", "--several", "a", "b=2"),
        *("--repeated=-m 1.png", "--repeated", "b.png", "--blend=-3,0.7"),
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


def show(capsys, path):
    with pytest.raises(SystemExit) as exit:
        nst.main(["--show", str(path)])
    assert exit.value.code == 0
    return capsys.readouterr()


def test_shown_command_makes_the_same_picture(made, capsys):
    out, err = show(capsys, made / "out.png")
    assert out.startswith("python3 nst.py -c ")  # for a shell
    assert out.count("\n") == 1
    assert f"nst {__version__}, network small, 6 of 6 iterations" in err
    before = images.load(made / "out.png")
    (made / "out.png").rename(made / "first.png")
    assert nst.main(shlex.split(out)[2:]) == 0
    assert (images.load(made / "out.png") == before).all()
    assert images.read_metadata(made / "out.png") == images.read_metadata(made / "first.png")


def test_metadata_of_a_result(made):
    found = images.read_metadata(made / "out.png")
    assert found["version"] == __version__
    assert found["iterations"] == 6
    own = networks.NETWORKS["small"]
    assert found["settings"]["content_layers"] == [*own.content_layers]  # resolved
    assert found["settings"]["num_iter"] == 6
    assert found["settings"]["style_layers"] == ["level1_conv1", "level2_conv1=3"]


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


def test_interrupted_run_shows_how_far_it_came(tmp_path, capsys):
    metadata = {**METADATA, "style": ["s.png"], "settings": {"num_iter": 50}}
    images.save(tmp_path / "x.png", picture(20, 20), metadata)
    out, err = show(capsys, tmp_path / "x.png")
    assert "--num_iter 50" in out
    assert "3 of 50 iterations, total 3.000e-01" in err


def test_of_version_1_0_what_no_picture_depends_on_is_left_out(tmp_path, capsys):
    settings = {"num_iter": 50, "save_every": 5, "timelapse": "x.gif", "plot": None}
    metadata = {**METADATA, "style": ["s.png"], "settings": settings}
    images.save(tmp_path / "x.png", picture(20, 20), metadata)
    out, _ = show(capsys, tmp_path / "x.png")
    assert shlex.split(out)[-2:] == ["--num_iter", "50"]


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
    made = METADATA | {"settings": {"precision": "float32"}}
    images.save(tmp_path / "x.png", picture(20, 20), made)
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
def test_what_cannot_be_shown(tmp_path, capsys, settings, reason):
    path = tmp_path / "x.png"
    images.save(path, picture(20, 20), settings is not None and {**METADATA, "settings": settings})
    assert nst.main(["--show", str(path)]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"nst: {path} ")
    assert reason in err


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
def test_metadata_of_anyone(tmp_path, capsys, monkeypatch, changes):
    """One sentence, or a command, and nothing that a terminal obeys."""
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    path = tmp_path / "x.png"
    images.save(path, picture(20, 20), PLAIN | changes)
    status = run_show(path)
    out, err = capsys.readouterr()
    assert status == (0 if out else 2)
    assert err.count("\n") == 1
    assert (out + err).replace("\n", "").isprintable()


def run_show(path):
    try:
        return nst.main(["--show", str(path)])
    except SystemExit as done:
        return done.code


def test_command_writes_to_the_picture_alone(tmp_path, capsys):
    """Whatever files a foreign picture names."""
    path, files = tmp_path / "x.png", dict.fromkeys(("plot", "timelapse"), "precious.png")
    settings = {**files, "save_every": 1, "num_iter": 3}
    images.save(path, picture(20, 20), PLAIN | {"settings": settings, "result": "precious.png"})
    assert run_show(path) == 0
    out = capsys.readouterr().out
    assert "precious" not in out
    assert shlex.split(out)[-4:] == ["-r", str(path), "--num_iter", "3"]


def test_command_is_the_one_that_was_called(tmp_path, capsys, monkeypatch):
    images.save(tmp_path / "x.png", picture(20, 20), PLAIN)
    monkeypatch.setattr(sys, "argv", ["/usr/bin/nst", "--show", "x.png"])
    assert run_show(tmp_path / "x.png") == 0
    assert capsys.readouterr().out.startswith("nst -c ")


def test_show_of_no_image(tmp_path, capsys):
    (tmp_path / "x.png").write_text("no picture")
    for name in ("x.png", "gone.png"):
        assert nst.main(["--show", str(tmp_path / name)]) == 2
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert f"cannot read {tmp_path / name}: " in err
