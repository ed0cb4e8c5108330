"""The losses of a whole picture and their gradient, tile by tile, for pictures that memory does not
hold with their activations.

Galerne et al., "Scaling Painting Style Transfer" (EGSR 2024). What a style loss looks at are sums
over positions, and those of tiles add up. So there are two passes: the first adds up the sums; the
style loss of these has a derivative by each of them, and the second pass brings it, with the
content loss, back to the pixels of each tile. This is exact, not an approximation: a tile sees as
much of its surroundings as its activations do, and only the activations of its core count, each
once.

The levels of a network's pyramid are pictures of their own, with tiles of their own.
"""

import contextlib
import dataclasses
import functools
import queue
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice, pairwise
from typing import Any, NamedTuple, Protocol

import numpy as np

from nstlib import losses, networks, paths, tf
from nstlib.networks import Field
from nstlib.scales import MARGIN

# Content targets of so many values a pixel or fewer are kept for the whole picture: little more
# than the picture itself. Of others the activations are computed again, whenever a tile is.
KEPT = 4
BAND = 256  # rows of a picture that are dealt with at once, where no network is concerned
BACK = 2.0  # what the second pass takes, in times of the first


class Span(NamedTuple):
    """One side of a tile: its core, whose positions count, and what is seen for their sake, of the
    picture and then of what each pooling gives."""

    start: int
    stop: int
    last: bool  # whether the picture ends here
    seen: list[tuple[int, int]]  # of the pixels, and after each pooling: from where, and up to

    @property
    def before(self) -> int:
        """Where the window starts."""
        return self.seen[0][0]

    @property
    def after(self) -> int:
        """Where the window stops."""
        return self.seen[0][1]

    def positions(self, field: Field, length: int) -> slice:
        """The core's positions in a layer of this field, which has so many in all."""
        stop = length if self.last else self.stop // field.stride
        return slice(self.start // field.stride, stop)

    def within(self, field: Field, length: int) -> list[int]:
        """The same within the tile's own activations: the first, and how many there are."""
        found, poolings = self.positions(field, length), field.stride.bit_length() - 1
        return [found.start - self.seen[poolings][0], found.stop - found.start]

    def cuts(self) -> list[list[int]]:
        """After each pooling, what is seen within what the pooling gives."""
        return [[y[0] - x[0] // 2, y[1] - y[0]] for x, y in pairwise(self.seen)]


def spans(
    length: int, tile: int, fields: Sequence[Field], pools: Sequence[Field] = ()
) -> list[Span]:
    """How a side of a picture is divided: into as many equal parts as have at most `tile` pixels.

    They begin at multiples of the largest stride, so that pooling takes the same cells together
    that it takes in the whole picture, and have at least one position in each layer; windows are as
    wide as the fields of the core's positions, and so is what is seen after each pooling.

    pools: the fields of what each pooling gives.
    """
    deepest = max(fields)  # the last layer, which sees all that the others see
    stride = deepest.stride

    def seen(start, stop, field):
        before = deepest.before - field.before
        after = deepest.after - field.after + field.stride - stride
        most = field.count(length)
        end = most if stop == length else min(most, (stop + after) // field.stride)
        return max(0, (start - before) // stride * stride) // field.stride, end

    on_the_way = [Field(), *(field for field in pools if field.stride <= stride)]
    cells = max(1, length // stride)
    number = min(cells, -(-length // tile))
    edges = [-(-cells * k // number) * stride for k in range(number)] + [length]
    return [
        Span(start, stop, stop == length, [seen(start, stop, field) for field in on_the_way])
        for start, stop in pairwise(edges)
    ]


class Tile(NamedTuple):
    """A part of the picture of a level; pixels and positions by their numbers in the whole."""

    level: int
    rows: Span
    columns: Span
    fields: dict[str, Field]
    sizes: dict[str, tuple[int, int]]  # of the level's activations

    @property
    def window(self) -> tuple:
        """The pixels that the tile sees, as an index of [1, H, W, C]."""
        rows, columns = self.rows, self.columns
        return np.s_[:, rows.before : rows.after, columns.before : columns.after]

    @property
    def pixels(self) -> int:
        return (self.rows.after - self.rows.before) * (self.columns.after - self.columns.before)

    def core(self, layer: str) -> tuple:
        """The positions that count, as an index of a layer, [1, h, w, C]."""
        field, (height, width) = self.fields[layer], self.sizes[layer]
        return np.s_[:, self.rows.positions(field, height), self.columns.positions(field, width)]

    def cuts(self) -> list[np.ndarray]:
        """The cuts of Level.seen."""
        return list(map(_box, self.rows.cuts(), self.columns.cuts()))

    def boxes(self) -> dict[str, np.ndarray]:
        """By layer where these are in the tile's own activations: top, left, height, width."""
        boxes = {}
        for layer, field in self.fields.items():
            height, width = self.sizes[layer]
            boxes[layer] = _box(self.rows.within(field, height), self.columns.within(field, width))
        return boxes

    def region(self, layer: str, *mask: np.ndarray) -> dict[str, np.ndarray]:
        """What losses.sums takes beside the core's activations, under a mask of the picture's."""
        core, (height, _) = self.core(layer), self.sizes[layer]
        y = np.linspace(-1, 1, height, dtype=np.float32)[core[1]]  # as losses.row_coordinates
        region = {"y": y[np.newaxis, :, np.newaxis, np.newaxis]}
        return region | {"mask": mask[0][core]} if mask else region

    def share(self, layer: str) -> np.float32:
        """Of the layer's positions those of the core."""
        _, rows, columns = self.core(layer)
        height, width = self.sizes[layer]
        return np.float32(
            (rows.stop - rows.start) * (columns.stop - columns.start) / (height * width)
        )


def _box(rows: list[int], columns: list[int]) -> np.ndarray:
    """For networks.cut, from the first of the rows and how many there are, and of the columns."""
    return np.array([rows[0], columns[0], rows[1], columns[1]], np.int32)


# What is done on a device


class Job(NamedTuple):
    """What a device needs to know of a tile; arrays are of the tile alone."""

    level: int
    window: np.ndarray  # [1, h, w, 3]
    cuts: list[np.ndarray]
    boxes: dict[str, np.ndarray]
    regions: dict[str, list[dict]]  # by style layer, of each wanted sum losses.sums' y and mask
    shares: dict[str, np.float32]  # by content layer
    focus: dict[str, np.ndarray]  # of it what content_focus gives, [1, h, w, 1]
    kept: dict[str, np.ndarray]  # content targets [1, h, w, C]
    photograph: tuple[np.ndarray, ...]  # its window, where content targets are not kept


class LevelFunctions(NamedTuple):
    """Of a level of a network on one device, compiled."""

    activations: Callable  # window, cuts, boxes -> by content layer those of the core, float32
    sums: Callable  # window, cuts, boxes, regions -> by style layer the sums of the core
    # style loss, its derivative by the sums, Job's fields -> (content loss, gradient)
    gradient: Callable


@functools.lru_cache(maxsize=8)
def _levels(network, layers, pooling, weights, precision, changed, device) -> list[networks.Level]:
    with tf.device(device):
        return networks.level_extractors(network, list(layers), pooling, weights, precision)


def load_levels(settings, device: str | None = None) -> list[networks.Level]:
    """The levels of the network of resolved settings on a device, loaded once and kept."""
    layers = tuple(networks.used_layers(settings))
    options = settings.network, layers, settings.pooling, settings.weights, settings.precision
    return _levels(*options, paths.changed(settings.weights), device)


@functools.lru_cache(maxsize=16)
def _compiled_functions(settings, device: str | None, changed) -> list[LevelFunctions]:
    return [_level_functions(settings, level) for level in load_levels(settings, device)]


def _functions(settings, device: str | None) -> list[LevelFunctions]:
    return _compiled_functions(settings, device, paths.changed(settings.weights))


def _level_functions(settings, level: networks.Level) -> LevelFunctions:
    content = _layers(settings.content_weight, settings.network, settings.content_layers)

    def activations(window, cuts, boxes):
        features = level.seen(window, cuts)
        found = {x: networks.cut(features[x], boxes[x]) for x in features if x in content}
        return {x: tf.cast(y, tf.float32) for x, y in found.items()}

    def find_sums(features, boxes, regions):
        return {
            x: [losses.sums(networks.cut(features[x], boxes[x]), **region) for region in regions[x]]
            for x in regions
        }

    def sums(window, cuts, boxes, regions):
        return find_sums(level.seen(window, cuts), boxes, regions)

    def gradient(style_loss, slopes, window, cuts, boxes, regions, shares, focus, kept, photograph):
        targets = activations(photograph[0], cuts, boxes) if photograph else kept
        with tf.GradientTape() as tape:
            tape.watch(window)
            features = level.seen(window, cuts)
            found = find_sums(features, boxes, regions)
            pairs = tf.nest.map_structure(lambda slope, one: slope * one, slopes, found)
            errors = {
                x: losses.content_loss(networks.cut(features[x], boxes[x]), targets[x], focus[x])
                for x in shares
            }
            loss, magnitude = tf.constant(0.0), style_loss
            if errors:
                own = {x: shares[x] * error for x, error in errors.items()}
                loss = losses.weighted_content_loss(settings, own)
                magnitude += losses.weighted_content_loss(settings, errors)
            total = tf.add_n([loss, *map(tf.reduce_sum, tf.nest.flatten(pairs))])
        return loss, losses.scaled_gradient(tape, total, window, magnitude, settings)

    return LevelFunctions(*map(networks.compiled, (activations, sums, gradient)))


def _as_arrays(found):
    return tf.nest.map_structure(np.asarray, found)


def find_activations(device, settings, job: Job) -> dict[str, np.ndarray]:
    function = _functions(settings, device)[job.level].activations
    return _as_arrays(function(tf.constant(job.window), job.cuts, job.boxes))


def find_sums(device, settings, job: Job) -> dict[str, list[losses.Sums]]:
    function = _functions(settings, device)[job.level].sums
    return _as_arrays(function(job.window, job.cuts, job.boxes, job.regions))


def find_gradient(device, settings, style_loss, slopes, job: Job) -> tuple[np.ndarray, np.ndarray]:
    function = _functions(settings, device)[job.level].gradient
    slopes = {layer: slopes[layer] for layer in job.regions}
    return _as_arrays(function(style_loss, slopes, *job[1:]))


class Workers(Protocol):
    """Who evaluates tiles."""

    def run(self, function: Callable, common: tuple, jobs: Iterator["Job"]) -> Generator:
        """function(device, *common, job) of each job, in the order of the jobs, which does not
        depend on how many workers there are. Once it is closed, nothing more is begun."""
        ...


class Devices:
    """The GPUs of this machine, or else its CPUs as TensorFlow lists them: a thread for each."""

    def __init__(self):
        found = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        # One alone needs no name, and no other copy of the network than the one that is there.
        names = [device.name for device in found] if len(found) > 1 else [None]
        self._free: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        for name in names:
            self._free.put(name)
        self._threads = ThreadPoolExecutor(len(names))
        self._ahead = 2 * len(names)  # tiles cut out at once: one to do, one to go on with

    def run(self, function: Callable, common: tuple, jobs: Iterator[Job]) -> Generator:
        def work(job):
            device = self._free.get()
            try:
                with tf.device(device):
                    return function(device, *common, job)
            finally:
                self._free.put(device)

        futures = deque(self._threads.submit(work, job) for job in islice(jobs, self._ahead))
        try:
            while futures:
                yield futures.popleft().result()
                futures.extend(self._threads.submit(work, job) for job in islice(jobs, 1))
        finally:
            for future in futures:
                future.cancel()


# What is done with the whole picture


def _layers(weight: float, network: str, layers) -> set[str]:
    return set(networks.layer_weights(network, layers)) if weight else set()


class Tiled:
    """`take_targets` and `make_objective` by tiles.

    settings: resolved; tile: the longest side of a core in pixels, but for the picture's margin;
    `see_tile(share, seconds)` is told after every tile what share of an evaluation is done, in how
    many seconds; the share is 0 as long as targets are taken.
    """

    def __init__(
        self, settings, tile: int, workers: Workers, see_tile: Callable[[float, float], None]
    ):
        self.settings, self.tile = settings, tile + 2 * MARGIN
        self.workers, self.see_tile = workers, see_tile
        self.levels = load_levels(settings)
        self._began = time.monotonic()
        self.content = _layers(settings.content_weight, settings.network, settings.content_layers)
        self.style = _layers(settings.style_weight, settings.network, settings.style_layers)
        network = networks.NETWORKS[settings.network]
        values = {}
        for level in self.levels:
            for layer in level.fields.keys() & self.content:
                number, name = network.place(layer)
                stride = 2**number * level.fields[layer].stride
                values[layer] = network.shapes[name][-1] / stride**2
        self.keeps = sum(values.values()) <= KEPT

    def take_targets(self, content, styles, masks=()) -> dict:
        """Like nst's take_targets; arrays or tensors."""
        pictures, samples = self._pictures(content), []
        without_masks = dataclasses.replace(self.settings, mask=None)
        for style in styles if self.style else ():
            everywhere = {layer: [()] for layer in self.style}
            found = self._sums(self._pictures(style), everywhere, without_masks)
            samples.append({x: one for x, (one,) in found.items()})
        targets: dict[str, Any] = {"content": {}, "focus": {}, "style": {}, "photograph": []}
        tiles = self._tiles(pictures, self.content | self.style)
        sizes = {layer: size for tile in tiles for layer, size in tile.sizes.items()}
        for layer in self.content:
            focus = losses.content_focus(self.settings, np.float32(content), sizes[layer])
            targets["focus"][layer] = focus.numpy()
        if self.content and self.keeps:
            targets["content"] = self._activations(pictures)
        elif self.content:
            for level, picture in zip(self.levels, pictures, strict=True):
                kept = picture if self.content & level.fields.keys() else None
                targets["photograph"].append(kept)
        if self.style:
            targets["style"] = losses.wanted_style(self.settings, samples, sizes, masks)
        return targets

    def objective(self, targets, image) -> tuple[dict, Any]:
        """Like what nst's make_objective gives: (weighted losses by name, gradient)."""
        self._began = time.monotonic()
        pictures = self._pictures(image)
        parts, loss, slopes, masks = {}, np.float32(0), {}, {}
        if wanted := targets["style"]:
            masks = {x: [tuple(map(np.asarray, y.mask)) for y in wanted[x]] for x in wanted}
            found = self._sums(pictures, masks, self.settings, 1 / (1 + BACK))
            plain = {x: [target._replace(mask=()) for target in wanted[x]] for x in wanted}
            loss, slopes = _as_arrays(_style_slopes(self.settings)(found, plain))
            parts["style"] = float(loss)
        content, gradients = self._gradients(pictures, targets, masks, loss, slopes)
        if self.content:
            parts = {"content": content, **parts}
        parts["tv"] = self._add_total_variation(pictures[0], gradients[0])
        return {"total": sum(parts.values()), **parts}, gradients[0]  # a tensor would be a copy

    def _pictures(self, image) -> list[np.ndarray]:
        """The pictures of the levels, [1, h, w, 3], of which the first is the image itself."""
        pictures = [np.asarray(image)]
        for number in range(1, len(self.levels)):
            before = pictures[-1]
            _, height, width, channels = before.shape
            picture = np.empty((1, -(-height // 2), -(-width // 2), channels), np.float32)
            for window, rows, within in _bands(height, picture.shape[1]):
                seen = before[:, window].astype(np.float32, copy=False)
                picture[:, rows] = _made(self.settings, number)(seen)[:, within]
            pictures.append(picture)
        return pictures

    def _tiles(self, pictures, layers) -> list[Tile]:
        """Of each level that has some of these layers; they see no more than these layers do."""
        tiles = []
        for number, (level, picture) in enumerate(zip(self.levels, pictures, strict=True)):
            fields = {layer: field for layer, field in level.fields.items() if layer in layers}
            if not fields:
                continue
            height, width = picture.shape[1:3]
            sizes = {x: (field.count(height), field.count(width)) for x, field in fields.items()}
            rows, columns = (
                spans(length, self.tile, list(fields.values()), level.pools)
                for length in (height, width)
            )
            tiles += [Tile(number, x, y, fields, sizes) for x in rows for y in columns]
        return tiles

    def _run(
        self, function, common, tiles, pictures, masks, targets=None, shares=(0.0, 0.0)
    ) -> Iterator[tuple]:
        """(tile, what the function gives for it) in the order of the tiles. `shares`: of the
        evaluation, before and after."""

        def job(tile):
            photograph, kept, focus, parts = (), {}, {}, {}
            if targets:
                content = self.content & tile.fields.keys()
                parts = {x: tile.share(x) for x in content}
                focus = {x: targets["focus"][x][tile.core(x)] for x in content}
                kept = {x: targets["content"][x][tile.core(x)] for x in content if self.keeps}
                if content and not self.keeps:
                    window = targets["photograph"][tile.level][tile.window]
                    photograph = (window.astype(np.float32, copy=False),)
            regions = {
                x: [tile.region(x, *mask) for mask in masks[x]]
                for x in masks.keys() & tile.fields.keys()
            }
            window = pictures[tile.level][tile.window].astype(np.float32, copy=False)
            where = tile.cuts(), tile.boxes()
            return Job(tile.level, window, *where, regions, parts, focus, kept, photograph)

        results = self.workers.run(function, common, map(job, tiles))
        whole, done = sum(tile.pixels for tile in tiles), 0
        with contextlib.closing(results):  # so that after an interrupt nothing more is begun
            for tile, result in zip(tiles, results, strict=True):
                yield tile, result
                done += tile.pixels
                share = shares[0] * (1 - done / whole) + shares[1] * done / whole
                self.see_tile(share, time.monotonic() - self._began)

    def _activations(self, pictures) -> dict[str, np.ndarray]:
        """Those of the content layers."""
        whole = {}
        tiles = self._tiles(pictures, self.content)
        for tile, found in self._run(find_activations, (self.settings,), tiles, pictures, {}):
            for layer, values in found.items():
                if layer not in whole:
                    whole[layer] = np.empty((1, *tile.sizes[layer], values.shape[-1]), np.float32)
                whole[layer][tile.core(layer)] = values
        return whole

    def _sums(self, pictures, masks, settings, share=0.0) -> dict[str, list[losses.Sums]]:
        """Those of the style layers, over the whole picture."""
        whole, shares = {}, (0.0, share)
        tiles = self._tiles(pictures, masks)
        for _, found in self._run(find_sums, (settings,), tiles, pictures, masks, None, shares):
            for layer, parts in found.items():
                before = whole.get(layer)
                whole[layer] = [*map(_add, before, parts)] if before else parts
        return whole

    def _gradients(self, pictures, targets, masks, *style) -> tuple[float, list[np.ndarray]]:
        """The content loss, and of each level the gradient of the losses, by the picture."""
        content, gradients = 0.0, [np.zeros_like(picture) for picture in pictures]
        tiles = self._tiles(pictures, self.content | self.style)
        common = self.settings, *style
        shares = (1 / (1 + BACK) if masks else 0.0, 1.0)
        found = self._run(find_gradient, common, tiles, pictures, masks, targets, shares)
        for tile, (loss, gradient) in found:
            content += float(loss)
            gradients[tile.level][tile.window] += gradient
        for number in reversed(range(1, len(pictures))):
            before, gradient = pictures[number - 1], gradients.pop()
            for window, rows, within in _bands(before.shape[1], gradient.shape[1]):
                pull = _made_pull(self.settings, number)
                own = pull(before[:, window], gradient[:, rows], np.int32(within.start))
                gradients[number - 1][:, window] += own.numpy()
        return content, gradients

    def _add_total_variation(self, image, gradient) -> float:
        """The weighted loss; its gradient is added to the other."""
        _, height, width, channels = image.shape
        loss, weight = 0.0, self.settings.tv_weight
        counts = np.array([(height - 1) * width, height * (width - 1)], np.float64) * channels
        for top in range(0, height, BAND):
            rows = np.s_[:, top : top + BAND + 1]  # with the first of the next band
            of_band = np.int32(min(BAND, height - top)), np.float32(weight / counts)
            own, pull = _band_variation(image[rows], *of_band)
            loss += float(own)
            gradient[rows] += pull.numpy()
        return loss


def _add(one: losses.Sums, other: losses.Sums) -> losses.Sums:
    return losses.Sums(*(x + y for x, y in zip(one, other, strict=True)))


@functools.lru_cache(maxsize=2)
def _style_slopes(settings) -> Callable:
    """(found, wanted) -> (weighted style loss, its derivative by the found sums)."""

    def function(found, wanted):
        with tf.GradientTape() as tape:
            tape.watch(found)
            loss = losses.weighted_style_loss(settings, found, wanted)
        unconnected = tf.UnconnectedGradients.ZERO  # some losses have no use for some sums
        return loss, tape.gradient(loss, found, unconnected_gradients=unconnected)

    return networks.compiled(function)


@functools.lru_cache(maxsize=16)
def _made(settings, number: int) -> Callable:
    """The picture of a level from that of the level before."""
    return networks.compiled(load_levels(settings)[number].made)


@functools.lru_cache(maxsize=16)
def _made_pull(settings, number: int) -> Callable:
    """(rows of the level before, gradient by some of the rows made of them, the first of these) ->
    gradient by the former."""
    made = load_levels(settings)[number].made

    def function(picture, gradient, first):
        with tf.GradientTape() as tape:
            tape.watch(picture)
            rows = made(picture)[:, first : first + tf.shape(gradient)[1]]
        return tape.gradient(rows, picture, output_gradients=gradient)

    return networks.compiled(function)


def _bands(height: int, halved: int) -> Iterator[tuple[slice, slice, slice]]:
    """How a picture of so many rows is halved a few at a time: rows of it, those that they are
    wanted for, and where these are in what is made of the former alone."""
    field = Field().pooled("blur")
    for span in spans(height, BAND, [field]):
        rows, first = span.positions(field, halved), span.before // field.stride
        within = slice(rows.start - first, rows.stop - first)
        yield slice(span.before, span.after), rows, within


@networks.compiled
def _band_variation(image, rows, weights):
    """The weighted squared steps down, and across in so many rows, and their gradient."""
    with tf.GradientTape() as tape:
        tape.watch(image)
        across = losses.squared_steps(image[:, :rows], 2)
        loss = weights[0] * losses.squared_steps(image, 1) + weights[1] * across
    return loss, tape.gradient(loss, image)
