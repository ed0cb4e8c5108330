"""The fuzzer's runs: a short one each time, a long one with `pytest -m slow`."""

import subprocess
import sys
from pathlib import Path

import fuzz
import pytest


def run(kind, count, seed):
    command = [sys.executable, Path(fuzz.__file__), kind, str(count), str(seed)]
    return subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)


@pytest.mark.parametrize(("kind", "count"), [("files", 300), ("weights", 40), ("options", 150)])
def test_a_result_or_one_sentence(kind, count):
    done = run(kind, count, seed=0)
    assert done.stdout.endswith(f"{count} {kind}, 0 failures\n"), done.stdout + done.stderr
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 4))
@pytest.mark.parametrize(("kind", "count"), [("files", 3000), ("weights", 300), ("options", 1000)])
def test_at_length(kind, count, seed):
    done = run(kind, count, seed)
    assert done.stdout.endswith(f"{count} {kind}, 0 failures\n"), done.stdout + done.stderr


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_every_format_is_tried():
    """By files that Pillow takes for what they are meant to be, before they are damaged."""
    for format in fuzz.Image.OPEN.keys() & {*fuzz.formats()}:
        with fuzz.Image.open(fuzz.io.BytesIO(fuzz.sound_file(format, "RGB", 16, 16))) as picture:
            assert picture.format.upper() == format
