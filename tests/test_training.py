"""The script that makes the bundled network, on a few small pictures."""

import sys

import learn_small
import numpy as np
import pytest

from nstlib import images, networks


def learn(monkeypatch, folder, name, seed):
    out = folder.parent / f"{name}.h5"
    argv = ["learn_small.py", str(folder), "--out", str(out), "--seed", str(seed)]
    monkeypatch.setattr(sys, "argv", argv)
    learn_small.main()
    return networks.read_weights(out, "small")


def test_training_makes_a_network_and_the_same_again(tmp_path, monkeypatch):
    folder, rng = tmp_path / "photos", np.random.default_rng(0)
    folder.mkdir()
    (folder / "notes.txt").write_text("no picture")
    for i in range(3):
        images.save(folder / f"{i}.png", images.resize(rng.uniform(0, 255, (12, 13, 3)), 120, 130))
    first, again, other = (
        learn(monkeypatch, folder, name, seed)
        for name, seed in (("first", 0), ("again", 0), ("other", 1))
    )
    for name, (kernel, bias) in first.items():
        assert np.isfinite(kernel).all()
        assert np.isfinite(bias).all()
        assert (np.abs(kernel).max(axis=(0, 1, 2)) > 0).all()  # no filter is lost
        assert (kernel == again[name][0]).all()
        assert (bias == again[name][1]).all()
        assert (kernel != other[name][0]).any()


def test_training_without_photographs(tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match="holds no photographs"):
        learn(monkeypatch, tmp_path, "x", 0)
    assert not list(tmp_path.iterdir())
