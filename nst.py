#!/usr/bin/env python3
"""Neural style transfer: Gatys, Ecker and Bethge, "Image Style Transfer Using Convolutional Neural
Networks" (CVPR 2016).

    python3 nst.py -v -c content.jpg -s style.jpg -r out.jpg

The file reads in the order it runs: the settings, the losses of an image and their gradient, Adam
on its pixels, from a small image to the full size, and the command line.
"""

import argparse
import dataclasses
import functools
import logging
import math
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from nstlib import UserError, __version__, cli, images, losses, networks, tf

log = logging.getLogger("nst")

BAR = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"


def option(default, help, *flags, **argument):
    """A field of Settings and what the command line needs to know of it."""
    return field(default=default, metadata={"flags": flags, "help": help, **argument})


@dataclass(frozen=True)
class Settings:
    """Every option of a run; raises UserError for values that cannot work.

    None stands for what suits the chosen network; `Result.settings` tells what that was.
    """

    num_iter: int = option(1000, "iterations", "-n")
    learning_rate: float = option(5.0, "initial learning rate of Adam, in grey levels", "-l")
    content_weight: float = option(1e4, "weight of the content loss")
    style_weight: float = option(1e-2, "weight of the style loss")
    tv_weight: float = option(1e2, "weight of the total-variation loss: higher is smoother")
    size: int = option(512, "longest side of the result in pixels")
    scales: int | None = option(None, "sizes to go through, each twice the one before", type=int)
    init: str = option("content", "where to start: content, style, noise or an image file")
    network: str = option("vgg19", "vgg19, vgg16 or small (bundled, fast)")
    weights: str | None = option(None, "weights file of that network (.h5 or .weights.h5)")
    content_layers: tuple[str, ...] | None = option(None, "that see the content", nargs="+")
    style_layers: tuple[str, ...] | None = option(None, "that see the style", nargs="+")
    pooling: str | None = option(None, "max or avg")
    seed: int = option(0, "the same seed gives the same picture on the same machine")

    def __post_init__(self):
        known = ", ".join(networks.NETWORKS)
        for name, valid, wanted in (
            ("num_iter", self.num_iter >= 1, "at least 1"),
            ("learning_rate", 0 < self.learning_rate < math.inf, "above 0"),
            ("content_weight", 0 <= self.content_weight < math.inf, "0 or more"),
            ("style_weight", 0 <= self.style_weight < math.inf, "0 or more"),
            (
                "style_weight",
                self.style_weight or self.content_weight,
                "above 0 if the content's is 0",
            ),
            ("tv_weight", 0 <= self.tv_weight < math.inf, "0 or more"),
            ("size", 32 <= self.size <= 16384, "32 to 16384 pixels"),
            ("scales", self.scales is None or self.scales >= 1, "at least 1"),
            ("seed", self.seed >= 0, "0 or more"),
            ("network", self.network in networks.NETWORKS, f"one of {known}"),
            ("pooling", self.pooling in (None, "max", "avg"), "max or avg"),
        ):
            if not valid:
                raise UserError(f"--{name} must be {wanted}, not {getattr(self, name)}")
        for layer in (*(self.content_layers or ()), *(self.style_layers or ())):
            networks.layer_name(self.network, layer)

    def resolved(self) -> "Settings":
        """These settings with every None replaced by what suits the network and the size."""
        network = networks.NETWORKS[self.network]

        def names(layers):
            return tuple(networks.layer_name(self.network, layer) for layer in layers)

        return dataclasses.replace(
            self,
            content_layers=names(self.content_layers or network.content_layers),
            style_layers=names(self.style_layers or network.style_layers),
            pooling=self.pooling or network.pooling,
            scales=self.scales or max(1, int(math.log2(self.size / 128)) + 1),
        )


@dataclass(frozen=True)
class Step:
    """What `on_step` sees: the image after so many iterations, and its weighted losses."""

    iteration: int  # 0 is the start image
    losses: dict[str, float]  # "total", "content", "style", "tv"
    progress: float  # share of the run's work that is done, 0 to 1
    seconds: float  # since the first iteration began
    variable: "tf.Variable"

    @property
    def image(self) -> np.ndarray:
        """The image as it is now, uint8 [H, W, 3], smaller than the result at the first scales."""
        return images.to_uint8(images.without_margin(self.variable))


