#!/usr/bin/env python3
"""Neural style transfer: Gatys, Ecker and Bethge, "Image Style Transfer Using Convolutional Neural
Networks" (CVPR 2016).

    python3 nst.py -v -c content.jpg -s style.jpg -r out.jpg

The file reads in the order it runs: the settings, the losses of an image and their gradient, Adam
on its pixels, from a small image to the full size, and the command line.
"""

import argparse
import contextlib
import dataclasses
import logging
import math
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from nstlib import UserError, __version__, cli, colors, images, lbfgs, losses, networks, tf
from nstlib.cli import option

log = logging.getLogger("nst")

BAR = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"


@dataclass(frozen=True)
class Settings:
    """Every option of a run; raises UserError for values that cannot work.

    None and "auto" stand for what suits the network, the size and the machine; `Result.settings`
    tells what that was.
    """

    num_iter: int = option(1000, "iterations", "-n", at_least=1)
    learning_rate: float = option(
        5.0, "initial learning rate of Adam, in grey levels", "-l", above=0
    )
    optimizer: str = option("adam", "adam or lbfgs", one_of=("adam", "lbfgs"))
    tolerance: float = option(0.0, "end a scale when 50 iterations gain less than this", at_least=0)
    precision: str = option("auto", "of the network", one_of=("auto", *networks.PRECISIONS))
    content_weight: float = option(1e4, "weight of the content loss", at_least=0)
    style_weight: float = option(1e-2, "weight of the style loss", at_least=0)
    tv_weight: float = option(1e2, "weight of the total variation: higher is smoother", at_least=0)
    size: int = option(512, "longest side of the result in pixels", at_least=32, at_most=16384)
    scales: int | str = option(
        "auto", "sizes to go through, each twice the one before", type=cli.auto_or_number
    )
    style_scale: float = option(1.0, "size of the style image: strokes", at_least=0.1, at_most=10)
    style_blend: tuple[float, ...] | None = option(
        None, "weight of each style, such as 3,7", type=cli.numbers
    )
    mask: tuple[str, ...] | None = option(
        None, "image, white where a style is to be: one for each -s", action="append"
    )
    colors: str = option(
        "style", "style's, content's, or match: both alike", one_of=("style", "content", "match")
    )
    init: str = option("content", "where to start: content, style, noise or an image file")
    init_noise: float = option(0.0, "share of noise at the start", at_least=0, at_most=1)
    network: str = option("vgg19", "vgg19, vgg16 or small (bundled)", one_of=networks.NETWORKS)
    weights: str | None = option(None, "weights file of that network (.h5 or .weights.h5)")
    content_layers: tuple[str, ...] | None = option(None, "name or name=weight", nargs="+")
    style_layers: tuple[str, ...] | None = option(None, "name or name=weight", nargs="+")
    pooling: str | None = option(None, "max or avg", one_of=("max", "avg"))
    seed: int = option(0, "the same seed gives the same picture on the same machine", at_least=0)

    def __post_init__(self):
        for name in ("style_blend", "mask", "content_layers", "style_layers"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, tuple(getattr(self, name)))
        cli.check_fields(self)
        if self.scales != "auto" and self.scales < 1:
            raise UserError(f"--scales must be auto or at least 1, not {self.scales}")
        if not self.style_weight and not self.content_weight:
            raise UserError("--style_weight must be above 0 where --content_weight is 0")
        blend = self.style_blend or (1,)
        if not all(0 <= share < math.inf for share in blend) or not sum(blend):
            raise UserError(f"--style_blend must be of numbers from 0 on, not all 0, not {blend}")
        if self.optimizer == "lbfgs" and self.precision not in ("auto", "float32"):
            raise UserError("--optimizer lbfgs needs --precision float32, for its line search")
        for layers in (self.content_layers, self.style_layers):
            networks.layer_weights(self.network, layers or ())

    def resolved(self) -> "Settings":
        """These settings with None and "auto" replaced by what suits network, size and machine."""
        network = networks.NETWORKS[self.network]

        def named(layers):
            weights = networks.layer_weights(self.network, layers).items()
            return tuple(name if weight == 1 else f"{name}={weight:g}" for name, weight in weights)

        refined = self.init not in ("content", "style", "noise")  # an earlier result: no detours
        scales = 1 if refined else max(1, int(math.log2(self.size / 128)) + 1)
        precision = self.precision
        if precision == "auto":
            precision = "float32" if self.optimizer == "lbfgs" else networks.best_precision()
        return dataclasses.replace(
            self,
            content_layers=named(self.content_layers or network.content_layers),
            style_layers=named(self.style_layers or network.style_layers),
            pooling=self.pooling or network.pooling,
            scales=scales if self.scales == "auto" else self.scales,
            precision=precision,
        )


