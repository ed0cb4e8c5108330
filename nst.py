#!/usr/bin/env python3
"""Neural style transfer: Gatys, Ecker and Bethge, "Image Style Transfer Using Convolutional Neural
Networks" (CVPR 2016).

    python3 nst.py -v -c content.jpg -s style.jpg -r out.jpg

The file reads in the order it runs: the losses of an image and their gradient, an optimizer on its
pixels, from a small image to the full size, and the command line.
"""

import signal
import sys
from pathlib import Path

# Run as a command; not for cli.importable, which imports it once more while it runs.
if Path(*sys.argv[:1]).stem == "nst" and "nstlib" not in sys.modules:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback while modules load
    sys.path.insert(0, str(Path(__file__).resolve().parent))  # which PYTHONSAFEPATH leaves out

import argparse
import contextlib
import dataclasses
import functools
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from nstlib import (
    CannotGoOn,
    UserError,
    __version__,
    cli,
    cluster,
    gallery,
    images,
    losses,
    memory,
    networks,
    tf,
    tiles,
)
from nstlib.images import Picture
from nstlib.networks import LoadedNetwork, load_network
from nstlib.optimizers import OPTIMIZERS
from nstlib.outputs import Outputs
from nstlib.results import Part, Result, Step
from nstlib.scales import Scale, plan_scales, with_margin, without_margin
from nstlib.settings import Settings
from nstlib.sources import Sources, check_settings, load_sources, start_image

__all__ = ["Outputs", "Part", "Result", "Settings", "Step", "UserError"]
__all__ += ["load_network", "main", "stylize"]

log = logging.getLogger("nst")


def take_targets(extractor, settings: Settings, content, styles, masks=()) -> dict:
    """What the losses compare with: the photograph's activations, the paintings' sums over them.

    content: [1, H, W, 3] in 0..255; styles: a list of such, of any size; masks: where each style is
    to be, [1, H, W, 1] in 0..1. Returns {"content": {layer: activation}, "focus": {layer: what
    losses.content_focus gives}, "style": {layer: what losses.wanted_sums gives}}.
    """
    content, *styles = (tf.constant(np.float32(image)) for image in (content, *styles))
    targets, features = {"content": {}, "focus": {}, "style": {}}, extractor(content)
    sizes = {layer: x.shape[1:3] for layer, x in features.items()}
    if settings.content_weight:
        for layer in networks.layer_weights(settings.network, settings.content_layers):
            targets["content"][layer] = tf.cast(features[layer], tf.float32)
            targets["focus"][layer] = losses.content_focus(settings, content, sizes[layer])
    del features  # the activations of one picture at a time
    if settings.style_weight:
        layers = networks.layer_weights(settings.network, settings.style_layers)

        def sums(style):
            features = extractor(style)
            return {layer: losses.sums(features[layer]) for layer in layers}

        samples = list(map(sums, styles))
        targets["style"] = losses.wanted_style(settings, samples, sizes, masks)
    return targets


@functools.lru_cache(maxsize=2)  # traced once for all pictures of a gallery
def make_objective(extractor, settings: Settings) -> Callable:
    """The function that is minimized: (targets, image) -> (its weighted losses by name, gradient).

    targets: as `take_targets` gives them; image: [1, H, W, 3] of any size.
    """

    def objective(targets, image):
        content, focus, style = targets["content"], targets["focus"], targets["style"]
        with tf.GradientTape() as tape:
            tape.watch(image)
            features, parts = extractor(image), {}
            if content:
                found = {x: losses.content_loss(features[x], content[x], focus[x]) for x in content}
                parts["content"] = losses.weighted_content_loss(settings, found)
            if style:
                found = {x: [losses.sums(features[x], *y.mask) for y in style[x]] for x in style}
                parts["style"] = losses.weighted_style_loss(settings, found, style)
            parts["tv"] = settings.tv_weight * losses.total_variation_loss(image)
            total = tf.add_n(list(parts.values()))
        gradient = losses.scaled_gradient(tape, total, image, total, settings)
        return {"total": total, **parts}, gradient

    return networks.compiled(objective)