@dataclass(frozen=True)
class Result:
    """The picture, how it came about, and why the run ended early if it did.

    The image is the one of lowest total loss at the last scale, measured with its mirrored margin.
    """

    image: np.ndarray  # uint8 [H, W, 3]
    losses: dict[str, list[float]]  # weighted, one entry an iteration, the start image first
    settings: Settings  # as they were used, nothing left None
    cut_short: BaseException | None = None  # a KeyboardInterrupt, or a UserError: loss not finite


def make_objective(extractor, content, styles, settings: Settings) -> Callable:
    """The function that is minimized: image -> (its weighted losses by name, gradient).

    content: [1, H, W, 3]; styles: a list of such, of any size, whose Gram matrices are averaged.
    A content or style weight of 0 leaves that loss out.
    """

    def mean(values):
        return tf.add_n(values) / len(values)

    content_targets, style_targets = {}, {}
    if settings.content_weight:
        features = extractor(content)
        content_targets = {layer: features[layer] for layer in settings.content_layers}
    if settings.style_weight:
        features = [extractor(style) for style in styles]
        style_targets = {
            layer: mean([losses.gram_matrix(f[layer]) for f in features])
            for layer in settings.style_layers
        }

    def objective(image):
        with tf.GradientTape() as tape:
            tape.watch(image)
            features = extractor(image)
            parts = {}
            if content_targets:
                parts["content"] = settings.content_weight * mean(
                    [losses.content_loss(features[x], p) for x, p in content_targets.items()]
                )
            if style_targets:
                grams = {x: losses.gram_matrix(features[x]) for x in style_targets}
                parts["style"] = settings.style_weight * mean(
                    [losses.style_loss(grams[x], a) for x, a in style_targets.items()]
                )
            parts["tv"] = settings.tv_weight * losses.total_variation_loss(image)
            total = tf.add_n(list(parts.values()))
        return {"total": total, **parts}, tape.gradient(total, image)

    return objective


def minimize(objective: Callable, best: "tf.Variable", settings: Settings, num_iter: int, report):
    """Adam on the pixels of `best`, [1, H, W, 3], which always holds the image of lowest loss.

    The learning rate falls along a half cosine, so that the last steps smooth out the noise that
    the first ones leave (the paper uses L-BFGS). `report(iteration, losses, image)` sees each image
    with the losses measured on it, the start image first. Raises UserError for a loss that is not
    finite.
    """
    image = tf.Variable(best)
    lowest = tf.Variable(math.inf)
    rate = tf.keras.optimizers.schedules.CosineDecay(settings.learning_rate, num_iter)
    adam = tf.keras.optimizers.Adam(rate)
    adam.build([image])

    @tf.function
    def measure():
        parts, gradient = objective(image)
        if parts["total"] < lowest:
            lowest.assign(parts["total"])
            best.assign(image)
        return parts, gradient

    @tf.function
    def update(gradient):
        adam.apply_gradients([(gradient, image)])
        image.assign(tf.clip_by_value(image, 0.0, 255.0))

    before = None
    for iteration in range(num_iter + 1):
        parts, gradient = measure()
        parts = {name: float(value) for name, value in parts.items()}
        losses.check_finite(parts, before)
        before = parts
        report(iteration, parts, image)
        if iteration < num_iter:
            update(gradient)


def plan_scales(settings: Settings, thinnest: float) -> list[tuple[int, int]]:
    """(longest side, iterations) of each scale: each twice the size of the one before, with half
    its iterations: small ones are cheap, and settle the large shapes.

    512 pixels and 1000 iterations in 3 scales: 128 with 571, 256 with 286, 512 with 143. `thinnest`
    is the smallest ratio of short to long side: scales at which a picture would have fewer than 32
    pixels across are left out.
    """
    scales = min(settings.scales, settings.num_iter)
    sizes = [round(settings.size / 2**k) for k in reversed(range(scales))]
    sizes = [size for size in sizes[:-1] if size * thinnest >= 32] + sizes[-1:]
    shares = np.cumsum([0, *(0.5**k for k in range(len(sizes)))])
    ends = [int(settings.num_iter * share / shares[-1]) for share in shares]
    plan = [(size, end - start) for size, (start, end) in zip(sizes, pairwise(ends), strict=True)]
    return [(size, num_iter) for size, num_iter in plan if num_iter]


