"""Weights files that are none, or wish the program ill: one sentence, little memory, nothing read
outside."""

import os
import resource
from pathlib import Path

import h5py
import numpy as np
import pytest

from nstlib import UserError, networks

SHAPES = networks.NETWORKS["small"].shapes


def write(path, change=lambda group, name, part, array: array):
    """A file like Keras's; `change` gives the array to write, or None where it wrote itself."""
    with h5py.File(path, "w") as file:
        for name, shape in SHAPES.items():
            group = file.create_group(f"{name}/{name}")
            for part, array in {"kernel": np.ones(shape), "bias": np.ones(shape[-1])}.items():
                array = change(group, name, part, np.float32(array))
                if array is not None:
                    group[part] = array


def first(part, make):
    """A change of one array of the first layer."""

    def change(group, name, found, array):
        if (name, found) == ("conv1", part):
            return make(group, array)
        return array

    return change


def outside(group, array):
    """An array in a pipe that nobody writes to."""
    os.mkfifo("pipe")
    group.create_dataset("bias", array.shape, "f4", external=[("pipe", 0, array.nbytes)])


def elsewhere(group, array):
    """An array that is a view of one in another file."""
    layout = h5py.VirtualLayout(array.shape, "f4")
    layout[:] = h5py.VirtualSource("other.h5", "bias", array.shape)
    group.create_virtual_dataset("bias", layout)


def linked(group, array):
    os.mkfifo("pipe.h5")
    group["bias"] = h5py.ExternalLink("pipe.h5", "bias")


def linked_beside(group, array):
    linked(group, array)
    group["other"] = array


def huge(group, array):
    """Two gigabytes, once unpacked."""
    group.create_dataset(
        "kernel", (3, 3, 3, 20_000_000), "f4", chunks=(3, 3, 3, 200_000), compression=1
    )


def huge_chunk(group, array):
    layout = {"maxshape": (None,), "chunks": (500_000_000,), "compression": 1}
    group.create_dataset("bias", array.shape, "f4", **layout)


BAD = {
    "nan": first("kernel", lambda group, array: array * np.nan),
    "infinite": first("bias", lambda group, array: array * np.inf),
    "longer bias": first("bias", lambda group, array: np.ones(65, np.float32)),
    "text": first("bias", lambda group, array: np.array([b"x"] * 64)),
    "huge": first("kernel", huge),
    "huge chunk": first("bias", huge_chunk),
    "outside": first("bias", outside),
    "elsewhere": first("bias", elsewhere),
    "linked": first("bias", linked),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_weights(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    write("x.h5", BAD[kind])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=r"^x\.h5 (does not hold|holds) [^;\n]*; \w"):
        networks.read_weights("x.h5", "small")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kilobytes


def cut(path):
    whole = Path(networks.find_weights("small")).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def dense(path):
    with h5py.File(path, "w") as file:
        file["dense/kernel"], file["dense/bias"] = np.ones([4, 4]), np.ones(4)


def unbiased(path):
    write(path, lambda group, name, part, array: array if part == "kernel" else None)


@pytest.mark.parametrize(
    "make",
    [
        lambda path: None,
        lambda path: path.write_text("no weights at all\n" * 99),
        Path.touch,
        Path.mkdir,
        lambda path: h5py.File(path, "w").close(),
        cut,
        dense,
        unbiased,
    ],
    ids=["missing", "text", "empty", "folder", "hollow", "cut", "dense", "unbiased"],
)
def test_no_weights_file(tmp_path, make):
    path = tmp_path / "x.h5"
    make(path)
    with pytest.raises(UserError) as error:
        networks.feature_extractor("small", ["level1_conv1"], weights=path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("change", [lambda *found: found[-1], first("bias", linked_beside)])
def test_good_weights(tmp_path, monkeypatch, change):
    """Links out of the file are nothing to it."""
    monkeypatch.chdir(tmp_path)
    write("x.h5", change)
    weights = networks.read_weights("x.h5", "small")
    assert list(weights) == list(SHAPES)
    assert all((array == 1).all() for pair in weights.values() for array in pair)
