#!/usr/bin/env python3
"""Make the pictures that README.md shows, with this program on the bundled network.

    python rsc/make_figures.py [NAME ...]

Everything by default, an hour or two on a CPU; or what is named: example, matrix, weights,
textures, timelapse, large, or one of CONTROLS.
"""

import functools
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
EXAMPLES = ROOT / "examples"
sys.path.insert(0, str(ROOT))

import nst  # noqa: E402 (after the path)
from nstlib import images  # noqa: E402
from nstlib.sheet import sheet  # noqa: E402


def style(name: str) -> Path:
    return EXAMPLES / f"style/{name}.jpg"


@functools.cache  # the defaults are in many figures
def paint(content: str, *styles: str, **settings) -> np.ndarray:
    sources = EXAMPLES / f"content/{content}.jpg", [style(name) for name in styles]
    return nst.stylize(*sources, nst.Settings(network="small", **settings)).image


def paint_evenly(content: str, *styles: str, **settings) -> np.ndarray:
    """The style everywhere alike, so that what differs is due to these settings."""
    return paint(content, *styles, **{"style_layout": 0.0, **settings})


def save(name: str, *rows) -> None:
    """Rows of (picture, label); a page is not to wait for them."""
    Image.fromarray(sheet(rows)).save(HERE / f"{name}.jpg", quality=85, subsampling=0)


def example() -> None:
    """README's first picture: content, style and result of its first command."""
    result = paint("astronaut", "strokes")
    save(
        "example", [(x, "") for x in (EXAMPLES / "content/astronaut.jpg", style("strokes"), result)]
    )


def matrix() -> None:
    """Every example content in every example style, as README says."""
    options = "-c examples/content -s examples/style -r rsc/results_matrix.jpg --network small"
    subprocess.run([sys.executable, "nst.py", *options.split()], cwd=ROOT, check=True)
    shutil.rmtree(HERE / "results_matrix")
    path = HERE / "results_matrix.jpg"
    Image.open(path).save(path, quality=80)


def weights() -> None:
    """What each weight does: a row for each, below, at and above its default."""
    rows = []
    for name, values in {
        "content_weight": (1e3, 1e4, 1e5),
        "style_weight": (1e-3, 1e-2, 1e-1),
        "tv_weight": (0.0, 1.0, 1e2),
    }.items():
        default = getattr(nst.Settings(network="small").resolved(), name)
        changes = [{} if value == default else {name: value} for value in values]
        pictures = [paint_evenly("astronaut", "strokes", **change) for change in changes]
        labels = [f"--{name} {value:g}" for value in values]
        rows.append(list(zip(pictures, labels, strict=True)))
    save("weights", *rows)


def textures() -> None:
    """Each example style (above) and what its style loss alone makes of noise (below)."""
    styles = sorted(EXAMPLES.glob("style/*.jpg"))
    options = {"init": "noise", "content_weight": 0.0}
    results = [paint_evenly("temple", x.stem, **options) for x in styles]
    save("textures", *([(x, "") for x in row] for row in (styles, results)))


def half_masks(folder: str) -> tuple[str, str]:
    """Two masks with a soft edge between, the left half and the right."""
    ramp = np.clip((np.arange(360) - 150) / 60, 0, 1) * 255
    right = np.broadcast_to(ramp[np.newaxis, :, np.newaxis], [240, 360, 3])
    paths = f"{folder}/left.png", f"{folder}/right.png"
    images.save(paths[0], 255 - right)
    images.save(paths[1], right)
    return paths


ALIKE = {"style_weight": 0.0, "init": "noise", "content_focus": 0.0}  # as in the paper
ALONE = {"content_weight": 0.0, "init": "noise"}

