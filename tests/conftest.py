"""What the tests share: small pictures, networks and losses in NumPy, and no way to the outside."""

import dataclasses
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

# Two processes of tests with BLAS threads for every core each would mostly wait for each other.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

# As a run with the bundled network does, whichever test is the first to load TensorFlow.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import h5py
import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

import nst
from nstlib import networks, scales, tf

# Keras looks for downloaded weights where this says when it is imported: an empty folder.
_keras_home = tempfile.TemporaryDirectory(prefix="nst-tests-")
os.environ["KERAS_HOME"] = _keras_home.name

ROOT = Path(__file__).resolve().parent.parent
BGR_MEAN = np.array([103.939, 116.779, 123.68])

# The metadata of a picture that this program made.
MADE = {"version": "1", "settings": {}, "content": "a.jpg", "style": ["b.jpg"]}
MADE |= {"losses": {}, "iterations": 1}


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """A test that would connect to another machine fails."""
    connect = socket.socket.connect

    def connect_locally(self, address):
        if self.family != socket.AF_UNIX and address[0] not in {"127.0.0.1", "::1"}:
            pytest.fail(f"connects to {address}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect_locally)


def picture(height, width, seed=0):
    """uint8 [height, width, 3]: soft patches of colour under a little noise, another each seed."""
    rng = np.random.default_rng(seed)
    patches = rng.uniform(30, 225, (height // 8 + 1, width // 8 + 1, 3))
    patches = patches.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]
    return np.rint(patches + rng.normal(0, 5, patches.shape)).clip(0, 255).astype(np.uint8)


def quick(**changes):
    """Settings for a run of a second: of two layers, for each new setting traces all that there
    are, and of a style loss that is a formula, not an iteration, so that NumPy can tell small
    differences."""
    options = {"num_iter": 3, "size": 40, "network": "small", "precision": "float32", "scales": 1}
    options |= {"init_noise": 0.0, "style_loss": "covariance", "colors": "style"}
    options |= {"content_layers": ["level1_conv2"], "style_layers": LAYERS}
    return nst.Settings(**options | changes)


LAYERS = ("level1_conv1", "level2_conv1")


def batch(image):
    return tf.constant(np.float32(image)[None])


def framed(image):
    return scales.with_margin(np.float64(image))[0]


@pytest.fixture(scope="session")
def small():
    """The bundled network: (kernel, bias) by layer name."""
    return networks.read_weights(networks.find_weights("small"), "small")


@pytest.fixture(scope="module")
def narrow(tmp_path_factory):
    """The weights file of "narrow", a VGG19 of an eighth of the channels with random weights."""
    path, rng = tmp_path_factory.mktemp("narrow") / "narrow.h5", np.random.default_rng(0)
    vgg19 = networks.NETWORKS["vgg19"]
    blocks = tuple((channels // 8, number) for channels, number in vgg19.blocks)
    networks.NETWORKS["narrow"] = network = dataclasses.replace(vgg19, blocks=blocks)
    with h5py.File(path, "w") as file:
        for name, shape in network.shapes.items():
            file[f"{name}/kernel"] = rng.normal(0, np.sqrt(2 / np.prod(shape[:3])), shape)
            file[f"{name}/bias"] = rng.normal(0, 5, shape[3])
    yield str(path)
    del networks.NETWORKS["narrow"]


def wait_for(condition, seconds=300):
    """What a function gives, once it gives something."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
    return value


def free_port():
    """A port of this machine on which nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def free_address():
    return f"tcp://127.0.0.1:{free_port()}"


@pytest.fixture
def cluster(tmp_path):
    """The address of a scheduler on this machine, two worker processes by address, and its own."""
    pytest.importorskip("distributed", reason="dask.distributed is not installed")
    processes = {}

    def start(kind, address, *arguments):
        command = [sys.executable, "-m", f"distributed.cli.dask_{kind}", "--no-dashboard"]
        port = "--worker-port" if kind == "worker" else "--port"
        command += ["--host", "127.0.0.1", port, address.rpartition(":")[2], *arguments]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        with Path(tmp_path, f"{kind}{len(processes)}.log").open("wb") as file:
            pipes = {"stdout": file, "stderr": file}
            processes[address] = subprocess.Popen(command, cwd=ROOT, env=environment, **pipes)

    scheduler, *workers = [free_address() for _ in range(3)]
    start("scheduler", scheduler)
    for address in workers:
        start("worker", address, scheduler, "--nthreads", "1", "--no-nanny")
    yield scheduler, {address: processes[address] for address in workers}, processes[scheduler]
    for process in processes.values():
        process.kill()
    for process in processes.values():
        process.wait()


def answers(address):
    """Whether somebody serves this address; raises HTTPError where that is an error."""
    try:
        urllib.request.urlopen(address, timeout=5).close()
    except urllib.error.HTTPError:
        raise
    except OSError:
        return False
    return True


def arguments(good, argv):
    """A command line: what is good, {option: value}, with other options and values of some."""
    argv = list(map(str, argv))
    once = {"-c", "-r"} & {*argv}  # the others may be given again
    return [str(x) for pair in good.items() if pair[0] not in once for x in pair] + argv


# The same numbers as the program's, from other code: NumPy in float64, images as [H, W, 3]


def convolve(x, kernel, bias):
    """Over zero padding: [H, W, C], [k, k, C, D], [D] -> [H, W, D]."""
    k = len(kernel)
    border = k // 2, k // 2
    windows = sliding_window_view(np.pad(x, (border, border, (0, 0))), (k, k), axis=(0, 1))
    return np.einsum("hwcij,ijcd->hwd", windows, np.float64(kernel), optimize=True) + bias


def halve(x):
    """Blurred by 1, 4, 6, 4, 1 over zero padding, every other pixel: [⌈H/2⌉, ⌈W/2⌉, C]."""
    windows = sliding_window_view(np.pad(x, ((2, 2), (2, 2), (0, 0))), (5, 5), axis=(0, 1))
    weights = np.array([1, 4, 6, 4, 1]) / 16
    return np.einsum("hwcij,i,j->hwc", windows[::2, ::2], weights, weights, optimize=True)


def pool(x, kind):
    """Of cells of 2x2 pixels; at the border, of those that there are."""
    if kind == "blur":
        return halve(x)
    height, width, channels = x.shape
    cells = np.pad(x, ((0, height % 2), (0, width % 2), (0, 0)), constant_values=np.nan)
    cells = cells.reshape(-(-height // 2), 2, -(-width // 2), 2, channels)
    return (np.nanmax if kind == "max" else np.nanmean)(cells, axis=(1, 3))


def activations(image, weights, pooling):
    """Of all layers of a network, VGG or the bundled one, by name.

    `weights`: (kernel, bias) by the names in the file, which tell the kind of the network.
    """
    find = pyramid_activations if "conv1" in weights else vgg_activations
    return find(np.float64(image), weights, pooling)


def vgg_activations(image, weights, pooling):
    x, block, found = image[..., ::-1] - BGR_MEAN, "block1", {}
    for name, (kernel, bias) in weights.items():
        if not name.startswith(block):
            whole = x[: len(x) // 2 * 2, : x.shape[1] // 2 * 2]
            x, block = pool(x if pooling == "blur" else whole, pooling), name[:6]
        x = found[name] = np.maximum(convolve(x, kernel, bias), 0)
    return found


def pyramid_activations(image, weights, pooling):
    level, found = (image - 128) / 64, {}
    for number in range(1, 6):
        x = level
        for name, (kernel, bias) in weights.items():
            x = found[f"level{number}_{name}"] = np.maximum(convolve(x, kernel, bias), 0)
        level = pool(level, pooling)
    return found


def moments(features, mask=None):
    """Of [H, W, C] the means of FᵀF, F, yF, and of y and y², where y goes from -1 at the top to 1;
    under a mask T, [H, W, 1], positions weigh T²."""
    flat = np.float64(features).reshape(-1, features.shape[-1])
    weights = np.ones(len(flat)) if mask is None else np.float64(mask).ravel() ** 2
    weights /= weights.sum()
    y = np.repeat(np.linspace(-1, 1, features.shape[0]), features.shape[1])
    of_y = np.array([weights @ y, weights @ y**2])
    return (flat.T * weights) @ flat, weights @ flat, (weights * y) @ flat, of_y


def gram(features, mask=None):
    return moments(features, mask)[0]


def gram_distance(found, wanted):
    return np.mean((found[0] - wanted[0]) ** 2)


def covariance_distance(found, wanted):
    (one, shift), (other, mean) = ((g - np.outer(m, m), m) for g, m, *_ in (found, wanted))
    spread = np.sum((one - other) ** 2) / (np.sum(other**2) + 1e-6)
    return 2.5e8 * (spread + np.sum((shift - mean) ** 2) / (np.trace(other) + 1e-6)) / 2


def regular(gram, mean):
    covariance = gram - np.outer(mean, mean)
    floor = 1e-4 * np.trace(covariance) / len(mean) + 1e-6 * np.trace(gram) + 1e-6
    return covariance + floor * np.eye(len(mean))


def wasserstein_distance(found, wanted):
    """By eigenvalues, of covariances with a little more in all directions."""
    one, other = regular(*found[:2]), regular(*wanted[:2])
    values, vectors = np.linalg.eigh(other)
    root = vectors * np.sqrt(values) @ vectors.T
    overlap = np.sqrt(np.linalg.eigvalsh(root @ one @ root).clip(0)).sum()
    spread = np.trace(one) + np.trace(other) - 2 * overlap
    return 2.5e8 * (np.sum((found[1] - wanted[1]) ** 2) + spread) / np.trace(other)


def layout_distance(found, wanted):
    def trend(mean, moment, of_y):
        return (moment - of_y[0] * mean) / np.sqrt(max(of_y[1] - of_y[0] ** 2, 1e-6))

    shift = trend(*found[1:]) - trend(*wanted[1:])
    return 2.5e8 * np.sum(shift**2) / np.trace(regular(*wanted[:2]))


DISTANCES = {  # of moments and those wanted, by the name of the style loss
    "gram": gram_distance,
    "covariance": covariance_distance,
    "wasserstein": wasserstein_distance,
}
# How far from these the program may be, relatively, in float32. It takes square roots by a few
# steps of an iteration: enough where the two activations are not nearly alike.
EXACT = {"gram": 1e-4, "layout": 1e-4, "covariance": 1e-3, "wasserstein": 1e-3}


def total_variation(image):
    image = np.float64(image)
    return np.mean(np.diff(image, axis=0) ** 2) + np.mean(np.diff(image, axis=1) ** 2)


def shrink(mask, height, width):
    """[H, W] to [height, width]: each new pixel is the mean over the area it covers."""

    def shares(before, after):
        low = np.arange(after)[:, None] * before / after
        cells = np.arange(before)
        covered = np.minimum(low + before / after, cells + 1) - np.maximum(low, cells)
        return covered.clip(0) * after / before

    return shares(mask.shape[0], height) @ mask @ shares(mask.shape[1], width).T


def focus(photograph, height, width, strength, contrast=None):
    """How much each position of a layer counts in its content loss, [height, width, 1]."""
    small = np.stack([shrink(x, height, width) for x in np.moveaxis(photograph, -1, 0)], -1)
    deviation = np.empty((height, width, 1))
    for y, x in np.ndindex(height, width):
        near = small[max(0, y - 3) : y + 4, max(0, x - 3) : x + 4]
        deviation[y, x] = max(5, np.sqrt(near.var((0, 1)).mean()))
    scale = contrast**2 / np.mean(deviation**2) if contrast else 1
    return scale * (1 - strength + strength * deviation / deviation.mean())


def weighted_losses(image, content, styles, settings, weights, **how):
    """The losses of an image by name, "total" among them; `settings` are resolved ones.

    All images [H, W, 3], the styles of any size. how: content_layers and style_layers {name:
    weight}, of which the settings' names are used alone, blend, masks [H, W] in 0..1.
    """
    content_layers = how.get("content_layers", dict.fromkeys(settings.content_layers, 1))
    style_layers = how.get("style_layers", dict.fromkeys(settings.style_layers, 1))
    masks, blend = how.get("masks"), np.array(how.get("blend", [1] * len(styles)), np.float64)
    blend /= blend.sum()
    pictures = (image, content, *styles)
    seen, wanted, *samples = (activations(x, weights, settings.pooling) for x in pictures)

    def distance(found, wanted):
        layout = settings.style_layout * layout_distance(found, wanted)
        return DISTANCES[settings.style_loss](found, wanted) + layout

    if settings.network == "small":  # layers that see the picture in less than 20 rows are left out
        wide = {x: w for x, w in style_layers.items() if min(seen[x].shape[:2]) >= 20}
        style_layers = wide or style_layers

    def average(loss, layers):
        return sum(w * loss(x) for x, w in layers.items()) / sum(layers.values())

    def content_loss(layer):
        contrast = networks.NETWORKS[settings.network].contrast
        weights = focus(content, *seen[layer].shape[:2], settings.content_focus, contrast)
        return np.mean(weights * (seen[layer] - wanted[layer]) ** 2)

    def style_loss(layer):
        targets, features = [moments(sample[layer]) for sample in samples], seen[layer]
        if masks is None:
            mixed = [np.tensordot(blend, x, 1) for x in map(np.array, zip(*targets, strict=True))]
            return distance(moments(features), mixed)
        loss = 0
        for mask, share, target in zip(masks, blend * len(masks), targets, strict=True):
            mask = shrink(mask, *features.shape[:2])[..., None]
            loss += share * np.mean(mask**2) * distance(moments(features, mask), target)
        return loss

    parts = {
        "content": settings.content_weight * average(content_loss, content_layers),
        "style": settings.style_weight * average(style_loss, style_layers),
        "tv": settings.tv_weight * total_variation(image),
    }
    return {"total": sum(parts.values()), **parts}


def style_distance(image, style, weights):
    """How far apart two images are in the first layer of each level of the bundled network."""
    one, other = (activations(x, weights, "blur") for x in (image, style))
    layers = [x for x in one if x.endswith("conv1") and min(one[x].shape[:2]) >= 8]
    return np.mean([wasserstein_distance(moments(one[x]), moments(other[x])) for x in layers])
