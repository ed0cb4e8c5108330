#!/usr/bin/env python3
"""Train the bundled network: a narrow VGG19 that learns from a folder of photographs alone.

    python training/train_small.py PHOTOS --out nstlib/small.h5

Each photograph is its own class (exemplar networks: Dosovitskiy et al., 2014, "Discriminative
Unsupervised Feature Learning with Convolutional Neural Networks"): the network must tell from a
rotated, rescaled, recoloured, noisy crop which photograph it came from. Where this departs from
the paper, and why:

- A linear classifier sits on the mean activation of every block but the first, not only of the last
  (deep supervision: Lee et al., 2015). Style lives in the statistics of all depths; this makes the
  statistics of each depth tell pictures apart.
- Crops are turned by any angle, so that the filters learn no preference for the horizontals and
  verticals of photographs, which would show as a grain in stylized skies.
- Crops carry Gaussian noise, so that the filters average over pixels instead of reacting to single
  ones; stylized pictures then hold strokes, not pixel noise.
- Average pooling, as at stylization time.

Batch normalization is folded into the convolutions at the end, and every layer is scaled so that
the raw losses come near those of ImageNet's VGG19 (`scale`).
"""

import argparse
import math
import os
import sys
from itertools import pairwise
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import h5py
import keras
import numpy as np
import tensorflow as tf
from PIL import Image, ImageOps
from tqdm import tqdm

from nstlib import losses, networks

# Activations averaged per block and handed to a classifier, with that classifier's share of the
# training loss.
HEADS = {
    "block2_conv2": 0.25,
    "block3_conv4": 0.5,
    "block4_conv4": 0.5,
    "block5_conv4": 1.0,
}

EPSILON = 1e-3  # added to the variance in batch normalization
INPUT_SCALE = 64.0  # brings pixels near unit variance

# The raw losses that unrelated photographs are to have, near those of VGG19 on ImageNet. They fix
# how much content, style and each layer count at the default weights.
CONTENT_LOSS = 1e3  # in CONTENT_LAYERS
STYLE_LOSSES = {
    "block1": 1.5e9,
    "block2": 4.5e9,
    "block3": 1.5e10,
    "block4": 1.5e10,
    "block5": 1.5e10,
}
CONTENT_LAYERS = ("block3_conv2", "block4_conv2", "block5_conv2")


def load_photos(folder: Path) -> list[tuple[Image.Image, Image.Image]]:
    """Each photograph with its short side at 256 pixels, and at 128 for crops that shrink."""
    photos = []
    for path in sorted(folder.iterdir()):
        try:
            image = Image.open(path).convert("RGB")
        except OSError:
            continue
        scale = 256 / min(image.size)
        image = image.resize([round(side * scale) for side in image.size], Image.LANCZOS)
        photos.append((image, image.reduce(2)))
    if len(photos) < 2:
        sys.exit(f"{folder} holds no photographs to tell apart")
    return photos


def random_crop(photo: tuple[Image.Image, Image.Image], size: int, rng) -> np.ndarray:
    """A square of the photograph at any angle and scale, uint8 [size, size, 3]."""
    image = photo[0]
    width, height = image.size
    angle = rng.uniform(0, 2 * math.pi)
    cos, sin = math.cos(angle), math.sin(angle)
    reach = abs(cos) + abs(sin)  # the turned square's bounding box, in units of its side
    largest = min(width, height) / reach
    side = math.exp(rng.uniform(math.log(0.6 * size), math.log(largest)))
    margin = side * reach / 2
    x, y = rng.uniform(margin, width - margin), rng.uniform(margin, height - margin)
    step = side / size
    if step > 1.3:  # bilinear sampling would skip pixels: take the halved photograph
        image, x, y, step = photo[1], x / 2, y / 2, step / 2
    flip = rng.choice([-1, 1])
    a, b, d, e = flip * cos * step, -sin * step, flip * sin * step, cos * step
    center = (size - 1) / 2
    matrix = (a, b, x - (a + b) * center, d, e, y - (d + e) * center)
    return np.asarray(image.transform((size, size), Image.AFFINE, matrix, Image.BILINEAR))


def make_batches(photos, batch: int, size: int, seed: int, start: int, steps: int):
    """Batches of (crops uint8 [B, S, S, 3], labels int32 [B]); batch i depends on seed and i."""

    def make(step):
        rng = np.random.default_rng([seed, int(step)])
        labels = rng.choice(len(photos), batch, replace=len(photos) < batch)
        crops = [random_crop(photos[label], size, rng) for label in labels]
        return np.stack(crops), labels.astype(np.int32)

    def tensors(step):
        crops, labels = tf.numpy_function(make, [step], [tf.uint8, tf.int32])
        return tf.ensure_shape(crops, [batch, size, size, 3]), tf.ensure_shape(labels, [batch])

    return tf.data.Dataset.range(start, steps).map(tensors, num_parallel_calls=2).prefetch(4)


