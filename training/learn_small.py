#!/usr/bin/env python3
"""Find the filters of the bundled network in a folder of photographs, without training.

    python training/learn_small.py PHOTOS --out nstlib/small.h5

Each layer is the dictionary that spherical k-means finds in whitened patches of what the layer
before it outputs, as in Coates and Ng, "Learning Feature Representations with K-means" (2012): no
labels, no gradients, a few minutes. Where this departs from them, and why:

- Photographs are turned by any angle, so that the filters prefer no direction; else the horizontals
  and verticals of photographs show as a weave in stylized skies.
- Filters are not fully whitened (POWER): those of fine detail, whose responses whitening amplifies
  most, would fill pictures with grain.
- Two fifths of the first layer are blurred colours with random thresholds, for whitened filters see
  edges, and little of which colours there are.
- Activations are rectified, and have random thresholds.
"""

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import h5py
import numpy as np
from PIL import Image
from tqdm import tqdm

from nstlib import networks

POWER = 0.5  # 0: responses of all filters vary alike; 1: as they do in photographs
FLOORS = {"conv1": 0.05, "conv2": 0.1}  # of whitening, in mean variances
COLOURS, BLUR = 16, 1.2  # filters of the first layer for colours, their deviation in pixels
VIVID = 1.75  # how much these count beside those for edges
THRESHOLD = 0.3  # deviation of the thresholds, in deviations of the responses
PATCHES = 100  # of each photograph
ROUNDS = 12  # of k-means

# The deviation of each layer's activations. Style losses that are relative do not depend on it; it
# sets how much content (of conv2) and un-normalized Gram matrices (of conv1, mostly) count.
DEVIATIONS = {"conv1": 100.0, "conv2": 2.4}


def photographs(folder: Path, rng) -> Iterator[np.ndarray]:
    """Each photograph turned and scaled at random, the largest square in it, float32 [S, S, 3]."""
    for path in tqdm(sorted(folder.iterdir()), mininterval=5):
        try:
            image = Image.open(path).convert("RGB")
        except OSError:
            continue
        scale = rng.choice([0.5, 0.7, 1.0])
        image = image.resize([round(side * scale) for side in image.size], Image.LANCZOS)
        angle = rng.uniform(0, 360)
        turned = np.asarray(image.rotate(angle, Image.BICUBIC, expand=True), np.float32)
        acute = np.deg2rad(angle % 90)
        side = int(min(image.size) / (np.cos(acute) + np.sin(acute))) - 2
        top, left = (turned.shape[0] - side) // 2, (turned.shape[1] - side) // 2
        yield turned[top : top + side, left : left + side, :: rng.choice([-1, 1])]


def random_patches(maps: np.ndarray, width: int, rng) -> np.ndarray:
    """PATCHES squares of maps [H, W, C], [PATCHES, width · width · C]."""
    rows = rng.integers(0, maps.shape[0] - width + 1, PATCHES)
    columns = rng.integers(0, maps.shape[1] - width + 1, PATCHES)
    squares = [maps[i : i + width, j : j + width] for i, j in zip(rows, columns, strict=True)]
    return np.reshape(squares, [PATCHES, -1])


