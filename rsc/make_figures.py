#!/usr/bin/env python3
"""Make the pictures that README.md shows, with this program on the bundled network.

    python rsc/make_figures.py [example] [matrix] [weights] [textures]

Everything by default; the matrix takes the longest, minutes on a CPU.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

HERE = Path(__file__).resolve().parent
EXAMPLES = HERE.parent / "examples"
sys.path.insert(0, str(HERE.parent))

import nst  # noqa: E402 (after the path)

GAP = 8


def tile(picture, size: int, label: str = "") -> Image.Image:
    """A picture (path or array) filling a 4:3 tile `size` pixels wide, with a label below."""
    image = Image.fromarray(picture) if isinstance(picture, np.ndarray) else Image.open(picture)
    height = size * 3 // 4
    scale = max(size / image.width, height / image.height)
    image = image.resize([round(side * scale) for side in image.size], Image.Resampling.LANCZOS)
    left, top = (image.width - size) // 2, (image.height - height) // 4
    image = image.crop((left, top, left + size, top + height))
    if not label:
        return image
    labelled = Image.new("RGB", (size, height + 26), "white")
    labelled.paste(image)
    draw = ImageDraw.Draw(labelled)
    draw.text((2, height + 2), label, "black", ImageFont.load_default(18))
    return labelled


def sheet(rows: Sequence[Sequence[Image.Image]], path: Path) -> None:
    """Rows of equal tiles on white, saved as a JPEG."""
    width, height = rows[0][0].size
    columns = max(len(row) for row in rows)
    size = (columns * (width + GAP) - GAP, len(rows) * (height + GAP) - GAP)
    page = Image.new("RGB", size, "white")
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            page.paste(image, (x * (width + GAP), y * (height + GAP)))
    page.save(path, quality=88)


def paint(content: str, style: str, **settings) -> np.ndarray:
    settings = nst.Settings(network="small", **settings)
    content, style = EXAMPLES / f"content/{content}.jpg", EXAMPLES / f"style/{style}.jpg"
    return nst.stylize(content, style, settings).image


def example() -> None:
    """README's first picture: content, style and result of its first command."""
    sources = EXAMPLES / "content/temple.jpg", EXAMPLES / "style/circles.jpg"
    result = paint("temple", "circles")
    sheet([[tile(x, 420) for x in (*sources, result)]], HERE / "example.jpg")


def matrix() -> None:
    """Every example content (rows) in every example style (columns)."""
    contents = sorted(x.stem for x in EXAMPLES.glob("content/*.jpg"))
    styles = sorted(x.stem for x in EXAMPLES.glob("style/*.jpg"))
    blank = Image.new("RGB", tile(EXAMPLES / f"style/{styles[0]}.jpg", 320).size, "white")
    rows = [[blank, *(tile(EXAMPLES / f"style/{style}.jpg", 320) for style in styles)]]
    for content in tqdm(contents):
        results = [paint(content, style, size=320, num_iter=450) for style in styles]
        first = tile(EXAMPLES / f"content/{content}.jpg", 320)
        rows.append([first, *(tile(result, 320) for result in results)])
    sheet(rows, HERE / "results_matrix.jpg")


def weights() -> None:
    """What each weight does: a row for each, below, at and above its default."""
    rows = []
    for name, values in {
        "content_weight": (1e3, 1e4, 1e5),
        "style_weight": (1e-3, 1e-2, 1e-1),
        "tv_weight": (0.0, 1e2, 1e3),
    }.items():
        pictures = [
            paint("astronaut", "circles", size=360, num_iter=450, **{name: x}) for x in values
        ]
        labels = [f"--{name} {value:g}" for value in values]
        rows.append([tile(*x) for x in zip(pictures, [360] * 3, labels, strict=True)])
    sheet(rows, HERE / "weights.jpg")


def textures() -> None:
    """Each example style (above) and what its Gram matrices alone make of noise (below)."""
    styles = sorted(x.stem for x in EXAMPLES.glob("style/*.jpg"))
    results = [paint("temple", x, size=320, init="noise", content_weight=0.0) for x in styles]
    originals = [tile(EXAMPLES / f"style/{style}.jpg", 320) for style in styles]
    sheet([originals, [tile(result, 320) for result in results]], HERE / "textures.jpg")


if __name__ == "__main__":
    figures = {"example": example, "matrix": matrix, "weights": weights, "textures": textures}
    for name in sys.argv[1:] or figures:
        figures[name]()