def recolour(crops: tf.Tensor, step: tf.Tensor, seed: int) -> tf.Tensor:
    """Random gain, offset, saturation and Gaussian noise for each crop; float32 in 0..255."""
    count = tf.shape(crops)[0]

    def uniform(index, low, high, channels=1):
        return tf.random.stateless_uniform(
            [count, 1, 1, channels], tf.stack([seed * 8 + index, step]), low, high
        )

    image = tf.cast(crops, tf.float32) - 128.0
    grey = tf.reduce_mean(image, axis=-1, keepdims=True)
    image = grey + (image - grey) * uniform(0, 0.6, 1.4)
    image = image * uniform(1, 0.7, 1.3) * uniform(2, 0.85, 1.15, channels=3)
    image = image + uniform(3, -25.0, 25.0)
    sigma = tf.nn.relu(uniform(4, -10.0, 25.0))
    noise = tf.random.stateless_normal(tf.shape(image), tf.stack([seed * 8 + 5, step]))
    return tf.clip_by_value(image + 128.0 + sigma * noise, 0.0, 255.0)


class BatchNormalization(keras.layers.Layer):
    """Normalization by the batch's own statistics, in TensorFlow's fused kernel.

    On a CPU in bfloat16 a training step takes less than two thirds of its time with Keras's layer.
    There are no moving averages: the statistics that are folded into the weights are measured on
    whole photographs after training.
    """

    def build(self, shape):
        options = {"shape": shape[-1:], "dtype": "float32", "autocast": False}
        self.gamma = self.add_weight(name="gamma", initializer="ones", **options)
        self.beta = self.add_weight(name="beta", initializer="zeros", **options)

    def call(self, x):
        return tf.compat.v1.nn.fused_batch_norm(x, self.gamma, self.beta, epsilon=EPSILON)[0]


def build_classifier(blocks, classes: int) -> keras.Model:
    """The trunk with batch normalization, and a linear classifier for each of HEADS."""
    image = keras.Input([None, None, 3])
    x = (image[..., ::-1] - networks.MEAN[::-1]) / INPUT_SCALE  # BGR, as VGG
    logits = []
    for b, (channels, convolutions) in enumerate(blocks, 1):
        for c in range(1, convolutions + 1):
            name = f"block{b}_conv{c}"
            x = keras.layers.Conv2D(channels, 3, padding="same", use_bias=False, name=name)(x)
            x = BatchNormalization(name=f"{name}_bn")(x)
            x = keras.layers.Activation("relu", name=f"{name}_relu")(x)
            if name in HEADS:
                mean = keras.layers.GlobalAveragePooling2D()(x)
                head = keras.layers.Dense(classes, dtype="float32", name=f"{name}_head")(mean)
                logits.append(head)
        if b < len(blocks):
            x = keras.layers.AveragePooling2D(2, name=f"block{b}_pool")(x)
    return keras.Model(image, logits)


