"""How much memory a picture takes, and how much there is: asked before work starts.

What a network's activations take dwarfs the rest. The figures are of the process's peak on a CPU,
measured with TensorFlow 2.21 for `small` and VGG19, from 128 to 2048 pixels: most within a quarter.
"""

import bisect
import contextlib
import dataclasses
import functools
import math
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from nstlib import UserError, images, networks, tf
from nstlib.scales import MARGIN
from nstlib.settings import Settings

Size = tuple[int, int]  # width and height in pixels

LACK = "the memory does not suffice: make --size smaller"
PROGRAM = 740e6  # bytes, of TensorFlow and this program
WEIGHTS = 2.5  # times the size of the network's weights: as read, and as used
PIXEL = 400  # bytes a pixel of the picture: itself, its gradient, Adam's moments, the start
LBFGS = 1400  # more, for its history
# Bytes of each activation, while there is a gradient; float16 is cast to float32 and back.
ACTIVATION = {"float32": 6.0, "bfloat16": 4.2, "float16": 12.0}
EMULATED = 9.5  # of bfloat16 where the CPU has none
STYLE_PIXEL, STYLE_ACTIVATION = 90, 2.0  # bytes, of a style, which only needs its sums
TILES = (1024, 512, 256)  # pixels: smaller ones take longer
TILED = 350e6  # more, for tiles
TILED_PIXEL, MASK_PIXEL = 105, 16  # bytes, as PIXEL, where the network sees tiles
LOADING, STYLE_LOADING = 75, 30  # bytes a pixel, of the content and of styles, until then
# Values of one activation on a GPU: TensorFlow numbers them in 31 bits. With 2.9e9 it ended the
# process; up to 2³⁰ leaves room for what it puts around them.
MOST_VALUES = 2**30

