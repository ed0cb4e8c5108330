"""Pictures of what happens inside: feature maps, Gram matrices, loss curves, a run as it goes.

What the notebooks show is made here; it works without a screen as well. Figures are matplotlib's,
made without pyplot: a notebook shows them, `savefig` writes them. Images are [H, W, 3], uint8 or
float in 0..255; widths are in pixels. Matplotlib and IPython are imported when they are needed.
"""

import base64
import io
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image

from nstlib import animation, images
from nstlib.sheet import sheet

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMES = {"tv": "total variation"}
COLOURS = {"total": "#333333", "content": "#0072b2", "style": "#d55e00", "tv": "#009e73"}
TEXT = {"color": "#555555", "fontsize": 9}


class Rich:
    """An IPython display object: a picture, and HTML for pages where a notebook's is shown."""

    def __init__(self, picture: Image.Image, html: str = ""):
        self.picture, self.html = picture, html

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict[str, str]:
        bundle = {"image/jpeg": base64.b64encode(_jpeg(self.picture)).decode()}
        return bundle | ({"text/html": self.html} if self.html else {})


def pictures(
    pictures: Sequence[np.ndarray],
    titles: Iterable[str] = (),
    columns: int | None = None,
    rows: Iterable[str] = (),
    width: int = 900,
) -> Rich:
    """Images in equally wide columns, `columns` in a row [all of them].

    titles: one for each image, or for each column; rows: one for each row, at its left; width: of
    the whole, at most.
    """
    columns = columns or len(pictures)
    labelled = zip(map(images.to_uint8, pictures), cycle([*titles] or [""]), strict=False)
    tiles = list(labelled)
    lines = [tiles[i : i + columns] for i in range(0, len(tiles), columns)]
    return Rich(Image.fromarray(sheet(lines, [*rows], width)))


def loss_curves(losses: Mapping[str, Sequence[float]], title: str = "") -> "Figure":
    """Losses by iteration on a log scale, as they are in `Result.losses`.

    losses: values by name, the first of them the start image's. Of "total", "content", "style" and
    "tv" each has its colour; other names are shaded from dark to light in their order. What is not
    above 0, as the content loss of the content image, is left out.
    """
    figure = _figure(7.2, 2.8)
    ax = figure.add_subplot()
    _draw_curves(ax, losses)
    ax.set_title(title, **TEXT)
    return figure


def feature_maps(activation, count: int = 32, columns: int = 8, title: str = "") -> "Figure":
    """What a layer sees: its `count` most varied channels, each scaled to its own largest value.

    activation: [1, H, W, C], an array or a tensor.
    """
    maps = np.moveaxis(np.asarray(activation, np.float32)[0], -1, 0)  # from half precision too
    maps = maps[np.argsort(-maps.std(axis=(1, 2)), kind="stable")[:count]]
    height, width = maps.shape[1:]
    lines = math.ceil(len(maps) / columns)
    inches = 9.0
    figure, axes = _axes(lines, columns, inches, inches / columns * height / width * lines)
    for ax, channel in zip(axes, maps, strict=False):
        ax.imshow(channel, cmap="magma", vmin=0, vmax=channel.max() or 1)
    if title:
        figure.suptitle(title, **TEXT)
    return figure


def gram_matrices(grams: Mapping[str, Mapping[str, np.ndarray]]) -> "Figure":
    """Gram matrices as images: a row for each picture, a column for each layer.

    grams: [C, C] by layer, by the name of the picture. Channels stand in the order of how active
    they are in the last picture; brightness is logarithmic and the same along a column.
    """
    layers = list(next(iter(grams.values())))
    figure, axes = _axes(len(grams), len(layers), 9.0, 9.0 * len(grams) / len(layers))
    for column, layer in enumerate(layers):
        matrices = [np.asarray(by_layer[layer]) for by_layer in grams.values()]
        order = np.argsort(-np.diag(matrices[-1]), kind="stable")
        scale = np.mean(matrices[-1]) or 1
        logs = [np.log1p(np.maximum(g, 0)[np.ix_(order, order)] / scale) for g in matrices]
        for row, values in enumerate(logs):
            ax = axes[row * len(layers) + column]
            ax.imshow(values, cmap="magma", vmin=0, vmax=max(x.max() for x in logs) or 1)
            if not row:
                ax.set_title(layer, **TEXT)
    for ax, name in zip(axes[:: len(layers)], grams, strict=True):
        ax.set_ylabel(name, **TEXT)
    return figure