class Enough(Exception):
    """The iterations are used up or gain too little, or no more are wanted."""


def minimize(objective: Callable, image: "tf.Variable", settings: Settings, num_iter: int, report):
    """Optimize the pixels of an image, [1, H, W, 3], for at most so many iterations.

    objective: image -> (losses by name, gradient). `report(iteration, losses, image)` sees each
    image with the losses measured on it, the start image first, and ends it by returning False.
    Raises CannotGoOn for a loss that is not finite.
    """
    lowest: list[float] = []  # the lowest total loss until each iteration
    previous = None

    def evaluate(image):
        nonlocal previous
        parts, gradient = objective(image)
        # A few numbers are all that leaves the device.
        parts = dict(zip(parts, tf.stack(list(parts.values())).numpy().tolist(), strict=True))
        losses.check_finite(parts, previous)
        previous = parts
        lowest.append(min([parts["total"], *lowest[-1:]]))
        stopped = report(len(lowest) - 1, parts, image) is False
        stalled = len(lowest) > 50 and lowest[-51] - lowest[-1] < settings.tolerance * lowest[-51]
        if stopped or stalled or len(lowest) > num_iter:
            raise Enough
        return parts["total"], gradient

    with contextlib.suppress(Enough):
        OPTIMIZERS[settings.optimizer](evaluate, image, settings.learning_rate, num_iter)


class Best(NamedTuple):
    """The state of a run: the image of lowest total loss at the scale that is running."""

    scale: Scale
    losses: dict[str, float]
    tensor: "tf.Tensor"


def stylize(
    content: Picture,
    styles: Picture | Sequence[Picture],
    settings: Settings = Settings(),
    on_step: Callable[[Step], bool | None] | None = None,
    network: LoadedNetwork | None = None,
    tile: int | str = "auto",
    workers: tiles.Workers | None = None,
    on_part: Callable[[Part], bool | None] | None = None,
) -> Result:
    """The content in the manner of the style, or of several.

    content, styles: paths, or uint8 arrays [H, W, 3]. From a small image up to the full size, so
    that large shapes move too; see plan_scales for what `num_iter` means. `on_step` sees
    every iteration and ends the run by returning False. `network`: one that `load_network` gave for
    these settings [loaded once and kept]. An interrupt, a loss that is no longer finite, or a lack
    of memory ends the run too, with the best image so far and the reason in the Result; before
    there is an image it is raised. Raises UserError for what cannot work.

    Pictures with a side longer than `tile` pixels are evaluated in tiles, see nstlib.tiles; 0 for
    never, "auto" for where memory is too small for the whole, or there are other `workers` than
    this machine's devices. `on_part` sees every tile, and interrupts the run by returning False.
    """
    tile = cli.tile(str(tile))
    sources = load_sources(content, styles, settings, tile)
    settings, extractor = network.fit(settings) if network else load_network(settings)
    log.info("network %s, %s", settings.network, settings.precision)
    run = Run(sources.in_colors(settings), settings, extractor)
    del sources  # the run lets go of what it no longer needs
    try:
        return run.paint(tile, workers, on_step, on_part)
    except (KeyboardInterrupt, CannotGoOn) as reason:
        if run.best is None:
            raise
        return run.result(reason)
    except (MemoryError, tf.errors.ResourceExhaustedError) as error:
        reason = CannotGoOn(memory.LACK)
        if run.best is None:
            raise reason from error
        return run.result(reason)


