"""The losses of Gatys, Ecker and Bethge, "Image Style Transfer Using Convolutional Neural Networks"
(CVPR 2016), on the activations of one image.

F is a layer's activation, [1, H, W, C] in the code and [H·W, C] in the formulas; all results are
float32 scalars unless said otherwise. The paper sums where this code takes means, so that the
weights do not depend on the size of the image.
"""

import collections
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from nstlib import CannotGoOn, networks, tf


class Sums(NamedTuple):
    """Sums over the positions of an activation: all that a style loss looks at.

    Those of disjoint parts of an image add up, component by component, to those of the image, if
    the parts are told where in it they are.
    Without a mask every position has the weight 1; with a mask T it has the weight T², as in the
    guided Gram matrix of Gatys et al., "Controlling Perceptual Factors in Neural Style Transfer"
    (CVPR 2017). So products / count is the (guided) Gram matrix, totals / count the mean μ, and
    products / count - μμᵀ the covariance. y is how far down a position is, see
    `row_coordinates`. All are float32. Several of the same shape may be stacked along axes in front
    of these; what is made of them has those axes, too.
    """

    products: "tf.Tensor"  # FᵀF, or (T∘F)ᵀ(T∘F), [C, C]
    totals: "tf.Tensor"  # ΣF, or ΣT²F, [C]
    moments: "tf.Tensor"  # ΣyF, or ΣT²yF, [C]
    count: "tf.Tensor"  # the number of positions, or ΣT²
    coordinates: "tf.Tensor"  # Σy and Σy², or ΣT²y and ΣT²y², [2]

    @property
    def gram(self) -> "tf.Tensor":
        """The Gram matrix, [C, C]."""
        return self.products / self.count[..., tf.newaxis, tf.newaxis]

    @property
    def mean(self) -> "tf.Tensor":
        """The mean activation μ, [C]."""
        return self.totals / self.count[..., tf.newaxis]

    @property
    def covariance(self) -> "tf.Tensor":
        """The covariance Σ of the activations, [C, C]."""
        mean = self.mean
        return self.gram - mean[..., :, tf.newaxis] * mean[..., tf.newaxis, :]

    @property
    def trend(self) -> "tf.Tensor":
        """The covariance of the activations with y, over y's deviation, [C]: the slope of a line
        through them, for a y of deviation 1."""
        count = self.count[..., tf.newaxis]
        mean, square = tf.split(self.coordinates / count, 2, -1)
        covariance = self.moments / count - mean * self.mean
        return covariance / tf.sqrt(tf.maximum(square - mean**2, TINY))


BLOCK = 2**11  # positions that are added in float32
GPU_BLOCKS = 2**6  # that a GPU multiplies at once: each by itself takes it nearly as long


def row_coordinates(rows: "int | tf.Tensor") -> "tf.Tensor":
    """y of each row of an image, [1, rows, 1, 1], from -1 at the top to 1 at the bottom."""
    return tf.reshape(tf.linspace(-1.0, 1.0, rows), [1, -1, 1, 1])


@networks.traced_once
def sums(
    features: "tf.Tensor", mask: "tf.Tensor | None" = None, y: "tf.Tensor | None" = None
) -> Sums:
    """The sums of an activation, [1, H, W, C] in any precision, under a mask, [1, H, W, 1].

    y: of each row, [1, H, 1, 1] [`row_coordinates`, as of a whole image].
    """
    height, width, channels = tf.shape(features)[1], tf.shape(features)[2], features.shape[-1]
    y = row_coordinates(height) if y is None else y
    weights = tf.ones_like(y) if mask is None else mask
    if mask is not None:
        features *= tf.cast(mask, features.dtype)
    factors = tf.concat([weights, weights * y], -1)  # of positions, in totals and in moments
    flat_factors = tf.reshape(tf.broadcast_to(factors, [1, height, width, 2]), [-1, 2])

    @tf.custom_gradient
    def products_and_totals(features):
        flat = tf.reshape(features, [-1, channels])

        def add(start, products, totals):
            some = tf.cast(flat[start : start + step], tf.float32)
            totals += _product(flat_factors[start : start + step], some)
            return start + step, products + _product(some, some), totals

        def gradient(products, totals):  # one product, where automatic differentiation makes two
            slope = tf.cast(products + tf.transpose(products), flat.dtype)
            spread = tf.reshape(tf.matmul(flat, slope), tf.shape(features))
            return spread + tf.cast(tf.matmul(factors, totals), flat.dtype)

        # In blocks: of more positions added one by one float32 loses small covariances.
        step = BLOCK * GPU_BLOCKS if tf.gpus() else BLOCK
        zeros = (tf.zeros(shape, tf.float64) for shape in ([channels, channels], [2, channels]))
        count = tf.shape(flat)[0]
        start = 0, *zeros
        _, *found = tf.while_loop(lambda i, *_: i < count, add, start, parallel_iterations=1)
        return tuple(tf.cast(x, tf.float32) for x in found), gradient

    products, totals = products_and_totals(features)
    # Each as a list of numbers: along the first axis of several, TensorFlow adds one by one.
    weight, product = tf.unstack(flat_factors, axis=1)
    count, *of_y = map(tf.reduce_sum, (weight**2, weight * product, product**2))
    totals, moments = tf.unstack(totals)
    return Sums(products, totals, moments, count, tf.stack(of_y))


