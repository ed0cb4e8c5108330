#!/usr/bin/env python3
"""How good pictures are, judged without any network: their style, their content, their speckle.

    python benchmarks/quality.py RESULT -c CONTENT -s STYLE
    python benchmarks/quality.py FOLDER [-c CONTENT ...] [-s STYLE ...] [--validate]

A folder is one that a gallery leaves, of pictures named CONTENT_STYLE.png; contents and styles are
then files or folders, by default the examples. Prints a row for each picture and how they spread;
with --validate, how pictures rank of which it is known.

- style: distance from the painting: 0 of itself, 1 of unrelated paintings;
- content: likeness to the photograph: 1 of itself, near 0 of unrelated ones;
- speckle: above 0 where finest detail is sparser than the painting's, as specks are, below 0 where
  it is denser, as grain is.

All compare CIELAB, whose axes are opponent colours: light and dark, red and green, yellow and blue.
Images are float32 RGB [H, W, 3] in 0..255. The numbers guard; the eye decides.
"""

import argparse
import sys
from functools import cache, partial
from itertools import combinations, pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy import ndimage
from tables import machine, print_table
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from nstlib import UserError, colors, images  # noqa: E402 (after the path)
from nstlib.gallery import pictures  # noqa: E402

LEVELS, PATCH = 5, 7
SMALLEST = PATCH * 2 ** (LEVELS - 1)  # pixels of a side that has one patch at the coarsest level
BINOMIAL = np.array([1, 4, 6, 4, 1]) / 16
VISIBLE = 2.3  # a just noticeable difference in CIELAB (Mahy, Van Eycken and Oosterlinck, 1994)
MEASURES = ("style", "content", "speckle")


def smooth(image: np.ndarray, kernel: np.ndarray = BINOMIAL) -> np.ndarray:
    """[H, W, C] by a separable kernel, mirrored at the edges."""
    for axis in (0, 1):
        image = ndimage.correlate1d(image, kernel, axis, mode="mirror")
    return image


def pyramid(image: np.ndarray, levels: int = LEVELS) -> list[np.ndarray]:
    """[H, W, C] and its halves: the Gaussian pyramid of Burt and Adelson (1983)."""
    found = [image]
    while len(found) < levels:
        found.append(smooth(found[-1])[::2, ::2])
    return found


