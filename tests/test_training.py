"""The script that makes the bundled network, for a few steps on a few pictures."""

import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT

from nstlib import images, networks

SHORT = ("--batch", "4", "--crop", "32", "--checkpoint_every", "2", "--seed", "3")


def train(folder, steps, name):
    script, out = ROOT / "training/train_small.py", folder.parent / f"{name}.h5"
    command = [sys.executable, script, folder, "--out", out, "--steps", str(steps), *SHORT]
    subprocess.run(command, check=True)
    return networks.read_weights(out, "small")


@pytest.mark.slow
def test_training_makes_a_network_and_resumes(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(4):
        coarse = rng.uniform(0, 255, (8, 9, 3))
        images.save(folder / f"{i}.png", images.resize(coarse, 270, 300))
    first = train(folder, 4, "first")
    again = train(folder, 4, "again")
    for name, (kernel, bias) in first.items():
        assert np.isfinite(kernel).all()
        assert (kernel == again[name][0]).all()
        assert (bias == again[name][1]).all()
    before = networks.read_weights(tmp_path / "first.h5", "small")
    train(folder, 4, "first")  # nothing left to do: it goes on from its checkpoint
    after = networks.read_weights(tmp_path / "first.h5", "small")
    assert all((before[name][0] == after[name][0]).all() for name in before)
    longer = train(folder, 6, "first")
    assert any((before[name][0] != longer[name][0]).any() for name in before)