def dictionary(patches: np.ndarray, count: int, floor: float, rng) -> tuple:
    """Filters [count, D] found in patches [N, D] by k-means on the sphere, and biases [count]."""
    mean = patches.mean(axis=0)
    centred = patches - mean
    values, vectors = np.linalg.eigh(np.cov(centred.T))
    whiten = vectors / np.sqrt(np.maximum(values, 0) + floor * values.mean()) @ vectors.T
    whitened = np.float32(centred @ whiten)
    centroids = np.float32(rng.normal(size=(count, whitened.shape[1])))
    for _ in range(ROUNDS):
        centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
        responses = whitened @ centroids.T
        nearest = np.abs(responses).argmax(axis=1)  # a patch and its negative are alike
        mine = np.where(nearest[:, np.newaxis] == np.arange(count), responses, 0)
        centroids = mine.T @ whitened
        lost = np.linalg.norm(centroids, axis=1) < 1e-6
        centroids[lost] = rng.normal(size=(lost.sum(), whitened.shape[1]))
    filters = centroids @ whiten
    filters /= (centred @ filters.T).std(axis=0)[:, np.newaxis]
    deviations = np.linalg.norm(filters, axis=1) ** -POWER
    deviations /= deviations.mean()
    filters *= deviations[:, np.newaxis] * rng.choice([-1, 1], [count, 1])
    thresholds = rng.normal(size=count) * THRESHOLD * deviations
    return filters, thresholds - filters @ mean


def colour_filters(width: int, rng) -> tuple:
    """COLOURS filters [COLOURS, width · width · 3] of a blurred colour each, and their biases."""
    line = np.exp(-((np.arange(width) - width // 2) ** 2) / 2 / BLUR**2)
    blur = np.outer(line, line) / line.sum() ** 2
    directions = rng.normal(size=(COLOURS, 3))
    directions *= VIVID / np.linalg.norm(directions, axis=1, keepdims=True)
    filters = blur[np.newaxis, :, :, np.newaxis] * directions[:, np.newaxis, np.newaxis]
    return filters.reshape(COLOURS, -1), rng.uniform(-VIVID, VIVID, COLOURS)


def learn(folder: Path, path: Path, seed: int) -> None:
    """Find the layers one after another, and write the file after each for the next to build on."""
    rng = np.random.default_rng(seed)
    network = networks.NETWORKS["small"]
    layers = {name: [np.zeros(x), np.zeros(x[-1])] for name, x in network.shapes.items()}
    pictures = list(photographs(folder, rng))
    if len(pictures) < 2:
        sys.exit(f"{folder} holds no photographs")

    def activations(name):
        """Of each picture, [H, W, C], by the network as far as it is found."""
        write(layers, path)
        extractor = networks.feature_extractor("small", [f"level1_{name}"], weights=path)
        for picture in tqdm(pictures, name, mininterval=5):
            yield extractor(picture[np.newaxis])[f"level1_{name}"].numpy()[0]

    maps = ((picture - 128) / 64 for picture in pictures)
    for name, (width, _, depth, count) in network.shapes.items():
        found = np.concatenate([random_patches(x, width, rng) for x in maps])
        extra = colour_filters(width, rng) if name == "conv1" else (found[:0], np.zeros(0))
        own = dictionary(found, count - len(extra[0]), FLOORS[name], rng)
        filters, biases = (np.concatenate(parts) for parts in zip(own, extra, strict=True))
        kernel = filters.reshape(count, width, width, depth).transpose(1, 2, 3, 0)
        layers[name] = [kernel, biases]
        # A network of convolutions and ReLUs scales with its weights: this changes no proportion.
        variance = np.mean([x.var(axis=(0, 1)).mean() for x in activations(name)])
        factor = DEVIATIONS[name] / np.sqrt(variance)
        layers[name] = [kernel * factor, biases * factor]
        maps = activations(name)
    write(layers, path)


def write(layers: dict[str, list[np.ndarray]], path: Path) -> None:
    """As Keras lays out an .h5 file, in half precision."""
    with h5py.File(path, "w") as file:
        for name, (kernel, bias) in layers.items():
            file[f"{name}/kernel"] = np.float16(kernel)
            file[f"{name}/bias"] = np.float16(bias)


def main() -> None:
    parser = argparse.ArgumentParser(description="Find filters in a folder of photographs.")
    parser.add_argument("photos", type=Path, help="folder of some hundred varied photographs")
    parser.add_argument("--out", type=Path, required=True, help="the weights file to write (.h5)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    learn(args.photos, args.out, args.seed)


if __name__ == "__main__":
    main()