@cache
def projections(count: int = 256) -> np.ndarray:
    """Fixed random directions in the space of patches, [count, 3 * PATCH²], each of length 1.

    Those of the second half sum to 0 over each colour axis, and so see structure alone; most of
    what the first half sees is colour.
    """
    filters = np.random.default_rng(0).normal(size=(count, 3, PATCH**2))
    filters[count // 2 :] -= filters[count // 2 :].mean(axis=-1, keepdims=True)
    filters = filters.reshape(count, -1)
    return np.float32(filters / np.linalg.norm(filters, axis=1, keepdims=True))


def patch_quantiles(image: np.ndarray, count: int = 512) -> np.ndarray:
    """How an image's patches are distributed along each projection, [LEVELS, projections, count].

    So many quantiles, of all patches of each level of a pyramid, or of a fixed 2¹⁴ of them.
    """
    found = []
    for level in pyramid(colors.to_lab(image)):
        patches = sliding_window_view(level, (PATCH, PATCH), axis=(0, 1))
        chosen = np.arange(np.prod(patches.shape[:2]))
        if len(chosen) > 2**14:
            chosen = np.random.default_rng(0).choice(chosen, 2**14, replace=False)
        patches = patches[np.divmod(chosen, patches.shape[1])].reshape(len(chosen), -1)
        along = np.sort(projections() @ patches.T, axis=1)
        found.append(along[:, ((np.arange(count) + 0.5) / count * len(chosen)).astype(int)])
    return np.stack(found)


def wasserstein(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Wasserstein-1, ∫ |F⁻¹(u) - G⁻¹(u)| du, along each projection; [LEVELS, projections].

    Their mean is a sliced Wasserstein distance (Rabin et al., "Wasserstein barycenter and its
    application to texture mixing", 2011): along a line, optimal transport goes by rank.
    one, other: of `patch_quantiles`.
    """
    return np.abs(one - other).mean(axis=-1)


@cache
def unrelated() -> np.ndarray:
    """The mean of `wasserstein` over the pairs of example styles, at 512 pixels."""
    styles = [patch_quantiles(images.load(x, 512)) for x in pictures(ROOT / "examples/style")]
    return np.mean([wasserstein(*pair) for pair in combinations(styles, 2)], axis=0)


def style_distance(one: np.ndarray, other: np.ndarray) -> float:
    """The mean of Wasserstein distances, each over that of unrelated styles, so that fine and
    coarse, colour and structure count alike. one, other: of `patch_quantiles`."""
    return float(np.mean(wasserstein(one, other) / unrelated()))


def content_likeness(image: np.ndarray, content: np.ndarray) -> float:
    """(2·cov + e) / (var + var + e) of the lightness around each pixel; two images of one size.

    SSIM's contrast and structure (Wang et al., "Image quality assessment: from error visibility to
    structural similarity", 2004, eqs. 9 and 10): Gaussian windows of 1.5 pixels, e = (0.03 · 100)²
    as lightness goes to 100. The mean over pixels, and over a pyramid: content is seen from afar.
    """
    window = partial(ndimage.gaussian_filter, sigma=(1.5, 1.5, 0), mode="mirror")
    likeness = []
    lightness = (colors.to_lab(x)[..., :1].astype(np.float64) for x in (image, content))
    for x, y in zip(*map(pyramid, lightness), strict=True):
        covariance = window(x * y) - window(x) * window(y)
        variances = window(x * x) - window(x) ** 2 + window(y * y) - window(y) ** 2
        likeness.append(np.mean((2 * covariance + 9) / (variances + 9)))
    return float(np.mean(likeness))


def kurtosis(image: np.ndarray) -> np.ndarray:
    """E[b⁴] / E[b²]² of the two finest Laplacian bands b (Burt and Adelson) in each colour, [2, 3].

    As of b under Gaussian noise that can just be noticed, so that detail which cannot counts as
    Gaussian (3): a grey picture's colours, or what JPEG leaves.
    """

    def enlarged(half, shape):
        whole = np.zeros(shape)
        whole[::2, ::2] = half
        return smooth(whole, 2 * BINOMIAL)

    levels = pyramid(colors.to_lab(image).astype(np.float64), 3)
    bands = [fine - enlarged(half, fine.shape) for fine, half in pairwise(levels)]
    second, fourth = (np.array([np.mean(b**n, axis=(0, 1)) for b in bands]) for n in (2, 4))
    return (fourth + 6 * second * VISIBLE**2 + 3 * VISIBLE**4) / (second + VISIBLE**2) ** 2


def speckle(image: np.ndarray, style: np.ndarray) -> float:
    """The mean over bands and colours of log(kurtosis of the image / kurtosis of the style).

    The sparser the detail, the higher its kurtosis (Field, "What is the goal of sensory coding?",
    1994).
    """
    return float(np.mean(np.log(kurtosis(image) / kurtosis(style))))


class Pair(NamedTuple):
    """A result, what it was made from, and its longest side, to which style and content come."""

    result: np.ndarray
    content: np.ndarray
    style: Path
    size: int


@cache
def painting(path: Path, size: int) -> tuple[np.ndarray, np.ndarray]:
    """An image and its `patch_quantiles`."""
    image = images.load(path, size)
    return image, patch_quantiles(image)


def judge(image: np.ndarray, pair: Pair) -> list[float]:
    """MEASURES of an image in place of the pair's result."""
    style, quantiles = painting(pair.style, pair.size)
    distance = style_distance(patch_quantiles(image), quantiles)
    content = images.resize(pair.content, *image.shape[:2])
    return [distance, content_likeness(image, content), speckle(image, style)]


def find_pairs(result: Path, contents: list[Path], styles: list[Path]) -> dict[str, Pair]:
    """What is to be judged, by name. Raises UserError for what cannot be."""
    if len(contents) == len(styles) == 1 and not result.is_dir():
        sources = {result.stem: (contents[0], styles[0])}
    else:
        sources = {f"{c.stem}_{s.stem}": (c, s) for c in contents for s in styles}
    pairs = {}
    for path in pictures(result):
        image = images.load(path)
        if path.stem not in sources:
            raise UserError(
                f"{path} is not named CONTENT_STYLE after pictures of --content and --style: "
                "rename it, or name its own two"
            )
        if min(image.shape[:2]) < SMALLEST:
            raise UserError(f"{path} is too small to judge: make it {SMALLEST} pixels or more")
        size, (content, style) = max(image.shape[:2]), sources[path.stem]
        photograph = images.resize(images.load(content, size), *image.shape[:2])
        pairs[path.stem] = Pair(image, photograph, style, size)
    return pairs


def report(pairs: dict[str, Pair]) -> None:
    """A row for each picture and, of several, how they spread."""
    found = {name: judge(x.result, x) for name, x in tqdm(pairs.items(), disable=None)}
    if len(found) > 1:
        values = np.array(list(found.values()))
        found |= {"mean": values.mean(axis=0), "standard deviation": values.std(axis=0)}
        found |= {"least": values.min(axis=0), "most": values.max(axis=0)}
    rows = [[name, *map("{:.2f}".format, values)] for name, values in found.items()]
    print_table(["picture", *MEASURES], rows)


# What must rank right: a measure, what has less of it, what has more.
RANKINGS = [
    ("style", "painting", "result"),
    ("style", "result", "photograph"),
    ("style", "result", "another painting"),
    ("style", "result", "result, noise"),
    ("style", "result", "result, blurred"),
    ("style", "painting, noise", "another painting"),
    ("style", "painting, blurred", "another painting"),
    ("content", "result", "photograph"),
    ("content", "another painting", "result"),
    ("content", "result, noise", "result"),
    ("speckle", "result", "result, specks"),
    ("speckle", "result, noise", "result, specks"),
]


def variants(pair: Pair, other: Path) -> dict[str, np.ndarray]:
    """Pictures better or worse than the result: 20 grey levels of noise, a blur of 2 pixels, specks
    on 1 % of it; `other` is a painting that it was not made from."""
    rng = np.random.default_rng(0)
    style, another = (painting(path, pair.size)[0] for path in (pair.style, other))
    found = {"painting": style, "result": pair.result}
    for name, image in list(found.items()):
        found[f"{name}, noise"] = (image + rng.normal(0, 20, image.shape)).clip(0, 255)
        found[f"{name}, blurred"] = ndimage.gaussian_filter(image, (2, 2, 0))
        where, specks = rng.random((*image.shape[:2], 1)) < 0.01, rng.choice([0, 255], image.shape)
        found[f"{name}, specks"] = np.where(where, specks, image)
    found |= {"another painting": another, "it, recoloured": colors.match(another, style)}
    return found | {"photograph": pair.content}


def validate(pairs: dict[str, Pair], styles: list[Path]) -> None:
    """What the variants measure, and on how many pairs they rank right."""
    found, nearest = [], 0
    for pair in tqdm(pairs.values(), disable=None):
        others = [x for x in styles if x != pair.style]
        found.append({name: judge(x, pair) for name, x in variants(pair, others[0]).items()})
        own, seen = found[-1]["result"][0], patch_quantiles(pair.result)
        nearest += all(own < style_distance(seen, painting(x, pair.size)[1]) for x in others)
    table = {name: np.array([judged[name] for judged in found]) for name in found[0]}
    rows = []
    for name, x in table.items():
        spread = zip(x.mean(axis=0), x.std(axis=0), strict=True)
        rows.append([name, *(f"{mean:.2f} ± {deviation:.2f}" for mean, deviation in spread)])
    print_table(["mean ± standard deviation", *MEASURES], rows)
    rows = [["style: nearer to its painting than to any other", str(nearest)]]
    for measure, low, high in RANKINGS:
        i = MEASURES.index(measure)
        holds = np.sum(table[low][:, i] < table[high][:, i])
        rows.append([f"{measure}: {low} < {high}", str(holds)])
    print_table(["ranking", f"pairs of {len(pairs)} on which it holds"], rows)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("result", type=Path, help="a picture, or a folder of CONTENT_STYLE.png")
    for name in ("content", "style"):
        options = {"nargs": "+", "type": Path, "default": [ROOT / "examples" / name]}
        parser.add_argument(
            f"-{name[0]}", f"--{name}", **options, help=f"files or folders [examples/{name}]"
        )
    parser.add_argument("--validate", action="store_true", help="how pictures rank that are known")
    args = parser.parse_args(argv)
    try:
        contents, styles = ([x for y in z for x in pictures(y)] for z in (args.content, args.style))
        pairs = find_pairs(args.result, contents, styles)
        print(f"{machine()}\n")
        if not args.validate:
            report(pairs)
        elif len(styles) > 1:
            validate(pairs, styles)
        else:
            raise UserError("--validate needs more paintings: name a folder of them with --style")
    except UserError as error:
        print(f"quality: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
