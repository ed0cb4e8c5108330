"""What systems have against paths: each is one sentence, before work starts."""

import contextlib
import io
import os
import re
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import pytest
from conftest import arguments, picture

import nst
from nstlib import UserError, images, networks, paths, tf

NOBODY = 65534
USES = {
    "picture": images.load,
    "size": images.image_size,
    "metadata": images.read_metadata,
    "mask": lambda path: images.load_mask(path, 8, 8),
    "weights": lambda path: networks.read_weights(path, "small"),
    "result": images.check_result_path,
    "source": lambda path: images.check_result_path("/tmp/out.png", [path]),
}
READS = [name for name in USES if name not in ("result", "source")]


@pytest.fixture
def place(monkeypatch):
    """The working folder, as an ordinary user."""
    with tempfile.TemporaryDirectory(prefix="nst-tests-") as folder:
        monkeypatch.chdir(folder)
        images.save("photo.jpg", picture(32, 48))
        with contextlib.ExitStack() as stack:
            if os.geteuid() == 0:  # whom nothing is forbidden
                os.chown(folder, NOBODY, NOBODY)
                os.chown("photo.jpg", NOBODY, NOBODY)
                os.seteuid(NOBODY)
                stack.callback(os.seteuid, 0)
            yield Path(folder)


def complaint(use, path):
    with pytest.raises(UserError) as error:
        USES[use](path)
    message = str(error.value)
    assert re.fullmatch(rf"cannot (read|write) {re.escape(str(path))}: [^\n]+; [^\n.;]+", message)
    return message


@pytest.mark.parametrize("use", [*READS, "result"])
def test_folder_that_may_not_be_entered(place, use):
    Path("closed").mkdir()
    images.save("closed/x.png", picture(32, 48))
    Path("closed").chmod(0)
    assert "ermission denied" in complaint(use, "closed/x.png")
    Path("closed").chmod(0o700)


def test_file_that_may_not_be_read_or_replaced(place, monkeypatch):
    monkeypatch.setattr(os, "access", partial(os.access, effective_ids=True))  # not root's
    Path("photo.jpg").chmod(0o400)
    assert "write-protected" in complaint("result", "photo.jpg")
    Path("photo.jpg").chmod(0)
    for use in READS:
        assert "ermission denied" in complaint(use, "photo.jpg")


@pytest.mark.parametrize("use", [*READS, "result"])
def test_links_in_a_circle(place, use):
    Path("x.png").symlink_to("y.png")
    Path("y.png").symlink_to("x.png")
    message = complaint(use, "x.png")
    assert "symbolic links" in message
    assert "fetch it again" not in message


@pytest.mark.parametrize("use", READS)
def test_link_to_what_is_not_there(place, use):
    """A name that `ls` shows is not said to be none."""
    Path("x.png").symlink_to("gone.png")
    assert "it is a link to gone.png, which is not there; mend the link" in complaint(use, "x.png")


@pytest.mark.parametrize("use", [*READS, "result"])
def test_name_too_long(place, use):
    assert "name too long" in complaint(use, "n" * 300 + ".png")


def strand():
    """Into a working folder that is gone."""
    os.mkdir("gone")  # noqa: PTH102 (relative, as both below)
    os.chdir("gone")
    os.rmdir("../gone")  # noqa: PTH106


@pytest.mark.parametrize("use", [*READS, "result"])
def test_working_folder_is_gone(place, use):
    strand()
    message = complaint(use, "x.png")
    os.chdir(place)
    assert "the working folder is gone; change to another" in message


def test_whole_name_needs_no_working_folder(place):
    """Where that is gone, what is wrong with a name that does not depend on it is still said."""
    strand()
    images.check_result_path(place / "out.png")
    read, written = complaint("picture", place / "x.png"), complaint("result", place / "a/x.png")
    os.chdir(place)
    assert f"no such file (looked in {place})" in read
    assert f"there is no folder {place / 'a'}" in written


@pytest.mark.parametrize("use", [*READS, "result"])
def test_pipe_is_not_waited_for(place, use):
    os.mkfifo("x.png")
    assert "pipe" in complaint(use, "x.png") or "regular" in complaint(use, "x.png")


