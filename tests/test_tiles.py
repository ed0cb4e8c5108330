"""Tiles against the whole picture: fields and cores, losses and gradients, runs, interrupts, who
evaluates them."""

import contextlib
import itertools
import os
import re
import signal
import subprocess
import sys
import time
import weakref
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ROOT, batch, picture, quick

import nst
from nstlib import cli, images, memory, networks, sources, tf, tiles
from nstlib import cluster as cluster_of_dask
from nstlib.cluster import TileWorkers, connect

FEW = {"style_layers": ("level1_conv1", "level2_conv2")}  # to be traced in a second

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")  # in Keras itself


# Fields and spans


@pytest.mark.parametrize("pooling", networks.POOLINGS)
@pytest.mark.parametrize(
    ("network", "layers"),
    [
        ("narrow", ["block1_conv2", "block2_conv1", "block3_conv1"]),
        ("small", ["level1_conv1", "level1_conv2"]),
    ],
)
def test_fields_are_what_positions_see(network, layers, pooling, narrow):
    """By the gradient: of one position, by all pixels."""
    weights = narrow if network == "narrow" else None
    (level,) = networks.level_extractors(network, layers, pooling, weights)
    image = batch(picture(64, 96))
    for layer, field in level.fields.items():
        with tf.GradientTape() as tape:
            tape.watch(image)
            features = level.seen(image)[layer]
            row, column = features.shape[1] // 2, features.shape[2] // 2
            seen = tf.reduce_sum(features[:, row, column])
        gradient = tape.gradient(seen, image)[0]
        for axis, position in ((0, row), (1, column)):
            pixels = np.flatnonzero(np.any(gradient != 0, axis=(1 - axis, 2)))
            first = position * field.stride - field.before
            last = position * field.stride + field.after
            assert first <= pixels.min() <= pixels.max() <= last
            if pooling != "max":  # which sees but one of four
                assert (pixels.min(), pixels.max()) == (first, last)


