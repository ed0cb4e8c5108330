"""What the tests share: small pictures, VGG and the losses in NumPy, and no way to the outside."""

import os
import socket
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

# Keras looks for downloaded weights where this says when it is imported: an empty folder.
_keras_home = tempfile.TemporaryDirectory(prefix="nst-tests-")
os.environ["KERAS_HOME"] = _keras_home.name

ROOT = Path(__file__).resolve().parent.parent
BGR_MEAN = np.array([103.939, 116.779, 123.68])


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
    """3x3 over zero padding: [H, W, C], [3, 3, C, D], [D] -> [H, W, D]."""
    windows = sliding_window_view(np.pad(x, ((1, 1), (1, 1), (0, 0))), (3, 3), axis=(0, 1))
    return np.einsum("hwcij,ijcd->hwd", windows, np.float64(kernel), optimize=True) + bias


def pool(x, kind):
    height, width, channels = x.shape
    cells = x[: height // 2 * 2, : width // 2 * 2]
    cells = cells.reshape(height // 2, 2, width // 2, 2, channels)
    return cells.max(axis=(1, 3)) if kind == "max" else cells.mean(axis=(1, 3))


def activations(image, weights, pooling):
    """All of VGG: the activations by layer name; `weights` are (kernel, bias) by layer name."""
    x, block, found = np.float64(image)[..., ::-1] - BGR_MEAN, "block1", {}
    for name, (kernel, bias) in weights.items():
        if not name.startswith(block):
            x, block = pool(x, pooling), name[:6]
        x = found[name] = np.maximum(convolve(x, kernel, bias), 0)
    return found


def gram(features):
    flat = np.float64(features).reshape(-1, features.shape[-1])
    return np.einsum("pi,pj->ij", flat, flat, optimize=True) / len(flat)


def guided_gram(features, mask):
    """(T∘F)ᵀ(T∘F) / sum(T²); mask: [H, W, 1]"""
    flat = (np.float64(features) * mask).reshape(-1, features.shape[-1])
    return flat.T @ flat / np.sum(np.float64(mask) ** 2)


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

    def average(loss, layers):
        return sum(w * loss(x) for x, w in layers.items()) / sum(layers.values())

    def style_loss(layer):
        grams = [gram(sample[layer]) for sample in samples]
        features = seen[layer]
        if masks is None:
            mixed = sum(share * g for share, g in zip(blend, grams, strict=True))
            return np.mean((gram(features) - mixed) ** 2)
        loss = 0
        for mask, share, g in zip(masks, blend * len(masks), grams, strict=True):
            mask = shrink(mask, *features.shape[:2])[..., None]
            loss += share * np.mean(mask**2) * np.mean((guided_gram(features, mask) - g) ** 2)
        return loss

    parts = {
        "content": settings.content_weight
        * average(lambda x: np.mean((seen[x] - wanted[x]) ** 2), content_layers),
        "style": settings.style_weight * average(style_loss, style_layers),
        "tv": settings.tv_weight * total_variation(image),
    }
    return {"total": sum(parts.values()), **parts}


def style_distance(image, style, weights, pooling="avg"):
    """How far apart the Gram matrices of block1_conv1 ... block5_conv1 of two images are."""
    one, other = (activations(x, weights, pooling) for x in (image, style))
    return np.mean(
        [np.mean((gram(one[x]) - gram(other[x])) ** 2) for x in one if x.endswith("conv1")]
    )