def _product(one: "tf.Tensor", other: "tf.Tensor") -> "tf.Tensor":
    """FᵀG of F [N, C] and G [N, D], float64: of blocks in float32, added up in float64."""
    if not tf.gpus():  # there N is that of a block, and more at once takes longer
        return tf.cast(tf.matmul(one, other, transpose_a=True), tf.float64)
    even = tf.shape(one)[0] // BLOCK * BLOCK

    def blocks(x, rows, shape):
        return tf.reshape(x[rows], [*shape, x.shape[-1]])

    pieces = (slice(even), [-1, BLOCK]), (slice(even, None), [1, -1])
    pairs = [(blocks(one, *piece), blocks(other, *piece)) for piece in pieces]
    found = [tf.cast(tf.matmul(x, y, transpose_a=True), tf.float64) for x, y in pairs]
    return tf.reduce_sum(tf.concat(found, 0), 0)


def gram_matrix(features: "tf.Tensor", mask: "tf.Tensor | None" = None) -> "tf.Tensor":
    """FᵀF / (H·W): which channels are active together, wherever in the image that is.

    features: [1, H, W, C]; returns [C, C], float32 even where the features are half precision. The
    paper's G (eq. 3) is the sum FᵀF; dividing by the number of positions lets images of different
    sizes be compared. With a mask T, [1, H, W, 1], it is (T∘F)ᵀ(T∘F) / sum(T²), the guided Gram
    matrix; see Sums.
    """
    return sums(features, mask).gram


def content_loss(
    features: "tf.Tensor", target: "tf.Tensor", focus: "tf.Tensor | float" = 1.0
) -> "tf.Tensor":
    """mean(T·(F - P)²) over positions and channels; P are the photograph's activations.

    Both [1, H, W, C]; T: see `content_focus`. The paper (eq. 1) has half the sum, and no T.
    """
    errors = tf.sqrt(focus) * (tf.cast(features, tf.float32) - target)
    return _sum_of_squares(errors) / tf.cast(tf.size(errors, tf.int64), tf.float32)


def _sum_of_squares(values: "tf.Tensor") -> "tf.Tensor":
    return 2 * tf.nn.l2_loss(values)  # faster than tf.reduce_sum, whose gradient fills an array


def content_focus(settings, photograph: "tf.Tensor", size: tuple[int, int]) -> "tf.Tensor":
    """T, how much each position of a layer counts in its content loss, [1, h, w, 1].

    settings: resolved; photograph: [1, H, W, 3]; size: (h, w) of the layer. D is the photograph's
    standard deviation within 7 x 7 positions, but at least 5 grey levels. With a strength s, the
    content_focus, T is 1 - s + s·D / mean(D). Not in the paper: there an empty sky has to stay as
    empty as a face has to stay a face. Here it is left to the painting.

    Of a network with a contrast C, in grey levels, T is that times C² / mean(D²), so that a pale
    photograph counts as much as any, and so does one in a dark painting's colours. Beside style
    losses that are relative to the style's variance little would be left of them.
    """
    strength, contrast = settings.content_focus, networks.NETWORKS[settings.network].contrast
    if not strength and contrast is None:  # as in the paper
        return tf.ones([1, *size, 1])

    def near(x):
        return tf.nn.avg_pool2d(x, 7, 1, "SAME")

    small = tf.image.resize(photograph, size, "area")
    variance = tf.reduce_mean(near(small**2) - near(small) ** 2, -1, keepdims=True)
    variance = tf.maximum(variance, 25.0)
    deviation = tf.sqrt(variance)
    focus = 1 - strength + strength * deviation / tf.reduce_mean(deviation)
    return focus if contrast is None else focus * contrast**2 / tf.reduce_mean(variance)


