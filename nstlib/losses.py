"""The losses of Gatys, Ecker and Bethge, "Image Style Transfer Using Convolutional Neural Networks"
(CVPR 2016), on the activations of one image.

F is a layer's activation, [1, H, W, C] in the code and [H·W, C] in the formulas; all results are
float32 scalars unless said otherwise. The paper sums where this code takes means, so that the
weights do not depend on the size of the image.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from nstlib import CannotGoOn, tf


class Sums(NamedTuple):
    """Sums over the positions of an activation: all that a style loss looks at.

    Those of disjoint parts of an image add up, component by component, to those of the image.
    Without a mask every position has the weight 1; with a mask T it has the weight T², as in the
    guided Gram matrix of Gatys et al., "Controlling Perceptual Factors in Neural Style Transfer"
    (CVPR 2017). So products / count is the (guided) Gram matrix, totals / count the mean μ, and
    products / count - μμᵀ the covariance. All are float32.
    """

    products: "tf.Tensor"  # FᵀF, or (T∘F)ᵀ(T∘F), [C, C]
    totals: "tf.Tensor"  # ΣF, or ΣT²F, [C]
    count: "tf.Tensor"  # the number of positions, or ΣT²

    @property
    def gram(self) -> "tf.Tensor":
        """The Gram matrix, [C, C]."""
        return self.products / self.count


def sums(features: "tf.Tensor", mask: "tf.Tensor | None" = None) -> Sums:
    """The sums of an activation, [1, H, W, C] in any precision, under a mask, [1, H, W, 1]."""

    @tf.custom_gradient
    def product(flat):
        full = tf.cast(flat, tf.float32)

        def gradient(upstream):  # one product, where automatic differentiation makes two
            return tf.matmul(flat, tf.cast(upstream + tf.transpose(upstream), flat.dtype))

        return tf.matmul(full, full, transpose_a=True), gradient

    if mask is None:
        count = tf.cast(tf.reduce_prod(tf.shape(features)[1:3]), tf.float32)
        totals = tf.reduce_sum(tf.cast(features, tf.float32), axis=[0, 1, 2])
    else:
        count = tf.reduce_sum(mask**2)
        features *= tf.cast(mask, features.dtype)
        totals = tf.einsum("bhwc,bhwx->c", tf.cast(features, tf.float32), mask)
    return Sums(product(tf.reshape(features, [-1, features.shape[-1]])), totals, count)


def gram_matrix(features: "tf.Tensor", mask: "tf.Tensor | None" = None) -> "tf.Tensor":
    """FᵀF / (H·W): which channels are active together, wherever in the image that is.

    features: [1, H, W, C]; returns [C, C], float32 even where the features are half precision. The
    paper's G (eq. 3) is the sum FᵀF; dividing by the number of positions lets images of different
    sizes be compared. With a mask T, [1, H, W, 1], it is (T∘F)ᵀ(T∘F) / sum(T²), the guided Gram
    matrix; see Sums.
    """
    return sums(features, mask).gram


def content_loss(features: "tf.Tensor", target: "tf.Tensor") -> "tf.Tensor":
    """mean((F - P)²) over positions and channels; P are the photograph's activations.

    Both [1, H, W, C]. The paper (eq. 1) has half the sum.
    """
    return tf.reduce_mean(tf.math.squared_difference(tf.cast(features, tf.float32), target))


def style_loss(gram: "tf.Tensor", target: "tf.Tensor") -> "tf.Tensor":
    """mean((G - A)²) over channel pairs; A is the Gram matrix of the style image.

    Both [C, C]. The paper (eq. 4) has the sum of squares over 4·N²·M² (N channels, M positions) of
    un-averaged Gram matrices, which is a quarter of this.
    """
    return tf.reduce_mean(tf.math.squared_difference(gram, target))


def gram_distance(found: Sums, wanted: Sums) -> "tf.Tensor":
    """The style loss of the paper: `style_loss` of the two Gram matrices."""
    return style_loss(found.gram, wanted.gram)


# From the sums of the picture and the sums wanted to a scalar, by the name that --style_loss takes.
STYLE_LOSSES: dict[str, Callable[[Sums, Sums], "tf.Tensor"]] = {"gram": gram_distance}


class Wanted(NamedTuple):
    """What a layer's style loss compares with in one region, or everywhere without a mask."""

    sums: Sums
    weight: "tf.Tensor"  # of its distance
    mask: "tuple[tf.Tensor, ...]" = ()  # none or one, [1, h, w, 1] at the layer's size


def wanted_sums(
    samples: Sequence[Sums], blend: Sequence[float], masks: "Sequence[tf.Tensor]" = ()
) -> list[Wanted]:
    """What the sums of a layer are to be like, of those of each style: said here for all distances.

    blend: the weight of each style; masks: where each is to be, [1, h, w, 1] in 0..1 at the
    layer's size. Without masks the styles are mixed: the blend-weighted mean of their sums, each
    over its count. With masks each has a distance of its own, weighted by the blend and by its
    area, so that a style is as strong in a small place as in a large one.
    """
    shares = np.asarray(blend, np.float64)
    shares = (shares / shares.sum()).astype(np.float32)
    if masks:
        weights = [
            share * tf.reduce_mean(mask**2)
            for share, mask in zip(shares * len(masks), masks, strict=True)
        ]
        zipped = zip(samples, weights, masks, strict=True)
        return [Wanted(one, weight, (mask,)) for one, weight, mask in zipped]

    def mean(parts):
        return tf.tensordot(shares, tf.stack(parts), 1)

    products = mean([one.products / one.count for one in samples])
    totals = mean([one.totals / one.count for one in samples])
    return [Wanted(Sums(products, totals, tf.constant(1.0)), tf.constant(1.0))]


def layer_style_loss(
    distance: Callable[[Sums, Sums], "tf.Tensor"], found: Sequence[Sums], wanted: Sequence[Wanted]
) -> "tf.Tensor":
    """The weighted sum of the distances of one layer; found: the sums under each wanted mask."""
    pairs = zip(found, wanted, strict=True)
    return tf.add_n([target.weight * distance(one, target.sums) for one, target in pairs])


def total_variation_loss(image: "tf.Tensor") -> "tf.Tensor":
    """mean((x[i+1, j] - x[i, j])²) + mean((x[i, j+1] - x[i, j])²): how rough the pixels are.

    image: [1, H, W, 3] with H and W at least 2. Not in the paper; squared, as in Mahendran and
    Vedaldi, "Understanding Deep Image Representations by Inverting Them" (CVPR 2015), with β = 2.
    """

    def along(axis):  # by tf.split, for the gradient of slices by [1:] is five times slower
        length = tf.shape(image)[axis]
        first = tf.split(image, [length - 1, 1], axis)[0]
        second = tf.split(image, [1, length - 1], axis)[1]
        return tf.reduce_mean(tf.math.squared_difference(second, first))

    return along(1) + along(2)


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
