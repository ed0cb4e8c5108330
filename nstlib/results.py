"""What a run gives: on the way to who looks on, and in the end."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from nstlib import images, tf
from nstlib.provenance import metadata
from nstlib.scales import without_margin
from nstlib.settings import Settings


@dataclass(frozen=True)
class Step:
    """What `on_step` sees: the image after so many iterations, and its weighted losses."""

    iteration: int  # 0 is the start image
    losses: dict[str, float]  # "total", "content", "style", "tv"
    progress: float  # share of the run's work that is done, 0 to 1
    seconds: float  # since the network was loaded
    tensor: "tf.Tensor"  # the image as it is optimized, [1, h, w, 3] with a margin
    picture: Callable[..., np.ndarray]  # (size=full, exact=False) -> the result if it ended here
    settings: Settings  # as in the Result
    sources: tuple[str, ...] = ()  # the names of content and styles

    @property
    def image(self) -> np.ndarray:
        """The image, uint8 [h, w, 3], smaller than the result at the first scales."""
        return self.picture(max(without_margin(self.tensor).shape))


@dataclass(frozen=True)
class Part:
    """What `on_part` sees, tile by tile, where an image is evaluated in tiles."""

    iteration: int  # that comes next
    share: float  # of its evaluation that is done, 0 to 1; 0 while targets are taken
    size: int  # of the scale, in pixels
    remaining: float  # seconds that the run will still take, if all goes on as this evaluation


@dataclass(frozen=True)
class Result:
    """The picture, how it came about, and why the run ended early if it did.

    The image is the one of lowest total loss at the last scale, measured with its mirrored margin.
    """

    image: np.ndarray  # uint8 [H, W, 3]
    losses: dict[str, list[float]]  # weighted, one entry an iteration, the start image first
    settings: Settings  # as they were used, nothing left to choose
    cut_short: BaseException | None = None  # a KeyboardInterrupt, or a UserError
    best_losses: dict[str, float] = field(default_factory=dict)  # the weighted losses of the image
    sources: tuple[str, ...] = ()  # the names of content and styles
    exact: np.ndarray | None = None  # the image before rounding, float32 in 0..255

    def save(self, path: str | Path, depth: int = 8) -> None:
        """Write the image, and in its metadata how it was made; see images.save."""
        image = self.image if depth == 8 or self.exact is None else self.exact
        made = (self.settings, self.best_losses, len(self.losses["total"]) - 1, depth)
        images.save(path, image, metadata(self.sources, path, *made), depth)
