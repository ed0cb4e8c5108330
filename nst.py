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
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np

from nstlib import (
    UserError,
    __version__,
    cli,
    colors,
    gallery,
    images,
    losses,
    memory,
    networks,
    tf,
)
from nstlib.display import loss_curves, rendered
from nstlib.lbfgs import lbfgs
from nstlib.networks import load_network
from nstlib.settings import Settings
from nstlib.timelapse import Timelapse

log = logging.getLogger("nst")


@dataclass(frozen=True)
class Step:
    """What `on_step` sees: the image after so many iterations, and its weighted losses."""

    iteration: int  # 0 is the start image
    losses: dict[str, float]  # "total", "content", "style", "tv"
    progress: float  # share of the run's work that is done, 0 to 1
    seconds: float  # since the first iteration began
    tensor: "tf.Tensor"  # the image as it is optimized, [1, h, w, 3] with a margin
    picture: Callable[[int], np.ndarray]  # from a size to the result if the run ended here

    @property
    def image(self) -> np.ndarray:
        """The image, uint8 [h, w, 3], smaller than the result at the first scales."""
        return self.picture(max(images.without_margin(self.tensor).shape))


@dataclass(frozen=True)
class Result:
    """The picture, how it came about, and why the run ended early if it did.

    The image is the one of lowest total loss at the last scale, measured with its mirrored margin.
    """

    image: np.ndarray  # uint8 [H, W, 3]
    losses: dict[str, list[float]]  # weighted, one entry an iteration, the start image first
    settings: Settings  # as they were used, nothing left to choose
    cut_short: BaseException | None = None  # a KeyboardInterrupt, or a UserError: loss not finite
    best: dict[str, float] = field(default_factory=dict)  # the weighted losses of the image


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
            lbfgs(evaluate, best)
        else:
            adam(evaluate, best, settings.learning_rate, num_iter)


def adam(evaluate: Callable, start: "tf.Variable", learning_rate: float, num_iter: int) -> None:
    """Kingma and Ba, "Adam: A Method for Stochastic Optimization" (ICLR 2015), within 0..255.

    The learning rate falls along a half cosine, so that the last steps smooth out the noise that
    the first ones leave. The paper's β₁ 0.9 and β₂ 0.999 average over noise that the gradients of
    an image do not have, and forget too slowly how large they were: 0.8 and 0.8 take half as many
    iterations. `evaluate`: image -> (loss, gradient); ends by what it raises.
    """
    image = tf.Variable(start)
    rate = tf.keras.optimizers.schedules.CosineDecay(learning_rate, num_iter)
    optimizer = tf.keras.optimizers.Adam(rate, beta_1=0.8, beta_2=0.8)
    optimizer.build([image])

    @networks.compiled
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
    sizes = [images.image_size(source) for source, _ in sources]
    memory.check(settings, sizes[0], sizes[1:])
    content, *styles = loaded = [images.load(*source) for source in sources]
    masks = [images.load_mask(path, *content.shape[:2]) for path in settings.mask or ()]
    content, styles, tint = colors.prepare(settings.colors, content, styles)
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
    history, lowest = {}, {}  # losses by name: of each iteration, of the best image
    done, work_done, began = 0, 0.0, time.monotonic()

    def finish(now, size=settings.size):
        """The result as uint8, if the image at the present scale were the last."""
        whole = images.rescale(image, size / settings.size)
        if whole.shape != now.shape:
            now = images.carry_over(whole, now, before)
        return images.to_uint8(tint(now))

    def report(iteration, parts, tensor):
        if not iteration or parts["total"] < lowest["total"]:
            lowest.update(parts)
        if done and not iteration:
            return  # the start of a scale is the end of the one before
        for name, value in parts.items():
            history.setdefault(name, []).append(value)
        progress = (work_done + iteration * size**2) / work
        seconds = time.monotonic() - began
        picture = partial(finish, images.without_margin(tensor))
        step = Step(done + iteration, parts, progress, seconds, tensor, picture)
        if on_step and on_step(step) is False:
            raise StopIteration

    cut_short, best, before = None, image, image
    try:
        for size, num_iter in plan:
            scale = size / settings.size
            start = images.rescale(image, scale)
            picture, before = images.carry_over(start, best, before), start
            if settings.init == "noise":  # its detail is not worth keeping
                image = images.resize(start, *content.shape[:2])
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
            best = images.without_margin(picture)
    except (KeyboardInterrupt, UserError, StopIteration) as reason:
        if not history:
            raise
        best = images.without_margin(picture)
        cut_short = None if isinstance(reason, StopIteration) else reason
    except tf.errors.ResourceExhaustedError as error:
        cut_short = UserError("the memory does not suffice: make --size smaller")
        if not history:
            raise cut_short from error
    return Result(finish(best), history, settings, cut_short, lowest)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command line: besides these, every field of Settings is an option of the same name."""
    parser = cli.Parser(prog="nst.py", description=__doc__.partition("\n\n")[0], allow_abbrev=False)
    required = partial(parser.add_argument, required=True, metavar="FILE")
    required("-c", "--content", help="content image, or a folder of them")
    required("-s", "--style", action="append", help="style image, several to mix, or a folder")
    required("-r", "--result", help=f"where the result goes ({' '.join(images.FORMATS)})")
    parser.add_fields(Settings)
    parser.add_argument("-p", "--print_every", type=int, default=100, help="see -v [100]")
    parser.add_argument("-v", "--verbose", action="store_true", help="print losses and sizes")
    parser.add_argument("--dask", metavar="ADDRESS", help="paint folders on this Dask cluster")
    parser.add_argument("--show", action=cli.Show, settings=Settings)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.add_argument("--version", action="version", version=f"nst {__version__}")
    return parser.parse_args(argv)


def run(args: argparse.Namespace, interrupts: cli.Interrupts) -> int:
    """One picture or a gallery, from checking the arguments to saving; returns the exit status."""
    log.setLevel(logging.INFO if args.verbose else logging.WARNING)
    if args.print_every < 1:
        raise UserError(f"--print_every must be at least 1, not {args.print_every}")
    settings = Settings(**{x.name: getattr(args, x.name) for x in dataclasses.fields(Settings)})
    if gallery.wanted(args.content, args.style):
        gallery.refuse(settings, "mask", "save_every", "timelapse", "plot")
        plan = gallery.plan(args.content, args.style, args.result, [args.init])
        return gallery.make(plan, lambda: load_network(settings)[0], stylize, interrupts, args.dask)
    if args.dask:
        raise UserError("--dask is for galleries: name a folder of pictures with -c or -s")
    sources = [args.content, *args.style, args.init, *(settings.mask or ())]
    images.check_result_path(args.result, sources)
    if settings.plot:
        others = [args.result, settings.timelapse or args.result, *sources]
        images.check_result_path(settings.plot, others)
    record = Timelapse(settings, args.result, sources)
    for path in (args.result, settings.plot):
        if path and Path(path).exists():
            log.warning("%s is there already and will be replaced", path)

    with cli.progress(settings.num_iter, args.print_every) as show:

        def on_step(step):
            interrupts.hold = True  # from here on there is a picture to save
            record.add(step)
            show(step)
            return not interrupts.signal

        result = stylize(args.content, args.style, settings, on_step)
    metadata = cli.metadata(args.content, args.style, args.result, result)
    images.save(args.result, result.image, metadata)
    record.save(result.image)
    if settings.plot:
        images.save(settings.plot, rendered(loss_curves(result.losses)))
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
    import nst  # by its name, by which Dask's workers import it too

    sys.exit(nst.main())