@dataclass(frozen=True)
class Step:
    """What `on_step` sees: the image after so many iterations, and its weighted losses."""

    iteration: int  # 0 is the start image
    losses: dict[str, float]  # "total", "content", "style", "tv"
    progress: float  # share of the run's work that is done, 0 to 1
    seconds: float  # since the first iteration began
    tensor: "tf.Tensor"  # the image as it is optimized, [1, h, w, 3] with a margin
    finish: Callable  # what is done to an image at the end, float32 [h, w, 3] to the same

    @property
    def image(self) -> np.ndarray:
        """The image, uint8 [h, w, 3], smaller than the result at the first scales."""
        return images.to_uint8(self.finish(images.without_margin(self.tensor)))


@dataclass(frozen=True)
class Result:
    """The picture, how it came about, and why the run ended early if it did.

    The image is the one of lowest total loss at the last scale, measured with its mirrored margin.
    """

    image: np.ndarray  # uint8 [H, W, 3]
    losses: dict[str, list[float]]  # weighted, one entry an iteration, the start image first
    settings: Settings  # as they were used, nothing left to choose
    cut_short: BaseException | None = None  # a KeyboardInterrupt, or a UserError: loss not finite


def take_targets(extractor, content, styles, settings: Settings, masks=()) -> dict:
    """What the losses compare with: the photograph's activations, the paintings' Gram matrices.

    content: [1, H, W, 3]; styles: a list of such, of any size; masks: where each style is to be,
    [1, H, W, 1] in 0..1. Without them the Gram matrices are averaged. Returns {"content": {layer:
    activation}, "style": {layer: [(Gram matrix, weight[, mask])]}}.
    """
    targets, features = {"content": {}, "style": {}}, extractor(content)
    if settings.content_weight:
        for layer in networks.layer_weights(settings.network, settings.content_layers):
            targets["content"][layer] = tf.cast(features[layer], tf.float32)
    if settings.style_weight:
        blend = np.float32(settings.style_blend or [1] * len(styles))
        blend /= blend.sum()
        layers = networks.layer_weights(settings.network, settings.style_layers)
        grams = [{x: losses.gram_matrix(f[x]) for x in layers} for f in map(extractor, styles)]
        for layer in layers:
            targets["style"][layer] = wanted = []
            for gram, share, mask in zip(grams, blend * len(masks), masks, strict=False):
                mask = tf.image.resize(mask, features[layer].shape[1:3], "area")
                # By area, so that a style is as strong in a small place as in a large one.
                wanted.append((gram[layer], share * tf.reduce_mean(mask**2), mask))
            if not masks:
                mixed = tf.tensordot(blend, tf.stack([gram[layer] for gram in grams]), 1)
                wanted.append((mixed, tf.constant(1.0)))
    return targets


def make_objective(extractor, settings: Settings) -> Callable:
    """The function that is minimized: (targets, image) -> (its weighted losses by name, gradient).

    targets: as `take_targets` gives them; image: [1, H, W, 3] of any size.
    """

    def mean(values, layers):
        weights = networks.layer_weights(settings.network, layers)
        return tf.add_n([weights[x] * value for x, value in values.items()]) / sum(weights.values())

    def style_loss(features, wanted):
        grams = [losses.gram_matrix(features, *mask) for _, _, *mask in wanted]
        pairs = zip(grams, wanted, strict=True)
        return tf.add_n([weight * losses.style_loss(g, a) for g, (a, weight, *_) in pairs])

    def objective(targets, image):
        content, style = targets["content"], targets["style"]
        with tf.GradientTape() as tape:
            tape.watch(image)
            features, parts = extractor(image), {}
            if content:
                found = {x: losses.content_loss(features[x], content[x]) for x in content}
                parts["content"] = settings.content_weight * mean(found, settings.content_layers)
            if style:
                found = {x: style_loss(features[x], style[x]) for x in style}
                parts["style"] = settings.style_weight * mean(found, settings.style_layers)
            parts["tv"] = settings.tv_weight * losses.total_variation_loss(image)
            total = tf.add_n(list(parts.values()))
        # Float16 loses gradients that are very large or very small.
        scale = 2.0**20 / total if settings.precision == "float16" else tf.ones_like(total)
        gradient = tape.gradient(total, image, output_gradients=scale) / scale
        return {"total": total, **parts}, gradient

    return networks.compiled(objective)