PATIENCE = 10  # seconds, for an NVIDIA driver to answer
PROC = Path("/proc")
# Files of Linux's control groups, by which containers are limited: version 2, then 1.
GROUPS = {
    "": ("/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    "memory": (
        *("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
        "total_inactive_file",
    ),
}


def needed(settings: Settings, content: Size, styles: Sequence[Size], tile: int = 0) -> float:
    """Bytes that the process has at its peak, for pictures of these sizes (width, height).

    tile: in pixels, of pictures that are larger; 0 for whole pictures. `settings.precision` "auto"
    counts as float32, which takes as much as any that it stands for.
    """
    network = networks.NETWORKS[settings.network]
    precision = "float32" if settings.precision == "auto" else settings.precision
    resolved = dataclasses.replace(settings, precision=precision).resolved()
    layers = networks.used_layers(resolved)
    activations = network.activations(layers) * network.overhead
    emulated = precision == "bfloat16" and not networks.has_bfloat16()
    each = EMULATED if emulated else ACTIVATION[precision]
    more = LBFGS if settings.optimizer == "lbfgs" else 0
    fixed = PROGRAM + WEIGHTS * network.size
    if 0 < tile < max(content):
        own = _seen(resolved, content, tile) * each * activations
        masks = MASK_PIXEL * len(settings.mask or ())
        fixed += TILED + network.size  # in a second form
        loading = _pixels(content) * LOADING + sum(map(_pixels, styles)) * STYLE_LOADING
        return fixed + own + max(loading, _pixels(content) * (TILED_PIXEL + more + masks))
    fixed += sum(map(_pixels, styles)) * 12  # loaded, float32 RGB
    own = _pixels(content) * (PIXEL + more + each * activations)
    style = max(map(_pixels, styles)) * (STYLE_PIXEL + STYLE_ACTIVATION * activations)
    return fixed + max(own, style)


def ways(
    settings: Settings,
    content: Size,
    styles: Sequence[Size],
    tile: int | str = "auto",
    workers=None,
) -> list[int]:
    """In what tiles, in pixels, a picture is to be evaluated, 0 for as a whole: what is estimated
    to fit into memory, and then what takes less.

    tile, workers: as `stylize` takes them. On a GPU the whole is left out where it certainly does
    not fit, and the rest is to be tried; and there are tiles, whatever `tile` says, where an
    activation has more values than it can number.
    """
    longest = max(content)
    if tile == "auto" and workers and longest > TILES[0]:
        tile = TILES[0]
    smaller = [size for size in TILES if size < longest]
    found = [0, *smaller] if tile == "auto" else [int(tile) if 0 < int(tile) < longest else 0]
    if tf.gpus():
        resolved = settings.resolved()
        if tile == "auto" and smaller and _held(resolved, content) > _graphics_memory():
            found = smaller
        fit = [x for x in found if _has_numbers(resolved, [content, *styles], x)]
        return fit or smaller or found
    if tile != "auto":
        return found
    limit = available()
    return [x for x in found if needed(settings, content, styles, x) <= limit] or found[-1:]


def available() -> float:
    """Bytes that this process may come to have, by the machine, its container and its limits."""
    return min(_machine(), _control_groups(), _limits())


def check_memory(settings: Settings, files: Sequence[Size], tile: int | str = "auto") -> None:
    """Raise UserError where a picture would take more memory than there is.

    files: (width, height) of the content and of the styles; tile: as `stylize` takes it.
    """
    content, *styles = files
    least = TILES[-1] if tile == "auto" else int(tile)

    def need(size):
        style_size = max(1, round(size * settings.style_scale))
        sizes = [images.size_to_fit(*style, style_size) for style in styles]
        return needed(settings, images.size_to_fit(*content, size), sizes, least)

    limit = available()
    if need(settings.size) <= limit:
        return
    settings = settings.resolved()  # now that TensorFlow's seconds do not matter
    if need(settings.size) <= limit or tf.gpus():
        return
    largest = bisect.bisect(range(settings.size), limit, key=need) - 1
    used = f"--size {settings.size}"
    if settings.style_scale != 1:
        used += f" with --style_scale {settings.style_scale:g}"
    advice = f"make --size at most {largest}" if largest >= 32 else "a smaller --network may fit"
    raise UserError(
        f"{used} needs about {need(settings.size) / 1e9:.1f} GB of memory, "
        f"and there are {limit / 1e9:.1f}: {advice}"
    )


def _has_numbers(settings: Settings, pictures: Sequence[Size], tile: int) -> bool:
    """Whether a GPU can number all values of each activation of these; settings: resolved."""
    network = networks.NETWORKS[settings.network]
    fields = network.fields(str(settings.pooling))
    widest = max(shape[-1] / fields[name].stride ** 2 for name, shape in network.shapes.items())
    return widest * max(_seen(settings, size, tile) for size in pictures) < MOST_VALUES


def _held(settings: Settings, content: Size) -> float:
    """Bytes of a whole picture's activations, which all are there before the gradient is found;
    settings: resolved."""
    activations = networks.NETWORKS[settings.network].activations(networks.used_layers(settings))
    return (4 if settings.precision == "float32" else 2) * activations * _pixels(content)


def _seen(settings: Settings, picture: Size, tile: int) -> int:
    """Pixels that the network sees at once; settings: resolved; tile: 0 for a whole picture."""
    if not tile:
        return _pixels(picture)
    network, layers = networks.NETWORKS[settings.network], networks.used_layers(settings)
    window = network.window(layers, str(settings.pooling), tile + 2 * MARGIN)
    return math.prod(min(window, length + 2 * MARGIN) for length in picture)


def _pixels(size: Size) -> int:
    return (size[0] + 2 * MARGIN) * (size[1] + 2 * MARGIN)


def _resident() -> int:
    """Bytes that this process has now."""
    with contextlib.suppress(OSError):
        return int((PROC / "self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


@functools.cache
def _graphics_memory() -> float:
    """Bytes of the largest NVIDIA card: in all, for what was free TensorFlow has taken."""
    query = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    with contextlib.suppress(OSError, ValueError, subprocess.SubprocessError):
        told = subprocess.run(query, capture_output=True, text=True, timeout=PATIENCE, check=True)
        return max(map(float, told.stdout.split())) * 2**20
    return float("inf")


def _machine() -> float:
    with contextlib.suppress(OSError, KeyError):
        lines = (PROC / "meminfo").read_text().splitlines()
        kilobytes = dict(line.split(":") for line in lines)["MemAvailable"]
        return 1024 * int(kilobytes.split()[0]) + _resident()
    with contextlib.suppress(AttributeError, OSError, ValueError):  # macOS
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return float("inf")


def _control_groups() -> float:
    """What the groups of this process, one within the other, leave it; caches do not count."""
    left = float("inf")
    with contextlib.suppress(OSError):
        for line in (PROC / "self/cgroup").read_text().splitlines():
            _, kinds, name = line.split(":", 2)
            for kind in GROUPS.keys() & set(kinds.split(",")):
                root, limit, usage, cache = GROUPS[kind]
                folder = Path(root, name.lstrip("/"))
                for group in (folder, *folder.parents):
                    with contextlib.suppress(OSError, KeyError, ValueError):
                        used = int((group / usage).read_text())
                        stat = dict(
                            x.split() for x in (group / "memory.stat").read_text().splitlines()
                        )
                        most = int((group / limit).read_text())  # or "max"
                        left = min(left, most - used + int(stat[cache]) + _resident())
    return left


def _limits() -> float:
    """What `ulimit -v` allows: TensorFlow reserves a quarter more than it uses, and 1.3 GB."""
    try:
        import resource
    except ImportError:  # Windows
        return float("inf")
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return float("inf") if limit == resource.RLIM_INFINITY else (limit - 1.3e9) / 1.25