@pytest.mark.parametrize("use", READS)
def test_open_pipe_is_not_called_empty(use):
    """As a shell's <(command) gives it."""
    read, write = os.pipe()
    os.write(write, b"GIF89a")
    assert "pipe" in complaint(use, f"/dev/fd/{read}")
    os.close(read)
    os.close(write)


@pytest.mark.parametrize("use", READS)
def test_empty_name(place, use):
    assert complaint(use, "") == "cannot read : its name is empty; name a file"


@pytest.mark.parametrize("use", [*USES])
def test_name_with_nothing_in_it(place, use):
    with contextlib.suppress(UserError):
        USES[use]("")
    with contextlib.suppress(UserError):
        USES[use]("a\0b.png")


def test_result_that_names_a_folder(place):
    assert "it names a folder" in complaint("result", "new.jpg/")


def test_sources_need_not_be_there(place):
    Path("x.png").symlink_to("x.png")
    sources = ["gone.png", "gone/x.png", "photo.jpg/x", "n" * 300, "x.png", "http://a.b/new.png"]
    images.check_result_path("new.png", sources)


def test_no_folder_for_temporary_files_is_needed(place, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", "/gone")
    images.check_result_path("new.png")
    images.save("new.png", picture(32, 48))
    with tf._quiet_stderr():
        pass


OPTIONS = ["-c", "-s", "-r", "--init", "--mask", "--plot", "--timelapse", "--weights"]


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("name", ["closed/x.gif", "n" * 300 + ".gif"], ids=["closed", "long"])
def test_no_option_minds_what_may_not_be_entered(place, capsys, option, name):
    Path("closed").mkdir()
    Path("closed").chmod(0)
    good = {"-c": "photo.jpg", "-s": "photo.jpg", "-r": "out.png"}
    name = name.replace(".gif", ".png") if option in ("-r", "--plot") else name
    argv = [option, name, "--network", "small"] + ["--mask", name] * (option == "--mask")
    if option == "--mask":  # one for each style
        argv += ["-s", "photo.jpg"]
    assert nst.main(arguments(good, argv)) == 2
    error = capsys.readouterr().err
    Path("closed").chmod(0o700)
    assert re.fullmatch(rf"nst: cannot (read|write) {name}: [^\n]+\n", error)
    assert "ermission denied" in error or "name too long" in error


def test_closed_folder_for_step_pictures(place):
    Path("out_steps").mkdir()
    Path("out_steps").chmod(0)
    with pytest.raises(UserError, match="ermission denied"):
        nst.Outputs("out.png", save_every=1).check()
    Path("out_steps").chmod(0o700)


# What a killed process leaves


def test_leftovers_of_dead_processes_are_removed(tmp_path):
    code = """
import os, sys
from pathlib import Path
from nstlib import paths
with paths.replacing(Path(sys.argv[1])):
    os.kill(os.getpid(), 9)
"""
    root = Path(paths.__file__).parents[1]
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "x.png")], cwd=root, check=False)
    (left,) = tmp_path.iterdir()
    own = tmp_path / re.sub(r"-\d+-", f"-{os.getpid()}-", left.name)
    own.touch()  # of another thread, say
    foreign = tmp_path / left.name.replace(".nst-", ".nst-elsewhere")
    foreign.touch()
    paths.write(tmp_path / "y.png", b"y")
    assert set(tmp_path.iterdir()) == {own, foreign, tmp_path / "y.png"}


class Forgetful(io.FileIO):
    """On a disk that drops what it is given, and says nothing."""

    def write(self, data):
        super().write(data[:100])
        return len(data)


def test_what_is_written_is_read_back(tmp_path, monkeypatch):
    (tmp_path / "x").write_bytes(b"before")
    monkeypatch.setattr(Path, "open", lambda self, mode: Forgetful(self, mode.replace("b", "")))
    with pytest.raises(OSError, match="does not keep"):
        paths.write(tmp_path / "x", bytes(200))
    monkeypatch.undo()
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("x", b"before")]
