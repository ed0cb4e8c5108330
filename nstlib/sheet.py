"""Pictures in rows and columns on one sheet, with their labels."""

import os
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from nstlib import UserError, images
from nstlib.images import Picture

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

TILE = 480  # width of a tile in pixels, less where the sheet would exceed
SHEET = 6000, 16000  # this width and height; WebP ends at 16383
GAP, LABEL = 1 / 40, 1 / 9  # in widths of a tile


def sheet(
    rows: Sequence[Sequence[tuple[Picture | None, str]]],
    names: Sequence[str] = (),
    width: int = SHEET[0],
) -> np.ndarray:
    """Rows of (picture, label) on white, as uint8 [H, W, 3].

    A picture is a file, a uint8 array or None for an empty tile, shown whole, its label below.
    Tiles are equally wide, and in each row as high as its highest picture, at most 4:3 upright.
    names: of the rows, written upwards at their left; width: of the sheet in pixels, at most.
    """

    def aspect(picture):
        width, height = images.image_size(picture)
        return min(height / width, 4 / 3)

    heights = [max((aspect(x) for x, _ in row if x is not None), default=3 / 4) for row in rows]
    strips = [LABEL if any(label for _, label in row) else 0 for row in rows]
    margin = LABEL if any(names) else 0
    across = margin + max(map(len, rows)) * (1 + GAP) + GAP
    down = sum(heights) + sum(strips) + (len(rows) + 1) * GAP
    tile = min(TILE, width / across, SHEET[1] / down)
    page = Image.new("RGB", (round(tile * across), round(tile * down)), "white")
    draw = ImageDraw.Draw(page)
    font = ImageFont.load_default(max(1, 0.7 * LABEL * tile))
    top = GAP
    names = [*names, *[""] * (len(rows) - len(names))]
    for row, height, strip, name in zip(rows, heights, strips, names, strict=True):
        if name:
            size = round(tile * (height + strip)), round(tile * LABEL)
            page.paste(_upwards(name, font, size), (0, round(tile * top)))
        for column, (picture, label) in enumerate(row):
            middle, bottom = margin + GAP + column * (1 + GAP) + 1 / 2, top + height
            if picture is not None:
                size = images.image_size(picture)
                scale = min(1 / size[0], height / size[1]) * tile
                image = images.load(picture, max(1, round(scale * max(size))))
                image = Image.fromarray(images.to_uint8(image))
                left, lower = tile * middle - image.width / 2, tile * bottom - image.height
                page.paste(image, (round(left), round(lower)))
            label = _shorten(label, font, tile)
            draw.text((tile * middle, tile * bottom), label, "black", font, anchor="ma")
        top += height + strip + GAP
    return np.asarray(page)


def side_by_side(files: Sequence[str | os.PathLike]) -> np.ndarray | None:
    """Pictures at one height, uint8 [H, W, 3], somewhat larger than a tile; None for a bad file."""
    try:
        loaded = [images.load(path, 2 * TILE) for path in files]
    except UserError:
        return None
    height = min(map(len, loaded))
    widths = [round(x.shape[1] * height / len(x)) for x in loaded]
    scaled = [images.resize(x, height, w) for x, w in zip(loaded, widths, strict=True)]
    return images.to_uint8(np.hstack(scaled))


def _upwards(label: str, font: Font, size: tuple[int, int]) -> Image.Image:
    """A label in the middle of a strip of that size, turned so that it is read from below."""
    strip = Image.new("RGB", size, "white")
    text = _shorten(label, font, size[0])
    ImageDraw.Draw(strip).text((size[0] / 2, 0), text, "black", font, anchor="ma")
    return strip.transpose(Image.Transpose.ROTATE_90)


def _shorten(label: str, font: Font, width: float) -> str:
    """The label in one line of at most so many pixels."""
    label = "".join(x if x.isprintable() else "?" for x in label)
    if font.getlength(label) <= width:
        return label
    while label and font.getlength(label + "…") > width:
        label = label[:-1]
    return label + "…"
