"""The pictures of a run: read and checked before work starts, in the colours and sizes wanted."""

import os
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from nstlib import UserError, images, memory, networks
from nstlib.colors import grey, lightness_of, prepare
from nstlib.images import Picture
from nstlib.scales import with_margin
from nstlib.settings import STARTS, Settings


class Sources(NamedTuple):
    """The pictures of a run, [H, W, C] in 0..255, at the sizes at which they are used."""

    content: np.ndarray  # float32, and once it is in its colours float16: a 16th of a level
    styles: list[np.ndarray]  # likewise
    masks: list[np.ndarray]  # float32, C is 1; none, or one for each style
    init: np.ndarray | None  # float32, what the optimization is to start from, of any size
    thinnest: float  # the shortest side of all, over the longest of the content
    tint: Callable[[np.ndarray], np.ndarray] = lambda image: image  # gives a result its colours
    names: tuple[str, ...] = ()  # of content and styles

    def in_colors(self, settings: Settings) -> "Sources":
        """With the colours that resolved settings want."""
        shares = [mask / 255 for mask in self.masks]
        if shares:  # where there are several they mix
            shares = [share / np.maximum(sum(shares), 1) for share in shares]
        else:
            blend = settings.style_blend or [1] * len(self.styles)
            shares = [share / sum(blend) for share in blend]
        content, styles, tint = prepare(settings.colors, self.content, self.styles, shares)
        init = self.init
        if init is not None and settings.colors == "content":  # an earlier result has got them back
            init = grey(lightness_of(init))
        content, *styles = map(np.float16, (content, *styles))
        return self._replace(content=content, styles=styles, init=init, tint=tint)

    def sizes(self, scale: float) -> tuple[memory.Size, list[memory.Size]]:
        """(width, height) of the content, and of each style, in a smaller size."""
        content, *styles = (
            (max(1, round(scale * image.shape[1])), max(1, round(scale * image.shape[0])))
            for image in (self.content, *self.styles)
        )
        return content, styles

    def at(self, scale: float) -> tuple:
        """Content, styles and masks in a smaller size, as `take_targets` takes them."""
        content, *styles = (
            images.rescale(image, scale).astype(np.float16, copy=False)
            for image in (self.content, *self.styles)
        )
        return (
            with_margin(content),
            [style[np.newaxis] for style in styles],
            [with_margin(images.rescale(mask, scale) / 255) for mask in self.masks],
        )


def check_settings(settings: Settings, styles: int) -> None:
    """Raise UserError for what does not go with so many styles, or with any picture."""
    if not styles:
        raise UserError("no style image was given: name at least one")
    for name in ("style_blend", "mask"):
        number = len(getattr(settings, name) or range(styles))
        if number != styles:
            raise UserError(f"--{name} is for {number} styles, not for the {styles} given")
    if settings.init not in STARTS:
        images.image_size(settings.init)


def load_sources(
    content: Picture, styles: Any, settings: Settings, tile: int | str = "auto"
) -> Sources:
    """Everything that is read from files, checked before TensorFlow's seconds.

    styles: a Picture, or several.
    """
    several = isinstance(styles, Iterable) and not isinstance(styles, Picture)
    styles = list(styles) if several else [styles]
    check_settings(settings, len(styles))
    files, scales = [content, *styles], [1.0] + [settings.style_scale] * len(styles)
    memory.check_memory(settings, [images.image_size(file) for file in files], tile)
    sizes = [round(settings.size * scale) for scale in scales]
    loaded = [images.load(*file) for file in zip(files, sizes, strict=True)]
    masks = [images.load_mask(path, *loaded[0].shape[:2]) for path in settings.mask or ()]
    init = images.load(settings.init) if settings.init not in STARTS else None
    if settings.weights:
        networks.read_weights(settings.weights, settings.network)
    for file, image, scale in zip(files, loaded, scales, strict=True):
        images.check_size(file, image, settings.size, scale)
    if init is not None:
        images.check_size(settings.init, loaded[0], settings.size)  # whose size it gets
    thinnest = min(
        scale * min(image.shape[:2]) / max(image.shape[:2])
        for image, scale in zip(loaded, scales, strict=True)
    )
    names = ("(array)" if isinstance(x, np.ndarray) else os.fsdecode(x) for x in files)
    return Sources(loaded[0], loaded[1:], masks, init, thinnest, names=tuple(names))


def start_image(settings: Settings, sources: Sources) -> np.ndarray:
    """Where the optimization starts, [H, W, 3] in 0..255 of the content's size."""
    shape = sources.content.shape
    if settings.init == "content":
        return sources.content
    if settings.init == "noise":
        return np.random.default_rng(settings.seed).uniform(0, 255, shape).astype("float32")
    image = sources.styles[0] if sources.init is None else sources.init
    return images.resize(image, *shape[:2])
