"""From a small image up to the full size: a small one is cheap, and settles the large shapes."""

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from nstlib.images import rescale, resize
from nstlib.settings import Settings

MARGIN = 16  # pixels around an image while it is optimized


def share(size: int) -> float:
    """What a scale of this size has of the iterations of a small one, above 0 and at most 1.

    Beyond 1024 pixels half at each doubling: what is large is settled by then, and only the finest
    marks are new. Galerne et al., "Scaling Painting Style Transfer" (EGSR 2024), take a half to an
    eighth; less than half leaves grain or blur, see benchmarks/README.md.
    """
    return min(1.0, 1024 / size)


def plan_scales(settings: Settings, thinnest: float) -> list[tuple[int, int]]:
    """(longest side, iterations) of each scale, each twice the size of the one before.

    512 pixels and 1000 iterations in 3 scales: 128 with 333, 256 with 333, 512 with 334; beyond
    1024 pixels fewer, see `share`. `thinnest` is the shortest side of all images, over that longest
    side: scales at which it has fewer than 32 pixels are left out. `settings`: resolved.
    """
    scales = min(int(settings.scales), settings.num_iter)
    sizes = [round(settings.size / 2**k) for k in reversed(range(scales))]
    sizes = [size for size in sizes[:-1] if size * thinnest >= 32] + sizes[-1:]
    shares = np.array([share(size) for size in sizes])
    most = settings.num_iter - len(sizes)  # each has one at least
    ends = np.cumsum([0, *shares / shares.sum() * most]) + 1e-6  # lest rounding drop one
    ends = [int(end) + k for k, end in enumerate(ends)]
    return [(size, end - start) for size, (start, end) in zip(sizes, pairwise(ends), strict=True)]


@dataclass(frozen=True)
class Scale:
    """One size of a run, and what an image of that size needs to become the result.

    Images are [H, W, 3] in 0..255, float32 or float16, without the margin.
    """

    size: int  # longest side in pixels
    full_size: int  # that of the result
    full: np.ndarray  # the start image of the run at full size
    base: np.ndarray  # the same at this size
    start: np.ndarray  # where to begin: the base with what the scale before has changed

    @classmethod
    def first(cls, image: np.ndarray, size: int, full_size: int) -> "Scale":
        """The smallest scale of a run that starts from an image, given at full size."""
        base = rescale(image, size / full_size)
        return cls(size, full_size, image, base, base)

    def next(self, image: np.ndarray, size: int) -> "Scale":
        """The scale of this size, to go on with the image that this one ended with."""
        base = rescale(self.full, size / self.full_size)
        return replace(self, size=size, base=base, start=carry_over(base, image, self.base))

    def without_detail(self) -> "Scale":
        """Where a start image of noise is concerned, what is too fine for this scale is dropped."""
        return replace(self, full=resize(self.base, *self.full.shape[:2]))

    def picture(self, image: np.ndarray, size: int | None = None) -> np.ndarray:
        """What the run would end with, at this size [full], if `image` were its last image."""
        base = rescale(self.full, (size or self.full_size) / self.full_size)
        return image if base.shape == image.shape else carry_over(base, image, self.base)


def carry_over(base: np.ndarray, image: np.ndarray, smaller: np.ndarray) -> np.ndarray:
    """The base of one scale with what changed at another, from its base `smaller` to `image`.

    All [H, W, 3], the image float32. So the large shapes come along, and the finer detail of the
    base is kept.
    """
    height, width = base.shape[:2]
    changed = resize(image, height, width) - resize(smaller, height, width)
    changed += base
    return changed.clip(0, 255, out=changed)


def with_margin(image: np.ndarray) -> np.ndarray:
    """[H, W, 3] to [1, H + 32, W + 32, 3]: the image within its own mirror image.

    The paper has no margin. VGG pads each layer with zeros, which it sees as an edge around the
    picture; style then gathers along that edge as a frame, which is cut off with the margin.
    """
    return np.pad(image, ((MARGIN, MARGIN), (MARGIN, MARGIN), (0, 0)), "symmetric")[np.newaxis]


def without_margin(image) -> np.ndarray:
    """[1, H + 32, W + 32, 3], an array or a tensor, to [H, W, 3]."""
    return np.asarray(image)[0, MARGIN:-MARGIN, MARGIN:-MARGIN]
