"""The script that makes the bundled network, on a few small pictures."""

import subprocess
import sys

import numpy as np
from conftest import ROOT

from nstlib import images, networks


def learn(folder, name, seed):
    script, out = ROOT / "training/learn_small.py", folder.parent / f"{name}.h5"
    command = [sys.executable, script, folder, "--out", out, "--seed", str(seed)]
    subprocess.run(command, check=True, capture_output=True)
    return networks.read_weights(out, "small")


def test_training_makes_a_network_and_the_same_again(tmp_path):
    folder, rng = tmp_path / "photos", np.random.default_rng(0)
    folder.mkdir()
    (folder / "notes.txt").write_text("no picture")
    for i in range(3):
        images.save(folder / f"{i}.png", images.resize(rng.uniform(0, 255, (12, 13, 3)), 120, 130))
    first, again, other = (
        learn(folder, name, seed) for name, seed in (("first", 0), ("again", 0), ("other", 1))
    )
    for name, (kernel, bias) in first.items():
        assert np.isfinite(kernel).all()
        assert np.isfinite(bias).all()
        assert (np.abs(kernel).max(axis=(0, 1, 2)) > 0).all()  # no filter is lost
        assert (kernel == again[name][0]).all()
        assert (bias == again[name][1]).all()
        assert (kernel != other[name][0]).any()


def test_training_without_photographs(tmp_path):
    command = [sys.executable, ROOT / "training/learn_small.py", tmp_path, "--out", tmp_path / "x"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode
    assert done.stderr.splitlines()[-1] == f"{tmp_path} holds no photographs"
    assert not list(tmp_path.iterdir())