# For each control the settings of its pictures; of a name with two styles both are given.
CONTROLS = {
    "init": (
        ("rocket", "wave"),
        {"init": "content"},
        {"init_noise": 0.5},
        {"init": "noise"},
        {"init": "style"},
    ),
    "content_focus": (("temple", "circles"), *({"content_focus": x} for x in (0.0, 0.4, 1.0))),
    "style_layout": (("rocket", "wave"), *({"style_layout": x} for x in (0.0, 0.2, 1.0))),
    "style_blend": (
        ("flower", "ink", "glass"),
        *({"style_blend": blend} for blend in ((1, 0), (7, 3), (3, 7), (0, 1))),
    ),
    "style_scale": (("coffee", "circles"), *({"style_scale": x} for x in (0.5, 1.0, 2.0))),
    "layers": (
        ("temple", "strokes"),
        {"style_layers": ("level1_conv1", "level2_conv1")},
        {"style_layers": ("level3_conv1", "level4_conv1", "level5_conv1")},
        {"style_layers": tuple(f"level{level}_conv2" for level in range(1, 6))},
        {"content_layers": ("level4_conv2",)},
    ),
    "style_loss": (
        ("cat", "glass"),
        *({"style_loss": x} for x in ("gram", "covariance", "wasserstein")),
    ),
    "colors": (
        ("astronaut", "wave"),
        *({"colors": x} for x in ("style", "palette", "match", "content")),
    ),
    "mask": (("temple", "ink", "circles"),),
    "reconstruction": (
        ("rocket", "flowers"),
        {"content_layers": ("level1_conv2",), **ALIKE},
        {"content_layers": ("level4_conv2",), **ALIKE},
        {"style_layers": ("level1_conv1",), **ALONE},
        {"style_layers": ("level1_conv1", "level2_conv1", "level3_conv1"), **ALONE},
    ),
}


def label(settings: dict) -> str:
    """The options as they are written; of layers, a word for them."""
    options = []
    for name, value in settings.items():
        if name.endswith("_layers"):
            levels, kinds = zip(
                *(layer.removeprefix("level").split("_") for layer in value), strict=True
            )
            levels = (
                f"level {levels[0]}" if len(levels) == 1 else f"levels {levels[0]} to {levels[-1]}"
            )
            return f"{name.removesuffix('_layers')}: {kinds[0]}, {levels}"
        if isinstance(value, tuple):
            value = ",".join(map(str, value))
        options.append(f"--{name} {value:g}" if isinstance(value, float) else f"--{name} {value}")
    return "  ".join(options) or "default"


def control(name: str) -> None:
    """What a control does: its pictures with their options."""
    sources, *variants = CONTROLS[name]
    with tempfile.TemporaryDirectory() as folder:
        if name == "mask":
            left, right = half_masks(folder)
            row = [(left, "--mask left.png"), (right, "--mask right.png")]
            row.append((paint_evenly(*sources, mask=(left, right)), "left: ink, right: circles"))
        else:
            row = [(paint_evenly(*sources, **settings), label(settings)) for settings in variants]
        save(name, row)


def large() -> None:
    """A picture of 4096 pixels, and a part of it as it is."""
    picture = paint("temple", "circles", size=4096)
    top, left = picture.shape[0] // 8, picture.shape[1] // 4
    part = picture[top : top + 320, left : left + 480]
    save("large", [(picture, "--size 4096"), (part, "480 of its pixels")])


def timelapse() -> None:
    """An animation of a run, and its loss curves."""
    command = "nst.py -c examples/content/coffee.jpg -s examples/style/wave.jpg --network small"
    command += " --size 480 --timelapse rsc/timelapse.webp --plot rsc/plot.png -r"
    with tempfile.TemporaryDirectory() as folder:
        argv = [sys.executable, *command.split(), f"{folder}/out.png"]
        subprocess.run(argv, cwd=ROOT, check=True)


if __name__ == "__main__":
    figures = {"example": example, "matrix": matrix, "weights": weights, "textures": textures}
    figures |= {"timelapse": timelapse, "large": large}
    for name in sys.argv[1:] or [*figures, *CONTROLS]:
        figures[name]() if name in figures else control(name)