# Style losses: a distance is a float32 scalar; of Sums that are stacked there is one for each.


def style_loss(gram: "tf.Tensor", target: "tf.Tensor") -> "tf.Tensor":
    """mean((G - A)²) over channel pairs; A is the Gram matrix of the style image.

    Both [..., C, C]. The paper (eq. 4) has the sum of squares over 4·N²·M² (N channels, M
    positions) of un-averaged Gram matrices, which is a quarter of this.
    """
    return tf.reduce_mean(tf.math.squared_difference(gram, target), [-2, -1])


def gram_distance(found: Sums, wanted: Sums) -> "tf.Tensor":
    """The style loss of the paper: `style_loss` of the two Gram matrices."""
    return style_loss(found.gram, wanted.gram)


# Distances that are relative to the style's own variance are of the order of 0.1. So many times
# that is of the order of VGG's un-normalized Gram loss: the default weights fit both.
RELATIVE = 2.5e8
TINY = 1e-6  # what stands for the variance of a style that has none


def covariance_distance(found: Sums, wanted: Sums) -> "tf.Tensor":
    """½·‖Σ - Σₜ‖² / ‖Σₜ‖² + ½·‖μ - μₜ‖² / tr Σₜ, times RELATIVE: mean and covariance apart.

    Both [C, C] and [C]. The Gram matrix is Σ + μμᵀ, in which a large mean hides the covariance;
    apart, much as in Li et al., "Demystifying Neural Style Transfer" (IJCAI 2017), who compare
    the mean and deviation of each channel, each has its say.
    """
    target = wanted.covariance
    spread = tf.reduce_sum(tf.math.squared_difference(found.covariance, target), [-2, -1])
    shift = tf.reduce_sum(tf.math.squared_difference(found.mean, wanted.mean), -1)
    spread /= tf.reduce_sum(target**2, [-2, -1]) + TINY
    return RELATIVE / 2 * (spread + shift / (tf.linalg.trace(target) + TINY))


def wasserstein_distance(found: Sums, wanted: Sums) -> "tf.Tensor":
    """(‖μ - μₜ‖² + tr Σ + tr Σₜ - 2 tr (ΣΣₜ)^½) / tr Σₜ, times RELATIVE.

    The squared 2-Wasserstein distance of two Gaussians (Olkin and Pukelsheim, 1982), over the
    style's variance: what it costs to move the one cloud of activations, [H·W, C], onto the other.
    The covariance loss sees little but the directions of largest variance; here all count.
    (ΣΣₜ)^½ has the trace of M^½, M = LᵀΣL, where Σₜ = LLᵀ; M stays symmetric. In float64, for the
    eigenvalues of M are those of two covariances multiplied.
    """
    found, wanted = (Sums(*(tf.cast(x, tf.float64) for x in y)) for y in (found, wanted))
    target = _regular(wanted)
    root = tf.linalg.cholesky(target)

    @tf.custom_gradient
    def overlap(covariance):
        """tr (ΣΣₜ)^½"""
        matrix = tf.matmul(root, covariance @ root, transpose_a=True)
        matrix = tf.where(tf.math.is_finite(matrix), matrix, 0.0)  # or eigh raises an error
        with tf.device("CPU:0"):  # not tried on a GPU
            values, vectors = tf.linalg.eigh(matrix)
        # Rounding may leave the least below 0.
        roots = tf.sqrt(tf.maximum(values, 1e-12 * values[..., -1:]))

        def gradient(upstream):  # ½·L M^-½ Lᵀ, where M = V diag(roots²) Vᵀ
            turned = root @ vectors
            pull = tf.matmul(turned / roots[..., tf.newaxis, :], turned, transpose_b=True)
            return upstream[..., tf.newaxis, tf.newaxis] / 2 * pull

        return tf.reduce_sum(roots, -1), gradient

    covariance, variance = _regular(found), tf.linalg.trace(target)
    shift = tf.reduce_sum(tf.math.squared_difference(found.mean, wanted.mean), -1)
    spread = tf.linalg.trace(covariance) + variance - 2 * overlap(covariance)
    return tf.cast(RELATIVE * (shift + spread) / variance, tf.float32)