def start_image(settings: Settings, content: np.ndarray, style: np.ndarray) -> np.ndarray:
    """Where the optimization starts, float32 [H, W, 3] of the content's size."""
    if settings.init == "content":
        return content
    if settings.init == "noise":
        return np.float32(np.random.default_rng(settings.seed).uniform(0, 255, content.shape))
    image = style if settings.init == "style" else images.load(settings.init)
    return images.resize(image, *content.shape[:2])


def load_network(settings: Settings) -> "tuple[Settings, tf.keras.Model]":
    """The submodel, and the settings resolved for it: `small`'s where VGG cannot be had."""
    resolved = settings.resolved()
    layers = dict.fromkeys(
        (resolved.content_layers if settings.content_weight else ())
        + (resolved.style_layers if settings.style_weight else ())
    )
    try:
        return resolved, networks.feature_extractor(
            resolved.network, list(layers), resolved.pooling, resolved.weights
        )
    except networks.WeightsUnavailable as reason:
        log.warning("%s. Going on with the bundled network (--network small).", reason)
        return load_network(dataclasses.replace(settings, network="small"))


def stylize(
    content: "str | Path | np.ndarray",
    styles: "str | Path | np.ndarray | Sequence[str | Path | np.ndarray]",
    settings: Settings = Settings(),
    on_step: Callable[[Step], bool | None] | None = None,
) -> Result:
    """The content in the manner of the style, or of the mean of several styles.

    content, styles: paths, or uint8 arrays [H, W, 3]. From a small image up to the full size, so
    that large shapes move too; see plan_scales for what `num_iter` means. `on_step` sees
    every iteration and ends the run by returning False. An interrupt, or a loss that is no longer
    finite, ends it too, with the best image so far and the reason in the Result; before there is
    an image it is raised. Raises UserError for what cannot work.
    """
    if isinstance(styles, str | Path | np.ndarray):
        styles = [styles]
    sources = [content, *styles]
    if len(sources) < 2:
        raise UserError("no style image was given: name at least one")
    content, *styles = loaded = [images.load(source, settings.size) for source in sources]
    image = start_image(settings, content, styles[0])
    if settings.weights:  # before TensorFlow's seconds
        networks.read_weights(settings.weights, settings.network)
    for source, picture in zip(sources, loaded, strict=True):
        images.check_size(source, picture, settings.size)
    settings, extractor = load_network(settings)
    log.info("network %s, layers %s", settings.network, " ".join(extractor.output))

    def at(image, size):
        width, height = images.size_to_fit(image.shape[1], image.shape[0], size)
        return images.resize(image, height, width)

    plan = plan_scales(settings, min(min(x.shape[:2]) / max(x.shape[:2]) for x in loaded))
    work = sum(size**2 * num_iter for size, num_iter in plan)
    history: dict[str, list[float]] = {}
    done, work_done, began = 0, 0.0, time.monotonic()

    def report(iteration, parts, variable):
        if done and not iteration:
            return  # the start of a scale is the end of the one before
        for name, value in parts.items():
            history.setdefault(name, []).append(value)
        progress = (work_done + iteration * size**2) / work
        seconds = time.monotonic() - began
        if on_step and on_step(Step(done + iteration, parts, progress, seconds, variable)) is False:
            raise StopIteration

    cut_short, best, before = None, image, image
    try:
        for size, num_iter in plan:
            start = at(image, size)
            picture = tf.Variable(images.with_margin(images.carry_over(start, best, before)))
            target = images.with_margin(at(content, size))
            painted = [tf.constant(at(style, size)[np.newaxis]) for style in styles]
            objective = make_objective(extractor, target, painted, settings)
            minimize(objective, picture, settings, num_iter, report)
            done, work_done = done + num_iter, work_done + num_iter * size**2
            best, before = images.without_margin(picture), start
            if settings.init == "noise":
                image = before = best  # there is no detail in it to keep
    except (KeyboardInterrupt, UserError, StopIteration) as reason:
        if not history:
            raise
        best, before = images.without_margin(picture), start
        cut_short = None if isinstance(reason, StopIteration) else reason
    except tf.errors.ResourceExhaustedError as error:
        cut_short = UserError("the memory does not suffice: make --size smaller")
        if not history:
            raise cut_short from error
    image = images.carry_over(images.resize(image, *content.shape[:2]), best, before)
    return Result(images.to_uint8(image), history, settings, cut_short)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command line: besides these, every field of Settings is an option of the same name."""
    parser = cli.Parser(prog="nst.py", description=__doc__.partition("\n\n")[0], allow_abbrev=False)
    required = functools.partial(parser.add_argument, required=True, metavar="FILE")
    required("-c", "--content", help="content image")
    required("-s", "--style", action="append", help="style image; repeat it to mix several")
    required("-r", "--result", help=f"where the result goes ({' '.join(images.FORMATS)})")
    parser.add_fields(Settings)
    parser.add_argument("-p", "--print_every", type=int, default=100, help="see -v [100]")
    parser.add_argument(
        *("-v", "--verbose"),
        action="store_true",
        help="print network, sizes and, every so many iterations, the weighted losses",
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.add_argument("--version", action="version", version=f"nst {__version__}")
    return parser.parse_args(argv)


def run(args: argparse.Namespace, interrupts: cli.Interrupts) -> int:
    """One picture, from checking the arguments to saving; returns the exit status."""
    log.setLevel(logging.INFO if args.verbose else logging.WARNING)
    if args.print_every < 1:
        raise UserError(f"--print_every must be at least 1, not {args.print_every}")
    settings = Settings(**{x.name: getattr(args, x.name) for x in dataclasses.fields(Settings)})
    images.check_result_path(args.result, sources=[args.content, *args.style, args.init])
    if Path(args.result).exists():
        log.warning("%s is there already and will be replaced", args.result)
    quiet = args.verbose or not sys.stderr.isatty()
    with tqdm(total=1.0, disable=quiet, bar_format=BAR) as bar, logging_redirect_tqdm():

        def on_step(step):
            interrupts.hold = True  # from here on there is a picture to save
            if step.iteration % args.print_every == 0 or step.iteration == settings.num_iter:
                parts = "  ".join(f"{name} {value:.3e}" for name, value in step.losses.items())
                log.info("%6d  %s  %.1f s", step.iteration, parts, step.seconds)
            bar.set_description(f"{step.iteration}/{settings.num_iter}", refresh=False)
            bar.set_postfix_str(f"loss {step.losses['total']:.3e}", refresh=False)
            bar.update(step.progress - bar.n)
            return not interrupts.signal

        result = stylize(args.content, args.style, settings, on_step)
    images.save(args.result, result.image)
    if isinstance(result.cut_short, UserError):
        raise UserError(f"{result.cut_short}; the last good picture is in {args.result}")
    if interrupts.signal:
        done = len(result.losses["total"]) - 1
        log.warning("Stopped at iteration %d; the best picture so far is in %s.", done, args.result)
    return interrupts.exit_status


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit status: 0, 2 for what the user can mend, 130 or 143 after
    Ctrl-C or SIGTERM."""
    argv = sys.argv[1:] if argv is None else argv
    logging.basicConfig(format="%(message)s")
    os.environ.setdefault("TF_DETERMINISTIC_OPS", "1")  # or a GPU's sums differ from run to run
    with cli.Interrupts() as interrupts:
        try:
            return run(parse(argv), interrupts)
        except UserError as error:
            if "--debug" in argv:
                traceback.print_exc()
            print(f"nst: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("nst: stopped before there was a picture; nothing is saved", file=sys.stderr)
            return interrupts.exit_status


if __name__ == "__main__":
    sys.exit(main())