@pytest.mark.parametrize("pooling", ["max", "blur"])
def test_spans(pooling):
    """The cores are the whole, once; they begin on the stride, and no window is too narrow."""
    network = networks.NETWORKS["vgg19"]
    fields = [network.fields(pooling)[x] for x in ("block1_conv1", "block3_conv2", "block5_conv2")]
    for length, tile in itertools.product([16, 33, 150, 151, 1000, 1023], [64, 100, 256]):
        spans = tiles.spans(length, tile, fields)
        assert spans[0].start == 0
        assert spans[-1].stop == length
        for one, other in itertools.pairwise(spans):
            assert one.stop == other.start
        for span in spans:
            assert 0 < span.stop - span.start <= tile + 15
            assert span.start % 16 == span.before % 16 == 0
            for field in fields:
                positions = span.positions(field, length // field.stride)
                assert positions.stop > positions.start
                first = positions.start * field.stride - field.before
                last = (positions.stop - 1) * field.stride + field.after
                assert span.before <= max(0, first)
                assert span.after > min(length - 1, last)
        for field in fields:
            seen = [span.positions(field, length // field.stride) for span in spans]
            covered = [i for x in seen for i in range(x.start, x.stop)]
            assert covered == list(range(length // field.stride))


@pytest.mark.parametrize("pooling", networks.POOLINGS)
def test_what_is_pooled_is_cut(pooling):
    """To what the core's positions see of it, and at most a stride more before that."""
    network = networks.NETWORKS["vgg19"]
    pools, fields = network.pools(pooling), network.fields(pooling)
    deepest = fields["block4_conv2"]
    assert [field.stride for field in pools] == [2, 4, 8, 16]
    for length, tile in itertools.product([33, 151, 1000, 1023], [64, 256]):
        for span in tiles.spans(length, tile, [fields["block1_conv1"], deepest], pools):
            core = span.positions(deepest, deepest.count(length))
            assert len(span.seen) == 4  # of the pixels, and after three poolings
            for field, (first, end) in zip(pools, span.seen[1:], strict=False):
                before, after = deepest.before - field.before, deepest.after - field.after
                needed = core.start * 8 - before, (core.stop - 1) * 8 + after
                assert max(0, needed[0] - 7) <= first * field.stride <= max(0, needed[0])
                most = field.count(length)
                assert end == (most if span.last else min(most, needed[1] // field.stride + 1))


# Losses and gradients


@pytest.fixture(autouse=True)
def bands(monkeypatch):
    """Several, though pictures are small."""
    monkeypatch.setattr(tiles, "BAND", 48)


def both(tile, shape, narrow, styles=1, masks=(), **changes):
    """Losses and gradient of some image, whole and in tiles."""
    if changes.get("network") == "narrow":
        changes["weights"] = narrow
        changes.setdefault("style_weight", 1e-6)  # its activations are large
    options = {"network": "small", "precision": "float32", "size": max(shape), **changes}
    settings = nst.Settings(**options, mask=["-"] * len(masks) or None)
    settings, extractor = nst.load_network(settings)
    content, image = batch(picture(*shape)), batch(picture(*shape, 9))
    paintings = [batch(picture(130 + x, 97, 1 + x)) for x in range(styles)]
    shares = []

    def see(share, seconds):
        assert seconds >= 0
        shares.append(share)

    tiled = tiles.Tiled(settings, tile - 32, tiles.Devices(), see)
    results = []
    for take, objective in (
        (
            lambda *x: nst.take_targets(extractor, settings, *x),
            nst.make_objective(extractor, settings),
        ),
        (tiled.take_targets, tiled.objective),
    ):
        parts, gradient = objective(take(content, paintings, masks), image)
        results.append(({x: float(value) for x, value in parts.items()}, np.float64(gradient)))
    assert shares[-1] == 1
    assert np.diff(shares).min() >= 0
    return results


@pytest.mark.parametrize(
    ("tile", "shape", "changes"),
    [
        (64, (150, 210), {}),
        (
            96,
            (151, 99),
            {"style_loss": "gram", "content_layers": ["level2_conv1=3", "level1_conv2"]},
        ),
        (64, (133, 90), {**FEW, "style_loss": "covariance", "pooling": "max", "styles": 2}),
        (64, (80, 111), {**FEW, "content_weight": 0, "style_loss": "covariance", "pooling": "avg"}),
        (64, (80, 111), {"style_weight": 0, "tv_weight": 0}),
        (1000, (80, 111), {"style_layers": ["level3_conv1"]}),
        (64, (150, 210), {"network": "narrow", "content_focus": 1.0}),
        (80, (129, 97), {"network": "narrow", "style_loss": "wasserstein", "pooling": "blur"}),
        (64, (97, 129), {"network": "narrow", "pooling": "avg", "content_layers": ["conv3_2"]}),
        (
            64,
            (97, 129),
            {"network": "narrow", "style_layers": ["conv2_1"], "content_layers": ["conv3_2"]},
        ),
        (
            64,
            (97, 129),
            {"network": "narrow", "style_layers": ["conv3_1"], "content_layers": ["conv1_2"]},
        ),
    ],
)
def test_tiles_are_exact(tile, shape, changes, narrow):
    (parts, gradient), (found, pulled) = both(tile, shape, narrow, **changes)
    assert list(found) == list(parts)
    for name, value in parts.items():
        assert found[name] == pytest.approx(value, rel=1e-5), name
    difference = np.abs(pulled - gradient)
    assert np.linalg.norm(difference) < 1e-4 * np.linalg.norm(gradient)
    assert difference.max() < 1e-3 * np.abs(gradient).max()  # nowhere, at no seam


@pytest.mark.parametrize("network", ["small", "narrow"])
def test_masks_and_blends_are_exact(network, narrow):
    shape = 140, 121
    mask = np.float32(picture(*shape, 4)[None, ..., :1] / 255)
    options = {"network": network, "styles": 2, "style_blend": (3, 7), "style_loss": "covariance"}
    if network == "small":
        options |= FEW
    (parts, gradient), (found, pulled) = both(64, shape, narrow, masks=(mask, 1 - mask), **options)
    assert found == pytest.approx(parts, rel=1e-5)
    assert np.linalg.norm(pulled - gradient) < 1e-4 * np.linalg.norm(gradient)


@pytest.mark.parametrize(("precision", "exact"), [("bfloat16", 3e-2), ("float16", 1e-2)])
def test_half_precision(precision, exact, narrow):
    options = {"network": "narrow", "precision": precision}
    (parts, gradient), (found, pulled) = both(64, (70, 99), narrow, **options)
    assert found == pytest.approx(parts, rel=exact)
    assert np.linalg.norm(pulled - gradient) < exact * np.linalg.norm(gradient)


# Runs


settings = partial(quick, size=120, **FEW, content_layers=None, colors="palette")
CONTENT, STYLE = picture(90, 120), picture(100, 90, 1)


@pytest.mark.parametrize(
    "changes",
    [{"num_iter": 20}, {"num_iter": 5, "optimizer": "lbfgs"}, {"num_iter": 5, "init": "init.png"}],
    ids=["adam", "lbfgs", "going on"],
)
def test_pictures_are_the_same(tmp_path, monkeypatch, changes):
    """After 20 iterations; of a photograph that is left by small steps, for Adam's first goes by
    the gradient's signs alone, that of nearly nothing among them."""
    monkeypatch.chdir(tmp_path)
    images.save("init.png", picture(90, 120, 5))
    chosen = settings(learning_rate=2.0, **changes)
    whole, tiled = (nst.stylize(CONTENT, STYLE, chosen, tile=x) for x in (0, 64))
    np.testing.assert_allclose(tiled.losses["total"], whole.losses["total"], rtol=1e-4)
    difference = np.abs(np.int16(tiled.image) - whole.image)
    assert difference.max() <= 1
    assert np.abs(np.int16(whole.image) - CONTENT).mean() > 5
    assert tiled.settings == whole.settings


@pytest.mark.parametrize("tile", [0, 64])
def test_styles_are_gone_once_their_sums_are_there(tile, monkeypatch):
    """For a large one takes as much memory as the picture does."""
    in_colors, paintings, alive = sources.Sources.in_colors, [], []

    def watched(self, settings):
        found = in_colors(self, settings)
        paintings.extend(map(weakref.ref, found.styles))
        return found

    def on_step(step):
        alive.append([painting() is not None for painting in paintings])

    monkeypatch.setattr(sources.Sources, "in_colors", watched)
    nst.stylize(CONTENT, [STYLE, STYLE], settings(num_iter=4, scales=2), on_step, tile=tile)
    assert [True, True] in alive  # at the first scale
    assert alive[-1] == [False, False]


def test_parts_tell_how_far_it_is():
    parts, steps = [], []
    options = {"on_step": steps.append, "on_part": parts.append, "tile": 64}
    nst.stylize(CONTENT, STYLE, settings(num_iter=2), **options)
    assert {part.size for part in parts} == {120}
    targets = list(itertools.takewhile(lambda part: part.share == 0, parts))
    assert targets
    evaluations = parts[len(targets) :]
    assert [x for x, _ in itertools.groupby(part.iteration for part in evaluations)] == [0, 1, 2]
    for number in range(3):
        shares = [part.share for part in evaluations if part.iteration == number]
        assert len(shares) > 8
        assert shares == sorted(shares)
        assert shares[-1] == 1
    assert all(part.remaining > 0 for part in evaluations[:-1])
    assert evaluations[-1].remaining == pytest.approx(0, abs=1e-9)
    assert len(steps) == 3


@pytest.mark.parametrize("stop", [2, 30])
def test_a_run_ends_between_tiles(stop):
    """With the best picture so far; before there is one, with nothing."""
    steps, parts = [], []

    def on_part(part):
        parts.append(part)
        return len(parts) < stop

    options = {"on_step": steps.append, "on_part": on_part, "tile": 64}
    if stop == 2:
        with pytest.raises(KeyboardInterrupt):
            nst.stylize(CONTENT, STYLE, settings(num_iter=9), **options)
        assert not steps
        return
    result = nst.stylize(CONTENT, STYLE, settings(num_iter=9), **options)
    assert len(parts) == stop
    assert parts[-1].share < 1
    assert isinstance(result.cut_short, KeyboardInterrupt)
    best = min(steps, key=lambda step: step.losses["total"])
    assert (result.image == best.picture()).all()


def test_where_memory_runs_out_tiles_go_on(monkeypatch):
    """As on a GPU: whole at first, then in tiles, and in smaller ones where these fail too."""
    make_objective, tried = nst.make_objective, []

    def short_of_memory(*args):
        def function(targets, image):
            tried.append("whole")
            raise tf.errors.ResourceExhaustedError(None, None, "out of memory")

        return function

    class Tiled(tiles.Tiled):
        def objective(self, targets, image):
            tried.append(self.tile - 32)
            if tried[-1] > 70:
                raise tf.errors.ResourceExhaustedError(None, None, "out of memory")
            return super().objective(targets, image)

    monkeypatch.setattr(memory, "TILES", (100, 64))
    expected = nst.stylize(CONTENT, STYLE, settings(num_iter=1), tile=64)
    monkeypatch.setattr(nst, "make_objective", short_of_memory)
    monkeypatch.setattr(tiles, "Tiled", Tiled)
    result = nst.stylize(CONTENT, STYLE, settings(num_iter=1))
    assert tried == ["whole", 100, 64, 64]
    assert (result.image == expected.image).all()
    assert result.cut_short is None
    assert make_objective is not nst.make_objective


# Who evaluates

DEVICES = """
import hashlib, sys
import numpy as np
import tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
configurations = [tf.config.LogicalDeviceConfiguration()] * int(sys.argv[1])
tf.config.set_logical_device_configuration(cpu, configurations)  # before any is used
tf.config.set_visible_devices(cpu)
from conftest import picture
from nstlib import tiles
import nst

layers = ("level1_conv1", "level2_conv1")
settings = nst.Settings(network="small", precision="float32", style_layers=layers).resolved()
devices = tiles.Devices()
used = set()
find = tiles.find_gradient
tiles.find_gradient = lambda device, *x: used.add(device) or find(device, *x)
tiled = tiles.Tiled(settings, 32, devices, lambda *_: None)
content, style = (np.float32(picture(90, 120, x))[np.newaxis] for x in (0, 1))
targets = tiled.take_targets(content, [style])
parts, gradient = tiled.objective(targets, np.float32(picture(90, 120, 9))[np.newaxis])
print(len(used), float(parts["total"]), hashlib.md5(gradient.tobytes()).hexdigest())
"""


def test_devices_share_the_tiles():
    """Any number of them gives the same, bit by bit."""
    outputs = []
    for number in (1, 3):
        command = [sys.executable, "-c", DEVICES, str(number)]
        places = os.pathsep.join(map(str, (ROOT, ROOT / "tests")))
        environment = {**os.environ, "PYTHONPATH": places, "TF_CPP_MIN_LOG_LEVEL": "3"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
        outputs.append(done.stdout.split())
    assert [int(used) for used, *_ in outputs] == [1, 3]
    assert outputs[0][1:] == outputs[1][1:]


@pytest.mark.slow
@pytest.mark.parametrize("lost", ["worker", "scheduler"])
def test_dask(lost, cluster, tmp_path, monkeypatch):
    """Two workers; one is killed half way, which costs nothing; or the scheduler is, which ends
    the run with the best picture so far."""
    import distributed

    monkeypatch.chdir(tmp_path)
    for name, image in (("photo.png", CONTENT), ("painting.png", STYLE)):
        images.save(name, image)
    address, workers, scheduler = cluster
    options = ["--network", "small", "--size", "120", "--scales", "1", "--tile", "64", "-n", "30"]
    options += ["--style_layers", *FEW["style_layers"], "--precision", "float32", "-p", "1"]
    pictures = ["-c", "photo.png", "-s", "painting.png", "-r", "out.png"]
    with distributed.Client(address, timeout=120, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=120)
        command = [sys.executable, ROOT / "nst.py", *pictures, *options, "--dask", address, "-v"]
        run = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        before = []
        for line in run.stderr:
            before.append(line)
            if line.split()[:1] == ["4"]:  # the fourth iteration is done
                break
        (victim := workers.popitem()[1] if lost == "worker" else scheduler).kill()
        victim.wait()
    stderr = run.communicate(timeout=300)[1]
    assert Path("out.png").exists(), "".join(before) + stderr
    found = images.read_metadata("out.png")
    if lost == "worker":
        assert run.returncode == 0
        assert found["iterations"] == 30
        command[command.index("out.png")] = "again.png"  # by the worker that is left
        subprocess.run(command, check=True, capture_output=True)
        np.testing.assert_array_equal(images.load("out.png"), images.load("again.png"))
        return
    assert run.returncode == 2
    assert "the last good picture is in out.png" in stderr
    assert "Dask" in stderr
    assert 3 <= found["iterations"] < 30


class WaitAndTell:
    """Unpickled, it is the number of the process, which takes a while."""

    def __reduce__(self):
        return eval, ("(__import__('time').sleep(0.2), __import__('os').getpid())[1]",)


@pytest.mark.slow
def test_dask_workers_share_the_tiles(cluster):
    """From the first, not once Dask sees that one of them has nothing to do."""
    address, _, _ = cluster
    with connect(address) as client:
        client.wait_for_workers(2, timeout=120)
        workers = TileWorkers(client, cli.Interrupts())
        settings = nst.Settings(network="small")
        found = workers.run(slice, (settings,), iter([WaitAndTell() for _ in range(4)]))
        told = [arguments.step for arguments in found]
    assert sorted(map(told.count, set(told))) == [2, 2]


class SlowFuture:
    """As Dask's: what has not come within a time limit is dropped, and comes anew."""

    def result(self, timeout=None):
        time.sleep(min(2.5, timeout or 2.5))
        if timeout:
            raise TimeoutError
        return "a tile"


def test_a_tile_may_take_its_time_to_arrive():
    assert TileWorkers(None, cli.Interrupts())._result(SlowFuture()) == "a tile"


def test_a_cluster_that_cannot_be_left_costs_no_picture(monkeypatch):
    import distributed

    def close():
        raise TimeoutError

    async def identity(address):
        return {"type": "Scheduler"}

    client = SimpleNamespace(close=close, wait_for_workers=lambda *_, **__: None)
    monkeypatch.setattr(cluster_of_dask, "_identity", identity)
    monkeypatch.setattr(distributed, "Client", lambda *_, **__: client)
    with cluster_of_dask.tile_workers("tcp://gone", cli.Interrupts()) as workers:
        assert workers


def test_an_interrupt_is_answered_while_a_tile_is_awaited():
    interrupts = cli.Interrupts()
    interrupts.signal, began = 2, time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        TileWorkers(None, interrupts)._result(SlowFuture())
    assert time.monotonic() - began < 2


# The command line


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(12.4, "12 seconds"), (90, "2 minutes"), (1000, "17 minutes"), (9000, "2.5 hours")],
)
def test_duration(seconds, text):
    assert cli.duration(seconds) == text


def test_a_run_in_tiles_on_the_command_line(tmp_path, monkeypatch, caplog):
    """It says how long it will take; Ctrl-C is answered after the tile, and the best picture saved;
    pictures on the way are saved as well, and the run goes on from one of them."""
    monkeypatch.chdir(tmp_path)
    images.save("photo.png", CONTENT)
    images.save("painting.png", STYLE)
    progress, seen = cli.progress, []

    @contextlib.contextmanager
    def interrupting(print_every):
        with progress(print_every) as (show, show_part):

            def see(part):
                show_part(part)
                seen.append(part)
                if part.iteration == 3 and 0 < part.share < 1:
                    os.kill(os.getpid(), signal.SIGINT)

            yield show, see

    monkeypatch.setattr(cli, "progress", interrupting)
    options = ["-c", "photo.png", "-s", "painting.png", "--network", "small", "--size", "120"]
    options += ["--tile", "64", "--scales", "1", "--precision", "float32"]
    options += ["--style_layers", *FEW["style_layers"]]
    assert nst.main([*options, "-r", "out.png", "-n", "50", "--save_every", "1", "-v"]) == 130
    assert seen[-1].iteration == 3
    assert seen[-1].share < 1
    assert "120 pixels in tiles of 64" in caplog.messages
    assert [x for x in caplog.messages if re.fullmatch("120 pixels: about .* to go", x)]
    assert images.read_metadata("out.png")["iterations"] == 2
    monkeypatch.setattr(cli, "progress", progress)
    last = "out_steps/000002.png"
    assert nst.main([*options, "-r", "more.png", "-n", "3", "--init", last]) == 0
    assert images.image_size("more.png") == (120, 90)