def _regular(found: Sums) -> "tf.Tensor":
    """The covariance, [..., C, C], with an inverse: a ten-thousandth of its variance is added to
    it, for there are often fewer positions than channels; and with more than float32 loses where
    activations vary little about a large mean."""
    covariance, channels = found.covariance, found.totals.shape[-1]
    floor = 1e-4 * tf.linalg.trace(covariance) / channels + 1e-6 * tf.linalg.trace(found.gram)
    floor = (floor + TINY)[..., tf.newaxis, tf.newaxis]
    return covariance + floor * tf.eye(channels, dtype=covariance.dtype)


# From the sums of the picture and the sums wanted to their distance, by the name that --style_loss
# takes.
STYLE_LOSSES: dict[str, Callable[[Sums, Sums], "tf.Tensor"]] = {
    "gram": gram_distance,
    "covariance": covariance_distance,
    "wasserstein": wasserstein_distance,
}


def layout_distance(found: Sums, wanted: Sums) -> "tf.Tensor":
    """‖s - sₜ‖² / tr Σₜ, times RELATIVE: how activations change from the top to the bottom.

    s is their trend, [C]. Not in the paper, whose style is the same everywhere: there a painting's
    sky may come to the ground. To say where things are beside what they are, maps go with the
    activations in Champandard, "Semantic Style Transfer and Turning Two-Bit Doodles into Fine
    Artworks" (2016); here y is the only one, and nobody has to draw it. A picture's y goes over its
    mirrored margin, too, which leaves the trend within a little flatter.
    """
    shift = tf.reduce_sum(tf.math.squared_difference(found.trend, wanted.trend), -1)
    return RELATIVE * shift / tf.linalg.trace(_regular(wanted))


class Wanted(NamedTuple):
    """What a layer's style loss compares with in one region, or everywhere without a mask."""

    sums: Sums
    weight: "tf.Tensor"  # of its distance
    mask: "tuple[tf.Tensor, ...]" = ()  # none or one, [1, h, w, 1] at the layer's size


def wanted_sums(
    samples: Sequence[Sums],
    blend: Sequence[float],
    masks: "Sequence[tf.Tensor]" = (),
    strength: float = 1.0,
) -> list[Wanted]:
    """What the sums of a layer are to be like, of those of each style: said here for all distances.

    blend: the weight of each style; masks: where each is to be, [1, h, w, 1] in 0..1 at the
    layer's size. Without masks the styles are mixed: the blend-weighted mean of their sums, each
    over its count. With masks each has a distance of its own, weighted by the blend and by its
    area, so that a style is as strong in a small place as in a large one. `strength`: the weight of
    the layer.
    """
    shares = np.asarray(blend, np.float64)
    shares = (shares / shares.sum()).astype(np.float32)
    if masks:
        weights = [
            share * tf.reduce_mean(mask**2) * strength
            for share, mask in zip(shares * len(masks), masks, strict=True)
        ]
        zipped = zip(samples, weights, masks, strict=True)
        return [Wanted(one, weight, (mask,)) for one, weight, mask in zipped]

    def mean(parts):
        return tf.tensordot(shares, tf.stack(parts), 1)

    each = [Sums(*(part / one.count for part in one)) for one in samples]
    mixed = Sums(*(mean(parts) for parts in zip(*each, strict=True)))
    return [Wanted(mixed, tf.constant(strength, tf.float32))]


def layer_style_loss(settings, found: Sequence[Sums], wanted: Sequence[Wanted]) -> "tf.Tensor":
    """The weighted sum of the distances of a layer, or of several that have as many channels.

    found: the sums under each wanted mask. All are compared at once: to a GPU a small matrix is as
    much trouble as a stack of them.
    """

    def stacked(several):
        return Sums(*map(tf.stack, zip(*several, strict=True)))

    one, target = stacked(found), stacked([each.sums for each in wanted])
    distances = STYLE_LOSSES[str(settings.style_loss)](one, target)
    if settings.style_layout:
        distances += settings.style_layout * layout_distance(one, target)
    return tf.reduce_sum(tf.stack([each.weight for each in wanted]) * distances)


