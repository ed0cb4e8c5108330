"""What the tests share: small pictures, VGG and the losses in NumPy, and no way to the outside."""

import os
import socket
import tempfile

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

# Keras looks for downloaded weights where this says when it is imported: an empty folder.
_keras_home = tempfile.TemporaryDirectory(prefix="nst-tests-")
os.environ["KERAS_HOME"] = _keras_home.name

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


def total_variation(image):
    image = np.float64(image)
    return np.mean(np.diff(image, axis=0) ** 2) + np.mean(np.diff(image, axis=1) ** 2)


def weighted_losses(image, content, styles, settings, weights):
    """The losses of an image by name, "total" among them; `settings` are resolved ones."""

    def layers(image):
        return activations(image, weights, settings.pooling)

    seen, wanted, samples = layers(image), layers(content), [layers(x) for x in styles]
    parts = {
        "content": settings.content_weight
        * np.mean([np.mean((seen[x] - wanted[x]) ** 2) for x in settings.content_layers]),
        "style": settings.style_weight
        * np.mean(
            [
                np.mean((gram(seen[x]) - np.mean([gram(s[x]) for s in samples], axis=0)) ** 2)
                for x in settings.style_layers
            ]
        ),
        "tv": settings.tv_weight * total_variation(image),
    }
    return {"total": sum(parts.values()), **parts}


def style_distance(image, style, weights, pooling="avg"):
    """How far apart the Gram matrices of block1_conv1 ... block5_conv1 of two images are."""
    one, other = (activations(x, weights, pooling) for x in (image, style))
    return np.mean(
        [np.mean((gram(one[x]) - gram(other[x])) ** 2) for x in one if x.endswith("conv1")]
    )
