"""The program in unfriendly surroundings: streams, variables, signals, other set-ups of Keras."""

import json
import os
import signal
import subprocess
import sys
import tempfile

import pytest
from conftest import MADE, picture
from test_cli import CONTENT, QUICK, ROOT, STYLE, command, example

from nstlib import cli, images, tf


def shell(line, *arguments, **environment):
    """Run a line of shell with the command as its arguments."""
    return subprocess.run(
        ["sh", "-c", line, "sh", *command(*arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env={**os.environ, **environment},
    )


def test_all_at_once(tmp_path):
    """Each of them alone ended 1.0.0, or lost its picture."""
    other = {"backend": "jax", "image_data_format": "channels_first", "floatx": "float16"}
    (tmp_path / "keras.json").write_text(json.dumps(other))
    done = shell(
        'exec "$@" 2>&-',
        *example(tmp_path / "x.png", *QUICK, "-n", 2, "-v"),
        KERAS_HOME=str(tmp_path),
        KERAS_BACKEND="torch",
        TF_USE_LEGACY_KERAS="1",
        PYTHONSAFEPATH="1",
        TMPDIR="/gone",
    )
    assert (done.returncode, done.stdout) == (0, "")
    assert max(images.image_size(tmp_path / "x.png")) == 64


def test_without_docstrings():
    """Which help(nst.Settings) is made of; a picture would first compile all of TensorFlow anew."""
    done = shell('exec "$@"', "-h", PYTHONOPTIMIZE="2")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "line",
    ['exec "$@" 2>&-', 'exec "$@" 2>/dev/full', 'exec 3>&1; { "$@" 2>&1 >&3; echo $? >&3; } | :'],
)
def test_nobody_listens(line):
    """To the sentence about an error; the status still tells, and stdout stays clean."""
    done = shell(line, "-c", "gone.jpg", "-s", STYLE, "-r", "x.jpg")
    assert (done.returncode, done.stdout) in {(2, ""), (0, "2\n")}


@pytest.mark.parametrize("line", ['exec "$@" >/dev/full', '{ "$@"; echo $? >&2; } | :'])
def test_a_command_that_nobody_can_read(line, tmp_path):
    images.save(tmp_path / "x.png", picture(8, 8), MADE)
    done = shell(line, "--show", tmp_path / "x.png")
    sentence, *status = done.stderr.splitlines()
    assert sentence.startswith("nst: cannot write to standard output: ")
    assert [done.returncode, *status] in ([2], [0, "2"])


def test_the_first_use_by_several_threads():
    """Standard error, Pillow's limit and Python's warnings stay those of the whole process."""
    script = f"""
import os, threading, warnings
from PIL import Image
from nstlib import images, tf
def state():
    return os.fstat(2), Image.MAX_IMAGE_PIXELS, list(warnings.filters)
def work():
    start.wait()
    tf.constant(1)
    for _ in range(50):
        images.load({str(CONTENT)!r}, 32)
start = threading.Barrier(6)
threads = [threading.Thread(target=work) for _ in range(6)]
images.load({str(CONTENT)!r}, 32)
before = state()
for thread in threads: thread.start()
for thread in threads: thread.join()
inode, limit, _ = state()
assert (inode.st_dev, inode.st_ino) == (before[0].st_dev, before[0].st_ino), "stderr"
assert limit == before[1], "limit"
assert ("ignore", None, Warning, None, 0) not in warnings.filters, "warnings"
"""
    with tempfile.TemporaryFile() as stderr:
        done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, stderr=stderr, check=False)
        stderr.seek(0)
        assert (done.returncode, stderr.read()) == (0, b"")


def test_interrupt_while_modules_load(tmp_path):
    """A module that stands before one of the program's sends it."""
    (tmp_path / "numpy.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGINT)")
    done = shell('exec "$@"', "-c", CONTENT, "-s", STYLE, PYTHONPATH=str(tmp_path))
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")


def test_second_signal_ends_it_at_once():
    """Where there is nothing to lose, wherever the first is being dealt with."""
    code = """
import os, signal
from nstlib import cli
with cli.Interrupts():
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except KeyboardInterrupt:
        os.kill(os.getpid(), signal.SIGTERM)
        print("goes on")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")


def test_streams_are_left_alone():
    before = sys.stdin, sys.stdout, sys.stderr
    cli.open_streams()
    assert before == (sys.stdin, sys.stdout, sys.stderr)


def test_garbage_of_those_who_import_it_is_found(monkeypatch):
    """The program's own process has nothing but TensorFlow to look through; another's has."""
    script = """
import gc
from nstlib import tf
before = gc.get_freeze_count()
tf.constant(1)
assert gc.isenabled() and gc.get_freeze_count() == before
tf._loaded.cache_clear()
tf.own_process = True
tf.constant(1)
assert gc.isenabled() and gc.get_freeze_count() > 100_000
"""
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)
    monkeypatch.setattr(tf, "own_process", False)
    assert cli.answer(lambda *_: 0, []) == 0
    assert tf.own_process
