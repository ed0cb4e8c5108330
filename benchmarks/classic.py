"""The classic style transfer program, to compare with: 1000 eager steps of Adam at full size.

As such programs were written for TensorFlow's eager mode: gradients of the losses as in the
textbook, β₁ 0.99, ε 0.1 and a constant rate of 5, and a copy of the best image to the host whenever
the loss has fallen. Losses and weights are those of nst.py.
"""

import numpy as np
import tensorflow as tf
from tensorflow import keras

from nstlib.networks import VGG

MEAN = np.array([103.939, 116.779, 123.68], np.float32)  # BGR


def build_model(weights: dict, layers: set, pooling: str) -> keras.Model:
    """VGG, up to the deepest of the layers; weights: [kernel, bias] by layer name."""
    pool = keras.layers.MaxPooling2D if pooling == "max" else keras.layers.AveragePooling2D
    image = keras.Input([None, None, 3])
    x, outputs, block = image[..., ::-1] - MEAN, {}, 1
    for name, (kernel, bias) in weights.items():
        if VGG.block(name) > block:
            x, block = pool(2)(x), VGG.block(name)
        layer = keras.layers.Conv2D(len(bias), 3, padding="same", activation="relu", name=name)
        x = layer(x)
        layer.set_weights([kernel, bias])
        if name in layers:
            outputs[name] = x
        if outputs.keys() == layers:
            break
    model = keras.Model(image, outputs)
    model.trainable = False
    return model


def gram_matrix(features):
    flat = tf.reshape(features, [-1, features.shape[-1]])
    return tf.matmul(flat, flat, transpose_a=True) / tf.cast(tf.shape(flat)[0], tf.float32)


class Classic:
    """Content and style of one picture; `step` is an iteration, `loss` the total of an image."""

    def __init__(self, weights, settings, content, style):
        """settings: resolved ones; content, style: float32 [1, H, W, 3] in 0..255."""
        self.settings = settings
        layers = {*settings.content_layers, *settings.style_layers}
        self.model = build_model(weights, layers, settings.pooling)
        self.content = {x: self.model(content)[x] for x in settings.content_layers}
        self.style = {x: gram_matrix(self.model(style)[x]) for x in settings.style_layers}
        self.image = tf.Variable(content)
        self.optimizer = keras.optimizers.Adam(5.0, beta_1=0.99, epsilon=0.1)
        self.optimizer.build([self.image])
        self.best, self.lowest = None, np.inf

    def loss(self, image):
        settings, features = self.settings, self.model(image)
        content = [tf.reduce_mean((features[x] - p) ** 2) for x, p in self.content.items()]
        style = [tf.reduce_mean((gram_matrix(features[x]) - a) ** 2) for x, a in self.style.items()]
        vertical = tf.reduce_mean((image[:, 1:] - image[:, :-1]) ** 2)
        horizontal = tf.reduce_mean((image[:, :, 1:] - image[:, :, :-1]) ** 2)
        return (
            settings.content_weight * tf.add_n(content) / len(content)
            + settings.style_weight * tf.add_n(style) / len(style)
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
