"""The losses of Gatys, Ecker and Bethge, "Image Style Transfer Using Convolutional Neural Networks"
(CVPR 2016), on the activations of one image.

F is a layer's activation, [1, H, W, C] in the code and [H·W, C] in the formulas; all results are
float32 scalars unless said otherwise. The paper sums where this code takes means, so that the
weights do not depend on the size of the image.
"""

import math

from nstlib import UserError, tf


def gram_matrix(features: "tf.Tensor") -> "tf.Tensor":
    """FᵀF / (H·W): which channels are active together, wherever in the image that is.

    features: [1, H, W, C]; returns [C, C]. The paper's G (eq. 3) is the sum FᵀF; dividing by the
    number of positions lets images of different sizes be compared.
    """
    flat = tf.reshape(features, [-1, features.shape[-1]])
    positions = tf.cast(tf.shape(flat)[0], flat.dtype)
    return tf.matmul(flat, flat, transpose_a=True) / positions


def content_loss(features: "tf.Tensor", target: "tf.Tensor") -> "tf.Tensor":
    """mean((F - P)²) over positions and channels; P are the photograph's activations.

    Both [1, H, W, C]. The paper (eq. 1) has half the sum.
    """
    return tf.reduce_mean(tf.math.squared_difference(features, target))


def style_loss(gram: "tf.Tensor", target: "tf.Tensor") -> "tf.Tensor":
    """mean((G - A)²) over channel pairs; A is the Gram matrix of the style image.

    Both [C, C]. The paper (eq. 4) has the sum of squares over 4·N²·M² (N channels, M positions) of
    un-averaged Gram matrices, which is a quarter of this.
    """
    return tf.reduce_mean(tf.math.squared_difference(gram, target))


def total_variation_loss(image: "tf.Tensor") -> "tf.Tensor":
    """mean((x[i+1, j] - x[i, j])²) + mean((x[i, j+1] - x[i, j])²): how rough the pixels are.

    image: [1, H, W, 3] with H and W at least 2. Not in the paper; squared, as in Mahendran and
    Vedaldi, "Understanding Deep Image Representations by Inverting Them" (CVPR 2015), with β = 2.
    """
    vertical = tf.reduce_mean(tf.math.squared_difference(image[:, 1:], image[:, :-1]))
    horizontal = tf.reduce_mean(tf.math.squared_difference(image[:, :, 1:], image[:, :, :-1]))
    return vertical + horizontal


def check_finite(parts: dict[str, float], before: dict[str, float] | None) -> None:
    """Raise UserError if a loss has become infinite or NaN, naming what to lower.

    parts: "total" and the weighted losses by name; before: the same one iteration earlier, which
    tells the largest; soon after one of them overflows all are NaN.
    """
    if not all(map(math.isfinite, parts.values())):
        known = before or parts
        suspect = max((name for name in known if name != "total"), key=lambda name: known[name])
        raise UserError(
            f"the loss is no longer a finite number: lower --{suspect}_weight or --learning_rate"
        )