def live_panel(
    num_iter: int, width: int = 560, show: Callable[[bytes], None] | None = None
) -> Callable:
    """An `on_step` for `stylize` that shows the picture, the loss curves, and the time left.

    The image refreshes in place, at most four times a second, and so that drawing takes no more
    than a twentieth of the time; the first and the last step are always drawn.

    num_iter: where the curves' axis ends; width: of the panel in pixels, from 300; show: what is
    given each panel as a JPEG file instead of its being displayed in the notebook.
    """
    show = show or _displayed_in_place()
    figure = _figure(width / 100, 2.1, layout=None)  # finding one takes as long as drawing
    figure.subplots_adjust(left=56 / width, right=1 - 135 / width, bottom=0.2, top=0.88)
    axes = figure.add_subplot()
    history: dict[str, list[float]] = {}
    size, due = None, 0.0

    def on_step(step) -> None:
        nonlocal size, due
        for name, value in step.losses.items():
            history.setdefault(name, []).append(value)
        began = time.monotonic()
        if began < due and step.progress < 1:
            return
        image = Image.fromarray(step.image)
        if size is None:  # stays as it is while the picture grows from scale to scale
            scale = min(width / image.width, width / image.height)
            size = round(image.width * scale), round(image.height * scale)
        axes.clear()
        _draw_curves(axes, history)
        axes.set_xlim(0, num_iter)
        axes.set_title(_how_far(step, num_iter), **TEXT)
        curves = rendered(figure)
        panel = Image.new("RGB", (width, size[1] + curves.height), "white")
        panel.paste(image.resize(size, Image.Resampling.BICUBIC), ((width - size[0]) // 2, 0))
        panel.paste(curves, (0, size[1]))
        show(_jpeg(panel))
        now = time.monotonic()
        due = now + max(0.25, 19 * (now - began))

    return on_step


def before_after(before: np.ndarray, after: np.ndarray, width: int = 560) -> Rich:
    """Two images on top of each other, and a slider that moves the border between them."""
    size = images.size_to_fit(after.shape[1], after.shape[0], width)
    first, second = (_resized(image, size) for image in (before, after))
    above = "this.previousElementSibling.lastElementChild"
    move = f"{above}.style.clipPath='inset(0 0 0 '+this.value+'%)'"
    html = (
        f'<div style="width:{size[0]}px">'
        f'<div style="position:relative;height:{size[1]}px">'
        f'<img src="{_data_url(_jpeg(first))}" style="position:absolute">'
        f'<img src="{_data_url(_jpeg(second))}" '
        'style="position:absolute;clip-path:inset(0 0 0 50%)"></div>'
        f'<input type="range" min="0" max="100" value="50" style="width:100%" oninput="{move}">'
        "</div>"
    )
    half = size[0] // 2
    still = second.copy()
    still.paste(first.crop((0, 0, half, size[1])))
    still.paste("white", (half - 1, 0, half + 1, size[1]))
    return Rich(still, html)


def animated(frames: Sequence[np.ndarray], width: int = 320, seconds: float = 6.0) -> bytes:
    """An animated WebP file: the frames, resized to the last one's aspect, over and over.

    The last frame stays for two seconds.
    """
    size = images.size_to_fit(frames[-1].shape[1], frames[-1].shape[0], width)
    durations = [max(20, round(1000 * seconds / len(frames)))] * len(frames)
    durations[-1] = 2000
    file = io.BytesIO()
    animation.write(file, [_resized(frame, size) for frame in frames], durations, ".webp")
    return file.getvalue()


def time_lapse(frames: Sequence[np.ndarray], width: int = 320) -> Rich:
    """How a picture came about, as an animation; as a strip of six frames where none can play."""
    html = f'<img src="{_data_url(animated(frames, width), "webp")}" width="{width}">'
    picks = (np.linspace(0, 1, 6) ** 2 * (len(frames) - 1)).astype(int)  # most happens at first
    return Rich(pictures([frames[i] for i in picks]).picture, html)


def download_link(image: np.ndarray, name: str = "result.png"):
    """A button that downloads the image, as PNG, from the page itself: an IPython HTML object."""
    from IPython.display import HTML

    file = io.BytesIO()
    Image.fromarray(images.to_uint8(image)).save(file, "PNG")
    style = "display:inline-block;padding:.4em 1em;border-radius:4px;text-decoration:none;"
    style += "background:#0072b2;color:white"
    url = _data_url(file.getvalue(), "png")
    return HTML(f'<a download="{name}" href="{url}" style="{style}">Download {name}</a>')


def rendered(figure: "Figure") -> Image.Image:
    """A figure as a picture, 100 pixels to its inch."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def _figure(
    width: float, height: float, layout: Literal["constrained", "compressed"] | None = "constrained"
) -> "Figure":
    from matplotlib.figure import Figure

    return Figure((width, height), dpi=100, layout=layout)


def _axes(rows: int, columns: int, width: float, height: float) -> "tuple[Figure, list[Axes]]":
    """A figure and its axes, row by row, for matrices: without ticks or frames."""
    figure = _figure(width, height + 0.3, "compressed")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes:
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    return figure, list(axes)


def _draw_curves(ax: "Axes", losses: Mapping[str, Sequence[float]]) -> None:
    from matplotlib import colormaps
    from matplotlib.ticker import NullLocator

    for i, (name, values) in enumerate(losses.items()):
        values = np.asarray(values, float)
        values = np.where(values > 0, values, np.nan)
        colour = COLOURS.get(name) or colormaps["viridis"](0.9 * i / max(1, len(losses) - 1))
        marker = "o" if np.isfinite(values).sum() == 1 else None
        ax.plot(values, color=colour, marker=marker, label=NAMES.get(name, name), linewidth=1.4)
    ax.set_yscale("log")
    ax.yaxis.set_minor_locator(NullLocator())  # two fifths of the time that drawing takes
    ax.set_xlabel("iteration", **TEXT)
    ax.set_ylabel("loss", **TEXT)
    ax.tick_params(colors=TEXT["color"], labelsize=8)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color("#bbbbbb")
    ax.grid(alpha=0.2)
    ax.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))


def _how_far(step, num_iter: int) -> str:
    """Iteration 120 of 300, 8 s left."""
    text = f"iteration {step.iteration} of {num_iter}"
    if not 0 < step.progress < 1:
        return text
    left = round(step.seconds * (1 - step.progress) / step.progress)
    return (
        f"{text}, {left // 60} min {left % 60} s left" if left >= 60 else f"{text}, {left} s left"
    )


def _resized(image: np.ndarray, size: tuple[int, int]) -> Image.Image:
    return Image.fromarray(images.to_uint8(image)).resize(size, Image.Resampling.LANCZOS)


def _jpeg(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=80, subsampling=0)
    return file.getvalue()


def _data_url(data: bytes, kind: str = "jpeg") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _displayed_in_place() -> Callable[[bytes], None]:
    """A function that displays a JPEG file, each over the one before."""
    from IPython import display as ipython

    handle = None

    def show(jpeg: bytes) -> None:
        nonlocal handle
        width, height = Image.open(io.BytesIO(jpeg)).size  # known, the page does not jump
        image = ipython.Image(jpeg, format="jpeg", width=width, height=height)
        if handle is None:
            handle = ipython.display(image, display_id=True)
        else:
            handle.update(image)

    return show