class Enough(Exception):
    """The iterations are used up, or gain too little."""


def minimize(objective: Callable, best: "tf.Variable", settings: Settings, num_iter: int, report):
    """Optimize the pixels of `best`, [1, H, W, 3], which always holds the image of lowest loss.

    objective: image -> (losses by name, gradient). `report(iteration, losses, image)` sees each
    image with the losses measured on it, the start image first. Raises UserError for a loss that is
    not finite.
    """
    lowest, before = [], None

    def evaluate(image):
        nonlocal before
        parts, gradient = objective(image)
        # A few numbers are all that leaves the device.
        parts = dict(zip(parts, tf.stack(list(parts.values())).numpy().tolist(), strict=True))
        losses.check_finite(parts, before)
        before = parts
        lowest.append(min([parts["total"], *lowest[-1:]]))
        if parts["total"] == lowest[-1]:
            best.assign(image)
        report(len(lowest) - 1, parts, image)
        stalled = len(lowest) > 50 and lowest[-51] - lowest[-1] < settings.tolerance * lowest[-51]
        if len(lowest) > num_iter or stalled:
            raise Enough
        return parts["total"], gradient

    with contextlib.suppress(Enough):
        if settings.optimizer == "lbfgs":
            lbfgs.minimize(evaluate, best)
        else:
            adam(evaluate, best, settings.learning_rate, num_iter)


def adam(evaluate: Callable, start: "tf.Variable", learning_rate: float, num_iter: int) -> None:
    """Kingma and Ba, "Adam: A Method for Stochastic Optimization" (ICLR 2015), within 0..255.

    The learning rate falls along a half cosine, so that the last steps smooth out the noise that
    the first ones leave. `evaluate`: image -> (loss, gradient); ends by what it raises.
    """
    image = tf.Variable(start)
    rate = tf.keras.optimizers.schedules.CosineDecay(learning_rate, num_iter)
    optimizer = tf.keras.optimizers.Adam(rate, beta_2=0.99)  # for gradients that shrink fast
    optimizer.build([image])

    @tf.function
    def update(gradient):
        optimizer.apply_gradients([(gradient, image)])
        image.assign(tf.clip_by_value(image, 0.0, 255.0))

    while True:
        _, gradient = evaluate(tf.convert_to_tensor(image))
        update(gradient)


