"""The classic style transfer program, to compare with: 1000 eager steps of Adam at full size.

As such programs were written for TensorFlow's eager mode: gradients of the losses as in the
textbook, β₁ 0.99, ε 0.1 and a constant rate of 5, and a copy of the best image to the host whenever
the loss has fallen. Network, losses and weights are those of nst.py.
"""

import numpy as np
import tensorflow as tf
from tensorflow import keras

import nst
from nstlib import losses


def sums(features):
    """losses.sums, differentiated by TensorFlow itself."""
    flat = tf.reshape(features, [-1, features.shape[-1]])
    y = tf.reshape(
        losses.row_coordinates(tf.shape(features)[1]) * tf.ones_like(features[..., :1]), [-1]
    )
    products, totals = tf.matmul(flat, flat, transpose_a=True), tf.reduce_sum(flat, axis=0)
    moments = tf.linalg.matvec(flat, y, transpose_a=True)
    count = tf.cast(tf.shape(flat)[0], tf.float32)
    return losses.Sums(products, totals, moments, count, tf.reduce_sum([y, y**2], axis=1))


class Classic:
    """Content and style of one picture; `step` is an iteration, `loss` the total of an image."""

    def __init__(self, model, settings, content, style):
        """model: of networks.feature_extractor; settings: resolved ones; content, style: float32
        [1, H, W, 3] in 0..255."""
        self.settings, self.model = settings, model
        self.targets = nst.take_targets(model, settings, content, [style])
        self.image = tf.Variable(content)
        self.optimizer = keras.optimizers.Adam(5.0, beta_1=0.99, epsilon=0.1)
        self.optimizer.build([self.image])
        self.best, self.lowest = None, np.inf

    def loss(self, image):
        settings, features = self.settings, self.model(image)
        photograph, focus, wanted = (self.targets[x] for x in ("content", "focus", "style"))
        content = {x: tf.reduce_mean(focus[x] * (features[x] - photograph[x]) ** 2) for x in focus}
        style = {x: [sums(features[x])] for x in wanted}
        vertical = tf.reduce_mean((image[:, 1:] - image[:, :-1]) ** 2)
        horizontal = tf.reduce_mean((image[:, :, 1:] - image[:, :, :-1]) ** 2)
        return (
            losses.weighted_content_loss(settings, content)
            + losses.weighted_style_loss(settings, style, wanted)
            + settings.tv_weight * (vertical + horizontal)
        )

    def descend(self):
        with tf.GradientTape() as tape:
            loss = self.loss(self.image)
        gradient = tape.gradient(loss, self.image)
        before = tf.identity(self.image)
        self.optimizer.apply_gradients([(gradient, self.image)])
        self.image.assign(tf.clip_by_value(self.image, 0.0, 255.0))
        return loss, before

    def step(self) -> float:
        loss, before = self.descend()
        if loss < self.lowest:
            self.lowest, self.best = float(loss), before.numpy()
        return self.lowest