def center_squares(photos, count: int) -> np.ndarray:
    """The middle 256 x 256 pixels of `count` photographs, float32 [count, 256, 256, 3]."""
    chosen = (photos[i * len(photos) // count][0] for i in range(count))
    return np.stack([ImageOps.fit(photo, (256, 256)) for photo in chosen]).astype(np.float32)


def fold(model: keras.Model, images: np.ndarray) -> dict[str, list[np.ndarray]]:
    """[kernel, bias] of each convolution with batch normalization in them.

    The statistics are those of `images`, float32 [N, H, W, 3], in one batch.
    """
    names = list(networks.NETWORKS["small"].shapes)
    responses = keras.Model(model.input, [model.get_layer(name).output for name in names])
    layers = {}
    for name, response in zip(names, responses(images), strict=True):
        mean, variance = (x.numpy().astype(np.float64) for x in tf.nn.moments(response, [0, 1, 2]))
        kernel = model.get_layer(name).kernel.numpy().astype(np.float64)
        gamma, beta = (x.numpy() for x in model.get_layer(f"{name}_bn").weights)
        gain = gamma / np.sqrt(variance + EPSILON)
        layers[name] = [kernel * gain, beta - mean * gain]
    layers[names[0]][0] /= INPUT_SCALE
    return layers


def scale(layers: dict, images: np.ndarray, path: Path) -> dict:
    """The layers with each filter scaled to equal mean activation, as in Gatys et al. (2015), and
    each layer to CONTENT_LOSS or STYLE_LOSSES between successive images, float32 [N, H, W, 3].

    ReLU networks are positively homogeneous: multiplying a filter and its bias by s, and dividing
    by s what the next layer does with it, scales its activations and changes nothing else.
    """
    write(layers, path)
    extractor = networks.feature_extractor("small", list(layers), weights=path)
    activations = [extractor(image[np.newaxis]) for image in images]
    scaled, before = {}, np.ones(3)
    for name, (kernel, bias) in layers.items():
        seen = [activation[name].numpy() for activation in activations]
        means = np.mean([x.mean((0, 1, 2)) for x in seen], axis=0)
        # A filter that is hardly ever active stays so: its noise would count as much as the others.
        factor = 1 / np.maximum(means, 0.03 * means.mean())
        pairs = list(pairwise(x * np.float32(factor) for x in seen))
        if name in CONTENT_LAYERS:
            loss = np.mean([losses.content_loss(a, b) for a, b in pairs])
            factor *= (CONTENT_LOSS / loss) ** (1 / 2)
        else:
            grams = [[losses.gram_matrix(x) for x in pair] for pair in pairs]
            loss = np.mean([losses.style_loss(a, b) for a, b in grams])
            factor *= (STYLE_LOSSES[name[:6]] / loss) ** (1 / 4)
        scaled[name] = [kernel * factor / before[:, np.newaxis], bias * factor]
        before = factor
    return scaled


def write(layers: dict[str, list[np.ndarray]], path: Path) -> None:
    """As Keras lays out an .h5 file, in half precision."""
    with h5py.File(path, "w") as file:
        for name, (kernel, bias) in layers.items():
            file[f"{name}/kernel"] = kernel.astype(np.float16)
            file[f"{name}/bias"] = bias.astype(np.float16)


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Train the bundled network on a folder of photographs."
    )
    parser.add_argument("photos", type=Path, help="folder of photographs, each its own class")
    parser.add_argument("--out", type=Path, required=True, help="the weights file to write (.h5)")
    parser.add_argument("--steps", type=int, default=10000)
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--crop", type=int, default=96, help="side of a crop in pixels")
    parser.add_argument("--learning_rate", type=float, default=2e-3)
    parser.add_argument("--precision", default="mixed_bfloat16", help="a Keras dtype policy")
    parser.add_argument("--checkpoint", type=Path, help="folder [OUT without its ending]")
    parser.add_argument("--checkpoint_every", type=int, default=500, help="steps")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    keras.utils.set_random_seed(args.seed)
    tf.config.experimental.enable_op_determinism()
    keras.config.set_dtype_policy(args.precision)
    photos = load_photos(args.photos)
    model = build_classifier(networks.NETWORKS["small"].blocks, len(photos))
    warmup = min(300, args.steps // 10)
    schedule = keras.optimizers.schedules.CosineDecay(
        args.learning_rate / 10,
        args.steps - warmup,
        alpha=0.01,
        warmup_target=args.learning_rate,
        warmup_steps=warmup,
    )
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=0.05)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    optimizer.build(model.trainable_variables)

    step_counter = tf.Variable(0, dtype=tf.int64)
    saved = tf.train.Checkpoint(model=model, optimizer=optimizer, step=step_counter)
    folder = args.checkpoint or args.out.with_suffix("")
    manager = tf.train.CheckpointManager(saved, str(folder), max_to_keep=1)
    if manager.restore_or_initialize():
        print(f"resuming at step {int(step_counter)}", file=sys.stderr)

    @tf.function
    def train_step(crops, labels, step):
        image = recolour(crops, tf.cast(step, tf.int32), args.seed)
        with tf.GradientTape() as tape:
            logits = model(image, training=True)
            losses = [
                tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, x))
                for x in logits
            ]
            loss = tf.add_n([w * x for w, x in zip(HEADS.values(), losses, strict=True)])
        variables = model.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        hits = [tf.equal(tf.argmax(x, -1, tf.int32), labels) for x in logits]
        return loss, tf.stack([tf.reduce_mean(tf.cast(h, tf.float32)) for h in hits])

    start = int(step_counter)
    batches = make_batches(photos, args.batch, args.crop, args.seed, start, args.steps)
    progress = tqdm(batches, initial=start, total=args.steps, mininterval=5)
    loss_mean, hits_mean = None, None
    for crops, labels in progress:
        loss, hits = train_step(crops, labels, step_counter)
        step_counter.assign_add(1)
        step = int(step_counter)
        if step % 50 == 0:
            loss, hits = float(loss), hits.numpy()
            loss_mean = loss if loss_mean is None else 0.9 * loss_mean + 0.1 * loss
            hits_mean = hits if hits_mean is None else 0.9 * hits_mean + 0.1 * hits
            shares = " ".join(f"{x:.0%}" for x in hits_mean)
            progress.set_postfix_str(f"loss {loss_mean:.2f}, recognized by block {shares}")
        if step % args.checkpoint_every == 0:
            manager.save()
    manager.save()

    keras.config.set_dtype_policy("float32")
    exact = build_classifier(networks.NETWORKS["small"].blocks, len(photos))
    exact.set_weights(model.get_weights())
    images = center_squares(photos, min(128, len(photos)))
    write(scale(fold(exact, images), images, args.out), args.out)


if __name__ == "__main__":
    main()
