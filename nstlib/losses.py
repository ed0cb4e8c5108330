"""The losses of Gatys, Ecker and Bethge, "Image Style Transfer Using Convolutional Neural Networks"
(CVPR 2016), on the activations of one image.

F is a layer's activation, [1, H, W, C] in the code and [H·W, C] in the formulas; all results are
float32 scalars unless said otherwise. The paper sums where this code takes means, so that the
weights do not depend on the size of the image.
"""

import math

from nstlib import UserError, tf


def gram_matrix(features: "tf.Tensor", mask: "tf.Tensor | None" = None) -> "tf.Tensor":
    """FᵀF / (H·W): which channels are active together, wherever in the image that is.

    features: [1, H, W, C]; returns [C, C], float32 even where the features are half precision. The
    paper's G (eq. 3) is the sum FᵀF; dividing by the number of positions lets images of different
    sizes be compared. With a mask T, [1, H, W, 1], it is (T∘F)ᵀ(T∘F) / sum(T²), the guided Gram
    matrix of Gatys et al., "Controlling Perceptual Factors in Neural Style Transfer" (CVPR 2017).
    """

    @tf.custom_gradient
    def product(flat):
        full = tf.cast(flat, tf.float32)

        def gradient(upstream):  # one product, where automatic differentiation makes two
            return tf.matmul(flat, tf.cast(upstream + tf.transpose(upstream), flat.dtype))

        return tf.matmul(full, full, transpose_a=True), gradient

    if mask is None:
        positions = tf.cast(tf.reduce_prod(tf.shape(features)[1:3]), tf.float32)
    else:
        positions = tf.reduce_sum(mask**2)
        features *= tf.cast(mask, features.dtype)
    return product(tf.reshape(features, [-1, features.shape[-1]])) / positions


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
