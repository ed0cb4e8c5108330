#!/usr/bin/env python3
"""Make the pictures that README.md shows, with this program on the bundled network.

    python rsc/make_figures.py [example] [matrix] [weights] [textures]

Everything by default; the matrix takes the longest, minutes on a CPU.
"""

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
EXAMPLES = ROOT / "examples"
sys.path.insert(0, str(ROOT))

import nst  # noqa: E402 (after the path)
from nstlib import gallery, images  # noqa: E402


def save(name: str, rows: Sequence[Sequence[tuple]]) -> None:
    images.save(HERE / name, gallery.sheet(rows))


def paint(content: str, style: str, **settings) -> np.ndarray:
    settings = nst.Settings(network="small", **settings)
    content, style = EXAMPLES / f"content/{content}.jpg", EXAMPLES / f"style/{style}.jpg"
    return nst.stylize(content, style, settings).image


def example() -> None:
    """README's first picture: content, style and result of its first command."""
    sources = EXAMPLES / "content/temple.jpg", EXAMPLES / "style/circles.jpg"
    save("example.jpg", [[(x, "") for x in (*sources, paint("temple", "circles"))]])


def matrix() -> None:
    """Every example content (rows) in every example style (columns), as README says."""
    options = "-c examples/content -s examples/style -r rsc/results_matrix.jpg"
    options += " --network small --size 320 -n 450"
    subprocess.run([sys.executable, "nst.py", *options.split()], cwd=ROOT, check=True)
    shutil.rmtree(HERE / "results_matrix")


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
        rows.append(list(zip(pictures, labels, strict=True)))
    save("weights.jpg", rows)


def textures() -> None:
    """Each example style (above) and what its Gram matrices alone make of noise (below)."""
    styles = sorted(EXAMPLES.glob("style/*.jpg"))
    results = [paint("temple", x.stem, size=320, init="noise", content_weight=0.0) for x in styles]
    save("textures.jpg", [[(x, "") for x in row] for row in (styles, results)])


if __name__ == "__main__":
    figures = {"example": example, "matrix": matrix, "weights": weights, "textures": textures}
    for name in sys.argv[1:] or figures:
        figures[name]()
