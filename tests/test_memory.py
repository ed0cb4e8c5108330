"""What a picture needs, against the process's peak; what there is, against files of the system."""

import math
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import picture

import nst
from nstlib import UserError, images, memory

GB = 10**9


@pytest.fixture(autouse=True)
def cpu(monkeypatch):
    monkeypatch.setattr(memory.tf, "gpus", list)


@pytest.fixture
def gpu(cpu, monkeypatch, tmp_path):
    """One of which nothing is known."""
    monkeypatch.setattr(memory.tf, "gpus", lambda: ["GPU"])
    monkeypatch.setenv("PATH", str(tmp_path))
    memory._graphics_memory.cache_clear()
    yield
    memory._graphics_memory.cache_clear()


def settings(**changes):
    return nst.Settings(**{"network": "small", "precision": "float32", "size": 1000, **changes})


# The need


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "changes", "tile"),
    [
        (512, {}, 0),
        (1024, {}, 0),
        (1024, {"precision": "bfloat16"}, 0),
        (768, {"precision": "float16"}, 0),
        (768, {"optimizer": "lbfgs"}, 0),
        (256, {"style_scale": 6.0}, 0),
        (1024, {"style_scale": 0.25}, 256),
        (2048, {"style_scale": 0.125}, 512),
    ],
)
def test_need_is_the_peak(size, changes, tile):
    options = {"precision": "float32", "num_iter": 3 if tile else 12, **changes}
    code = f"""
import resource, numpy, nst
image = numpy.random.default_rng(0).integers(0, 256, ({size}, {size}, 3), dtype=numpy.uint8)
settings = nst.Settings(network="small", size={size}, scales=1, **{options})
nst.stylize(image, image, settings, tile={tile})
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    command, root = [sys.executable, "-c", code], Path(nst.__file__).parent
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, check=True)
    chosen = settings(**options, size=size)
    style = round(size * chosen.style_scale)
    needed = memory.needed(chosen, (size, size), [(style, style)], tile)
    assert 0.75 < 1024 * int(done.stdout) / needed < 1.1


@pytest.mark.parametrize(
    ("more", "less"),
    [
        ({"size": 2000}, {"size": 1000}),
        ({}, {"precision": "bfloat16"}),
        ({"optimizer": "lbfgs"}, {}),
        ({}, {"style_layers": ("level1_conv1",), "content_layers": ("level1_conv1",)}),
        (
            {"network": "vgg19"},
            {"network": "vgg19", "style_weight": 0, "content_layers": ("conv2_1",)},
        ),
    ],
)
def test_what_takes_more(more, less, monkeypatch):
    monkeypatch.setattr(memory.networks, "has_bfloat16", lambda: True)
    sizes = [(x.size, x.size) for x in (settings(**more), settings(**less))]
    more, less = (
        memory.needed(settings(**x), size, [size])
        for x, size in zip((more, less), sizes, strict=True)
    )
    assert more > 1.1 * less


def test_bfloat16_where_the_processor_has_none(monkeypatch):
    """It takes more than float32: 4.2 GB, on a processor with AVX2."""
    monkeypatch.setattr(memory.networks, "has_bfloat16", lambda: False)
    need = memory.needed(settings(precision="bfloat16"), (1024, 1024), [(1024, 1024)])
    assert 0.75 < 4.2 * GB / need < 1.1


# What there is


@pytest.fixture
def system(tmp_path, monkeypatch):
    """A machine of 8 GB, which has no limits until they are written."""
    proc = tmp_path / "proc"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal: 16000000 kB\nMemAvailable:    7812500 kB\n")
    monkeypatch.setattr(memory, "PROC", proc)
    monkeypatch.setattr(resource, "getrlimit", lambda which: (-1, -1))
    for kind, (root, *names) in memory.GROUPS.items():
        monkeypatch.setitem(memory.GROUPS, kind, (str(tmp_path) + root, *names))
    return tmp_path


def write(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(f"{text}\n")


def test_machine(system):
    assert memory.available() == 8 * GB


@pytest.mark.parametrize("own", ["max", 7 * GB])
def test_container_of_version_2(system, own):
    """Limited by the group above its own, as by its own; what it caches, it can have back."""
    (system / "proc" / "self" / "cgroup").write_text("0::/a/b\n")
    root, stat = system / "sys" / "fs" / "cgroup", f"anon {GB}\ninactive_file {GB}"
    write(root / "a" / "b", memory__max=own, memory__current=GB, memory__stat=stat)
    assert memory.available() == (8 * GB if own == "max" else 7 * GB)
    write(root / "a", memory__max=5 * GB, memory__current=3 * GB, memory__stat=stat)
    assert memory.available() == 3 * GB


def test_container_of_version_1(system):
    (system / "proc" / "self" / "cgroup").write_text("4:cpu,memory:/x\n0::/\n")
    figures = {"limit_in_bytes": 6 * GB, "usage_in_bytes": 4 * GB}
    files = {f"memory__{name}": value for name, value in figures.items()}
    write(
        system / "sys" / "fs" / "cgroup" / "memory",
        **files,
        memory__stat=f"total_inactive_file {GB}",
    )
    assert memory.available() == 3 * GB


def test_ulimit(system, monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda which: (5 * GB, -1))
    assert memory.available() < 5 * GB - 1.3e9


def test_other_systems(system, monkeypatch):
    """Without these files, it is the machine's whole memory, or no limit that is known."""
    monkeypatch.setattr(memory, "PROC", system / "gone")
    assert 0 < memory.available() < math.inf
    monkeypatch.delattr(memory.os, "sysconf")
    assert memory.available() == math.inf