def weighted_content_loss(settings, found: dict[str, "tf.Tensor"]) -> "tf.Tensor":
    """The weighted mean of the content losses of all layers; settings: resolved.

    found: `content_loss` by layer. Of a few of the layers it is their share of the mean.
    """
    weights = networks.layer_weights(settings.network, settings.content_layers)
    total = tf.add_n([weights[layer] * loss for layer, loss in found.items()])
    return settings.content_weight / sum(weights.values()) * total


def weighted_style_loss(
    settings, found: Mapping[str, Sequence[Sums]], wanted: Mapping[str, Sequence[Wanted]]
) -> "tf.Tensor":
    """The weighted mean of the style losses of all layers; settings: resolved.

    found: by layer the sums under each of its wanted masks.
    """
    weights = networks.layer_weights(settings.network, settings.style_layers)
    alike = collections.defaultdict(list)
    for layer in found:
        for one, target in zip(found[layer], wanted[layer], strict=True):
            weighted = target._replace(weight=weights[layer] * target.weight)
            alike[one.totals.shape[-1]].append((one, weighted))
    total = tf.add_n([layer_style_loss(settings, *zip(*x, strict=True)) for x in alike.values()])
    return settings.style_weight / sum(weights.values()) * total


def wanted_style(
    settings,
    samples: Sequence[dict[str, Sums]],
    sizes: dict[str, tuple[int, int]],
    masks: "Sequence[tf.Tensor]" = (),
) -> dict[str, list[Wanted]]:
    """By layer what its sums are to be like, of those of each style; settings: resolved.

    samples: the sums of each style by layer; sizes: (height, width) of the picture's activations;
    masks: where each style is to be, [1, H, W, 1] in 0..1, none for everywhere.
    """
    strengths = networks.style_strengths(settings.network, settings.style_layers, sizes)
    blend = settings.style_blend or [1] * len(samples)
    wanted = {}
    for layer, strength in strengths.items():
        small = [tf.image.resize(mask, sizes[layer], "area") for mask in masks]
        wanted[layer] = wanted_sums([x[layer] for x in samples], blend, small, strength)
    return wanted


def squared_steps(image: "tf.Tensor", axis: int) -> "tf.Tensor":
    """The sum of (x[i+1] - x[i])² along an axis of an image, [1, H, W, 3]."""
    # By tf.split, for the gradient of slices by [1:] is five times slower.
    length = tf.shape(image)[axis]
    first = tf.split(image, [length - 1, 1], axis)[0]
    second = tf.split(image, [1, length - 1], axis)[1]
    return _sum_of_squares(second - first)


def total_variation_loss(image: "tf.Tensor") -> "tf.Tensor":
    """mean((x[i+1, j] - x[i, j])²) + mean((x[i, j+1] - x[i, j])²): how rough the pixels are.

    image: [1, H, W, 3] with H and W at least 2. Not in the paper; squared, as in Mahendran and
    Vedaldi, "Understanding Deep Image Representations by Inverting Them" (CVPR 2015), with β = 2.
    """
    height, width, channels = tf.unstack(tf.cast(tf.shape(image)[1:], tf.float32))
    rows = squared_steps(image, 1) / ((height - 1) * width * channels)
    return rows + squared_steps(image, 2) / (height * (width - 1) * channels)


def scaled_gradient(tape, loss: "tf.Tensor", source, magnitude: "tf.Tensor", settings):
    """The gradient of a loss of about this magnitude, above or equal to 0."""
    if settings.precision != "float16":
        return tape.gradient(loss, source)
    # Float16 loses gradients that are very large or very small.
    scale = 2.0**15 / tf.where(magnitude > 0, magnitude, 2.0**15)
    return tape.gradient(loss, source, output_gradients=scale) / scale


def check_finite(losses: dict[str, float], previous: dict[str, float] | None) -> None:
    """Raise CannotGoOn if a loss has become infinite or NaN, naming what to lower.

    losses: "total" and the weighted losses by name; previous: the same one iteration earlier. Soon
    after one of them overflows all are NaN: then the one that was largest is named.
    """
    if not all(map(math.isfinite, losses.values())):
        known = losses if math.inf in losses.values() else previous or losses
        suspect = max(known.keys() - {"total"}, key=lambda name: np.nan_to_num(known[name]))
        raise CannotGoOn(
            f"the loss is no longer a finite number: lower --{suspect}_weight or --learning_rate"
        )