def plan_scales(settings: Settings, thinnest: float) -> list[tuple[int, int]]:
    """(longest side, iterations) of each scale: each twice the size of the one before, and all with
    the same share of the iterations. Small ones are cheap, and settle the large shapes.

    512 pixels and 1000 iterations in 3 scales: 128 with 333, 256 with 333, 512 with 334. `thinnest`
    is the smallest ratio of short to long side: scales at which a picture would have fewer than 32
    pixels across are left out.
    """
    scales = min(settings.scales, settings.num_iter)
    sizes = [round(settings.size / 2**k) for k in reversed(range(scales))]
    sizes = [size for size in sizes[:-1] if size * thinnest >= 32] + sizes[-1:]
    ends = [settings.num_iter * k // len(sizes) for k in range(len(sizes) + 1)]
    return [(size, end - start) for size, (start, end) in zip(sizes, pairwise(ends), strict=True)]


def start_image(settings: Settings, content: np.ndarray, style: np.ndarray) -> np.ndarray:
    """Where the optimization starts, float32 [H, W, 3] of the content's size."""
    if settings.init == "content":
        return content
    if settings.init == "noise":
        return np.float32(np.random.default_rng(settings.seed).uniform(0, 255, content.shape))
    image = style if settings.init == "style" else images.load(settings.init)
    return images.resize(image, *content.shape[:2])


def load_network(settings: Settings) -> "tuple[Settings, Callable]":
    """Settings resolved, `small`'s where VGG cannot be had, and the submodel for them, compiled."""
    resolved = settings.resolved()
    layers = networks.layer_weights(
        resolved.network,
        (resolved.content_layers if settings.content_weight else ())
        + (resolved.style_layers if settings.style_weight else ()),
    )
    try:
        extractor = networks.feature_extractor(
            *(resolved.network, list(layers), resolved.pooling),
            *(resolved.weights, resolved.precision),
        )
    except networks.WeightsUnavailable as reason:
        log.warning("%s. Going on with the bundled network (--network small).", reason)
        return load_network(dataclasses.replace(settings, network="small"))
    return resolved, networks.compiled(extractor)


def stylize(
    content: "str | Path | np.ndarray",
    styles: "str | Path | np.ndarray | Sequence[str | Path | np.ndarray]",
    settings: Settings = Settings(),
    on_step: Callable[[Step], bool | None] | None = None,
) -> Result:
    """The content in the manner of the style, or of several.

    content, styles: paths, or uint8 arrays [H, W, 3]. From a small image up to the full size, so
    that large shapes move too; see plan_scales for what `num_iter` means. `on_step` sees
    every iteration and ends the run by returning False. An interrupt, or a loss that is no longer
    finite, ends it too, with the best image so far and the reason in the Result; before there is
    an image it is raised. Raises UserError for what cannot work.
    """
    if isinstance(styles, str | Path | np.ndarray):
        styles = [styles]
    if not styles:
        raise UserError("no style image was given: name at least one")
    for name in ("style_blend", "mask"):
        number = len(getattr(settings, name) or styles)
        if number != len(styles):
            raise UserError(f"--{name} is for {number} styles, not for the {len(styles)} given")
    style_size = round(settings.size * settings.style_scale)
    sources = [(content, settings.size), *((style, style_size) for style in styles)]
    content, *styles = loaded = [images.load(*source) for source in sources]
    masks = [images.load_mask(path, *content.shape[:2]) for path in settings.mask or ()]
    content, styles, finish = colors.prepare(settings.colors, content, styles)
    image = start_image(settings, content, styles[0])
    if settings.weights:  # before TensorFlow's seconds
        networks.read_weights(settings.weights, settings.network)
    for (source, size), picture in zip(sources, loaded, strict=True):
        images.check_size(source, picture, size)
    settings, extractor = load_network(settings)
    log.info("network %s, %s", settings.network, settings.precision)

    objective = make_objective(extractor, settings)
    plan = plan_scales(settings, min(min(x.shape[:2]) / max(x.shape[:2]) for x in loaded))
    work = sum(size**2 * num_iter for size, num_iter in plan)
    history: dict[str, list[float]] = {}
    done, work_done, began = 0, 0.0, time.monotonic()

    def report(iteration, parts, tensor):
        if done and not iteration:
            return  # the start of a scale is the end of the one before
        for name, value in parts.items():
            history.setdefault(name, []).append(value)
        progress = (work_done + iteration * size**2) / work
        seconds = time.monotonic() - began
        step = Step(done + iteration, parts, progress, seconds, tensor, finish)
        if on_step and on_step(step) is False:
            raise StopIteration

    cut_short, best, before = None, image, image
    try:
        for size, num_iter in plan:
            scale = size / settings.size
            start = images.rescale(image, scale)
            picture = images.carry_over(start, best, before)
            if settings.init_noise and not done:
                noise = np.random.default_rng(settings.seed).uniform(0, 255, picture.shape)
                picture = np.float32(picture + settings.init_noise * (noise - picture))
            picture = tf.Variable(images.with_margin(picture))
            targets = take_targets(
                extractor,
                images.with_margin(images.rescale(content, scale)),
                [images.rescale(style, scale)[np.newaxis] for style in styles],
                settings,
                [images.with_margin(images.rescale(mask, scale) / 255) for mask in masks],
            )
            minimize(partial(objective, targets), picture, settings, num_iter, report)
            done, work_done = len(history["total"]) - 1, work_done + num_iter * size**2
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
    return Result(images.to_uint8(finish(image)), history, settings, cut_short)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command line: besides these, every field of Settings is an option of the same name."""
    parser = cli.Parser(prog="nst.py", description=__doc__.partition("\n\n")[0], allow_abbrev=False)
    required = partial(parser.add_argument, required=True, metavar="FILE")
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