# The sentence


@pytest.mark.parametrize(
    ("changes", "tile", "says"),
    [
        ({"size": 16384}, 0, "--size 16384 needs about"),
        ({"size": 4000, "network": "vgg19"}, 0, "--size 4000 needs about"),
        ({"size": 2000, "style_scale": 10.0}, 0, "--size 2000 with --style_scale 10 needs about"),
        ({"size": 16384}, "auto", "--size 16384 needs about"),
        ({"size": 16384, "network": "vgg19"}, 512, "--size 16384 needs about"),
    ],
)
def test_largest_size_that_fits(system, changes, tile, says):
    chosen = settings(**changes)
    with pytest.raises(UserError, match=r"and there are 8.0: make --size at most (\d+)$") as error:
        memory.check_memory(chosen, [(400, 300), (300, 200)], tile)
    message = str(error.value)
    assert message.startswith(says)
    largest = int(message.rpartition(" ")[2])
    assert 100 < largest < chosen.size
    for size, fits in ((largest, True), (largest + 1, False)):
        style = images.size_to_fit(300, 200, round(size * chosen.style_scale))
        least = 256 if tile == "auto" else tile
        needed = memory.needed(chosen, images.size_to_fit(400, 300, size), [style], least)
        assert (needed <= 8 * GB) == fits


@pytest.mark.parametrize(
    ("network", "size", "ways"),
    [
        ("small", 512, [0, 256]),
        ("small", 1500, [0, 1024, 512, 256]),
        ("small", 4000, [1024, 512, 256]),
        ("vgg19", 3000, [1024, 512, 256]),
        ("vgg19", 6000, [1024, 512, 256]),
        ("vgg19", 8000, [512, 256]),
        ("vgg19", 9999, [256]),  # if anything
    ],
)
def test_tiles_where_the_whole_does_not_fit(system, network, size, ways):
    """The whole first, if that fits; then the largest tiles, which are the fastest."""
    chosen = settings(network=network, size=size)
    picture = (size, round(0.75 * size)), [(512, 512)]
    assert memory.ways(chosen, *picture) == ways
    assert memory.ways(chosen, *picture, tile=0) == [0]
    assert memory.ways(chosen, *picture, tile=600) == [600 if size > 600 else 0]
    shared = memory.ways(chosen, *picture, workers=object())
    assert shared == ([1024] if size > 1024 else ways)
    limited = [memory.needed(chosen, *picture, way) for way in (0, 1024, 512, 256)]
    assert size <= 1024 or limited == sorted(limited, reverse=True)


@pytest.mark.parametrize("network", ["small", "vgg19"])
@pytest.mark.parametrize(
    ("size", "style", "tile", "ways"),
    [
        (3000, 512, "auto", [0, 1024, 512, 256]),  # until it is used up
        (9999, 512, "auto", [1024, 512, 256]),  # but the whole cannot be numbered
        (900, 9999, "auto", [512, 256]),
        (9999, 512, 0, [1024, 512, 256]),
        (9999, 512, 8000, [1024, 512, 256]),
        (9999, 512, 3000, [3000]),
        (200, 200, "auto", [0]),
    ],
)
def test_ways_on_graphics_cards(gpu, network, size, style, tile, ways):
    chosen = settings(network=network, size=size)
    assert memory.ways(chosen, (size, size), [(style, style)], tile) == ways


@pytest.mark.parametrize(
    ("cards", "size", "ways"),
    [
        ("16384", 3000, [0, 1024, 512, 256]),
        ("8192", 3000, [1024, 512, 256]),
        ("4096\n8192\n2048", 3000, [1024, 512, 256]),  # of which it may be the largest
        ("8192\n16384", 3000, [0, 1024, 512, 256]),
        ("64", 3000, [1024, 512, 256]),  # if anything
        ("64", 200, [0]),
        ("[N/A]", 3000, [0, 1024, 512, 256]),  # where it shares the machine's
        ("", 3000, [0, 1024, 512, 256]),
        ("64; exit 9", 3000, [0, 1024, 512, 256]),
    ],
)
def test_what_the_driver_tells(gpu, tmp_path, cards, size, ways):
    driver = tmp_path / "nvidia-smi"
    text, _, end = cards.partition("; ")
    driver.write_text(f"#!/bin/sh\n[ $1 = --query-gpu=memory.total ] && echo '{text}'\n{end}")
    driver.chmod(0o755)
    chosen = settings(network="vgg19", size=size)
    assert memory.ways(chosen, (size, size), [(512, 512)]) == ways
    assert memory.ways(chosen, (size, size), [(512, 512)], tile=0) == [0]
    few = settings(size=size, style_layers=["level3_conv1"], content_layers=["level3_conv2"])
    whole = [0, 1024, 512, 256][: 4 if size > 1024 else 1]
    assert memory.ways(few, (size, size), [(512, 512)]) == (whole if cards != "64" else ways)


def test_nothing_is_loaded_that_does_not_fit(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 1 * GB)
    monkeypatch.setattr(images, "load", lambda *args: pytest.fail("is loaded"))
    with pytest.raises(UserError, match="--size 2000 needs about"):
        nst.stylize(picture(32, 32), picture(32, 32), settings(size=2000))


def test_graphics_cards_have_their_own(system, gpu):
    memory.check_memory(settings(size=16384), [(400, 300), (300, 200)])
