"""VGG19 on ImageNet's weights: whether this machine's set-up gives the losses that were published.

    python -m pytest -m vgg19

It takes minutes on a CPU, downloads the weights if they are not there, and keeps its picture as
out.vgg19.jpg, to look at.
"""

import os
import subprocess
import sys

import pytest
from conftest import ROOT

import nst
from nstlib import images

START, END = 4.8e8, 1.2e6  # weighted style loss, published for other pictures and the classic loop
TOLERANCE = 10  # times as much or as little may come of another pair


@pytest.fixture
def weights():
    """Found as the program would, but not in the tests' own empty folder."""
    find = "from nstlib import networks; print(networks.find_weights('vgg19'))"
    home = {name: value for name, value in os.environ.items() if name != "KERAS_HOME"}
    command = [sys.executable, "-c", find]
    found = subprocess.run(command, cwd=ROOT, env=home, capture_output=True, text=True, check=False)
    if found.returncode:
        pytest.skip(found.stderr.strip().rpartition("\n")[2])
    return found.stdout.strip()


@pytest.mark.vgg19
def test_losses_are_those_published(weights):
    """At full size from the photograph on, as the published ones were measured."""
    settings = nst.Settings(network="vgg19", weights=weights, scales=1, num_iter=200)
    content, style = ROOT / "examples/content/temple.jpg", ROOT / "examples/style/circles.jpg"
    result = nst.stylize(content, style, settings)
    images.save(ROOT / "out.vgg19.jpg", result.image)
    first, *_, last = result.losses["style"]
    assert START / TOLERANCE < first < START * TOLERANCE
    assert END / TOLERANCE < last < END * TOLERANCE