class Run:
    """A run of `stylize`: what it works on, and how far it has come."""

    def __init__(self, sources: Sources, settings: Settings, extractor):
        self.sources, self.settings = sources, settings
        self.start = start_image(settings, sources)
        self.whole = partial(take_targets, extractor, settings), make_objective(extractor, settings)
        self.plan = plan_scales(settings, sources.thinnest)
        self.work = sum(size**2 * num_iter for size, num_iter in self.plan)
        self.reached = 0.0  # of the work, when the image is evaluated that is being evaluated
        self.history: list[dict[str, float]] = []
        self.best: Best | None = None
        self.stopped, self.began = False, time.monotonic()

    def paint(self, tile, workers, on_step, on_part) -> Result:
        """All scales, each as a whole, or in tiles where memory does not hold that."""
        work_before = 0
        plan = ", ".join(f"{number} at {size} pixels" for size, number in self.plan)
        log.info("iterations: %s", plan)
        for size, num_iter in self.plan:
            seen, sizes = len(self.history), self.sources.sizes(size / self.settings.size)
            ways = memory.ways(self.settings, *sizes, tile, workers)
            for way in ways:
                try:
                    self.optimize(size, num_iter, work_before, way, workers, on_step, on_part)
                    break
                except tf.errors.ResourceExhaustedError:
                    begun = len(self.history) > seen or not self.sources.styles
                    if way == ways[-1] or begun:
                        raise
            work_before += num_iter * size**2
            if self.stopped:
                break
        return self.result()

    def optimize(self, size, num_iter, work_before, tile, workers, on_step, on_part) -> None:
        """One scale."""
        self.reached = work_before
        scale = next_scale(self.best, self.start, size, self.settings)
        image = tf.Variable(with_margin(scale.start), dtype=tf.float32)
        scale = dataclasses.replace(scale, start=scale.base)  # one large array less
        targets_of, objective = self.whole
        if tile:
            log.info("%d pixels in tiles of %d", size, tile)
            see = partial(self.see_tile, scale, on_part)
            evaluator = tiles.Tiled(self.settings, tile, workers or tiles.Devices(), see)
            targets_of, objective = evaluator.take_targets, evaluator.objective
        targets = targets_of(*self.sources.at(size / self.settings.size))
        report = partial(self.report, scale, work_before, on_step)
        minimize(partial(objective, targets), image, self.settings, num_iter, report)

    def report(self, scale, work_before, on_step, iteration, parts, tensor) -> bool:
        self.reached = work_before + (iteration + 1) * scale.size**2
        new = iteration or not self.history  # the start of a scale is the end of the one before
        if new:
            self.history.append(parts)
        if self.best is None or not iteration or parts["total"] <= self.best.losses["total"]:
            self.best = Best(scale, parts, tensor)
        if scale.size == self.settings.size:  # the last targets are taken: styles have served
            self.sources = self.sources._replace(styles=[], masks=[])
        if new and on_step:
            progress = (work_before + iteration * scale.size**2) / self.work
            seconds, show = time.monotonic() - self.began, partial(self.picture, scale, tensor)
            number = len(self.history) - 1
            about = dict(parts), progress, seconds, tensor, show
            now = Step(number, *about, self.settings, self.sources.names)
            self.stopped = is_no(on_step(now))
        return not self.stopped

    def see_tile(self, scale, on_part, share, seconds) -> None:
        if on_part:
            left = 1 - share + (self.work - self.reached) / scale.size**2
            remaining = seconds / share * left if share else float("nan")
            if is_no(on_part(Part(len(self.history), share, scale.size, remaining))):
                raise KeyboardInterrupt

    def picture(self, scale, tensor, size=None, exact=False) -> np.ndarray:
        """The result, as uint8 unless it is to be exact, if this were the last image."""
        image = self.sources.tint(scale.picture(without_margin(tensor), size))
        return image if exact else images.to_uint8(image)

    def result(self, cut_short=None) -> Result:
        best = self.best
        assert best is not None
        curves = {name: [parts[name] for parts in self.history] for name in best.losses}
        exact = self.picture(best.scale, best.tensor, exact=True)
        image = images.to_uint8(exact)
        names = self.sources.names
        return Result(image, curves, self.settings, cut_short, best.losses, names, exact)


def is_no(answer) -> bool:
    """Whether a caller's function returned False, be it Python's or NumPy's."""
    return isinstance(answer, bool | np.bool_) and not answer


def next_scale(best: Best | None, image: np.ndarray, size: int, settings: Settings) -> Scale:
    """The scale of this size: the first of a run that starts from `image`, or after the best."""
    if best:
        scale = best.scale.next(without_margin(best.tensor), size)
    else:
        scale = Scale.first(image, size, settings.size)
        if settings.init_noise:
            random, start = np.random.default_rng(settings.seed), np.array(scale.start, np.float32)
            for rows in images.strips(*start.shape[:2]):
                noise = random.uniform(0, 255, start[rows].shape)
                start[rows] += settings.init_noise * (noise - start[rows])
            scale = dataclasses.replace(scale, start=start)
    return scale.without_detail() if settings.init == "noise" else scale


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command line: besides these, each field of Settings and Outputs is an option."""
    parser = cli.Parser("nst.py")
    required = partial(parser.group("pictures").add_argument, required=True, metavar="FILE")
    required("-c", "--content", action="once", help="content image, or a folder of them")
    required("-s", "--style", action="append", help="style image, several to mix, or a folder")
    parser.add_fields(Settings)
    parser.add_fields(Outputs)
    add = parser.group("the program").add_argument
    add("-v", "--verbose", action="store_true", help="print losses and sizes")
    add("-p", "--print_every", metavar="EVERY", type=int, default=100, help="see -v [100]")
    add("--dask", metavar="ADDRESS", help="paint on this Dask cluster")
    text = "evaluate a picture in tiles of so many pixels: less memory; 0: never [auto]"
    add("--tile", metavar="PIXELS", type=cli.tile, default="auto", help=text)
    add("--show", action=cli.Show)
    add("--debug", action="store_true", help="show the traceback of an error")
    add("--version", action="version", version=f"nst {__version__}", help="print the version")
    return parser.parse_args(argv)


def run(argv: Sequence[str], interrupts: cli.Interrupts) -> int:
    """One picture or a gallery, from checking the arguments to saving; returns the exit status."""
    args = parse(argv)
    log.setLevel(logging.INFO if args.verbose else logging.WARNING)
    if args.print_every < 1:
        raise UserError(f"--print_every must be at least 1, not {args.print_every}")
    settings, outputs = cli.chosen(Settings, args), cli.chosen(Outputs, args)
    if gallery.wanted(args.content, args.style):
        gallery.refuse(settings, "mask")
        gallery.refuse(outputs, "save_every", "timelapse", "plot", "depth")
        cells = gallery.plan(args.content, args.style, args.result, [args.init])
        check_settings(settings, len(args.style))
        paint = partial(cli.importable(stylize), tile=args.tile)  # Dask's workers import it
        return gallery.make(
            cells, lambda: load_network(settings).settings, paint, interrupts, args.dask
        )
    outputs.check([args.content, *args.style, args.init, *(settings.mask or ())], settings.size)

    def on_step(step):
        interrupts.hold = True  # from here on there is a picture to save
        outputs.add(step)
        show(step)
        return not interrupts.signal

    def on_part(part):
        show_part(part)
        return not interrupts.signal

    with cluster.tile_workers(args.dask, interrupts) as workers:
        options = {"tile": args.tile, "workers": workers, "on_part": on_part}
        with cli.progress(args.print_every) as (show, show_part):
            result = stylize(args.content, args.style, settings, on_step, **options)
        outputs.save(result)  # before the cluster is left, which takes a while if it is lost
        cli.say_where(args.result)
    if isinstance(result.cut_short, UserError):
        raise UserError(f"{result.cut_short}; the last good picture is in {args.result}")
    if interrupts.signal:
        done = len(result.losses["total"]) - 1
        log.warning("Stopped at iteration %d; the best picture so far is in %s.", done, args.result)
    return interrupts.exit_status


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit status: 0, 2 for what the user can mend, 130 or 143 after
    Ctrl-C or SIGTERM."""
    return cli.answer(run, sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    sys.exit(main())
