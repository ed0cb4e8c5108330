"""The networks whose activations are compared, and where their weights come from."""

import contextlib
import dataclasses
import functools
import logging
import math
import os
import re
import tempfile
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nstlib import UserError, fetch, paths, tf
from nstlib.paths import why

if TYPE_CHECKING:
    from nstlib.settings import Settings

log = logging.getLogger("nst")

STYLE_LAYERS = tuple(f"block{b}_conv1" for b in range(1, 6))  # the paper's conv1_1 ... conv5_1


class Field(NamedTuple):
    """The receptive field of a layer along each side of a picture: position i sees the pixels from
    i * stride - before to i * stride + after, both among them."""

    stride: int = 1
    before: int = 0
    after: int = 0

    def convolved(self, size: int) -> "Field":
        """That of a convolution of so many positions across, of a layer of this field."""
        reach = size // 2 * self.stride
        return self._replace(before=self.before + reach, after=self.after + reach)

    def pooled(self, pooling: str) -> "Field":
        """That of a layer of this field after `pooled`."""
        before, after = (2, 2) if pooling == "blur" else (0, 1)
        reach = self.before + before * self.stride, self.after + after * self.stride
        return Field(2 * self.stride, *reach)

    def count(self, length: int) -> int:
        """How many positions there are along a side of so many pixels.

        Max and avg pooling leave out what is not wholly within it; "blur" and convolutions, which
        reach as far on both sides, do not.
        """
        return (length - 1 - (self.after - self.before)) // self.stride + 1


class Level(NamedTuple):
    """A level of the pyramid, which can be evaluated by itself, as a picture of its own: the first
    is the image, and each of the others is made of the one before. Without a pyramid there is but
    the first."""

    made: Callable  # from the picture of the level before; of the first it has no use
    seen: Callable  # picture, cuts as in Network.see [none] -> the activations by name
    fields: dict[str, Field]  # of each wanted layer, in pixels of this level
    pools: list[Field]  # of what each pooling gives


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network of convolutions: what style transfer with it does by default, and how to build it.

    Another kind is a class with its own `shapes`, `normalized`, `is_pooled` and `convolutions`, and
    what else of the methods it does differently.
    """

    content_layers: tuple[str, ...]  # names, or name=weight
    style_layers: tuple[str, ...]
    style_loss: str = "gram"
    style_layout: float = 0.0  # as in the paper
    pooling: str
    colors: str = "style"
    num_iter: int = 1000
    learning_rate: float = 5.0  # of Adam, in grey levels
    init_noise: float = 0.0
    content_focus: float = 0.0  # as in the paper
    contrast: float | None = None  # see losses.content_focus; None: the photograph's own
    tv_weight: float = 1e2
    # Style layers of fewer positions across are left out: so few tell more of where things are in
    # the painting than of its manner, and would bring its figures into the picture.
    least_positions: int = 1
    overhead: float = 1.0  # of memory, in times of what its activations take
    weights: str  # an address to download from, or a file in this folder
    md5: str = ""  # of what is downloaded

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The kernel shape of each convolution by name, first to last."""
        raise NotImplementedError

    @property
    def layers(self) -> list[str]:
        """The names of the layers, first to last."""
        return list(self.shapes)

    def keras_name(self, name: str) -> str:
        """The name of a layer in `layers`, of whatever else it may be called."""
        return name.strip()

    def place(self, layer: str) -> tuple[int, str]:
        """The level of a layer, from 0, and the name of its convolution."""
        return 0, layer

    def normalized(self, image, precision: str):
        """What the first convolution sees of an image, [1, H, W, 3] in 0..255."""
        raise NotImplementedError

    def is_pooled(self, name: str) -> bool:
        """Whether there is pooling right before this convolution."""
        raise NotImplementedError

    def convolutions(self, kernels: dict[str, list[np.ndarray]], precision: str) -> dict:
        """The Keras layers by name, with their weights."""
        raise NotImplementedError

    def see(
        self,
        picture,
        names: Sequence[str],
        convolutions: dict,
        pooling: str,
        precision: str,
        cuts: Sequence = (),
    ) -> dict:
        """The activations of these convolutions by name, from a normalized picture.

        cuts: after each pooling, with which of its results to go on, as `cut` takes them [all];
        fewer than there are poolings where what is deeper is of no use.
        """
        x, activations, boxes = picture, {}, iter(cuts)
        for name, convolution in convolutions.items():
            if set(names) <= activations.keys():
                break
            if self.is_pooled(name):
                x, box = self.pooled(x, pooling, precision), next(boxes, None)
                x = x if box is None else cut(x, box)
            x = activations[name] = convolution(x)
        return {name: activations[name] for name in names}

    def pooled(self, features, pooling: str, precision: str):
        """Activations, or the picture of a level, [1, H, W, C], at half the size; where H or W is
        odd without the last row or column, save with "blur"."""
        return pooled(features, pooling, dtype=precision)

    def build(
        self,
        kernels: dict[str, list[np.ndarray]],
        layers: Sequence[str],
        pooling: str,
        precision: str,
    ) -> "tf.keras.Model":
        """From an image to a dict of the activations of these layers; see feature_extractor."""
        image = tf.keras.Input([None, None, 3], dtype="float32", name="image")
        activations = {}
        convolutions = self.convolutions(kernels, precision)
        picture = self.normalized(image, precision)
        for number, wanted in enumerate(self.by_level(layers)):
            picture = self.pooled(picture, pooling, "float32") if number else picture
            seen = self.see(picture, list(wanted.values()), convolutions, pooling, precision)
            activations |= {layer: seen[name] for layer, name in wanted.items()}
        return tf.keras.Model(image, {layer: activations[layer] for layer in layers})

    def build_levels(
        self,
        kernels: dict[str, list[np.ndarray]],
        layers: Sequence[str],
        pooling: str,
        precision: str,
    ) -> list[Level]:
        """The same a level at a time, down to the last one of which a layer is wanted."""
        convolutions = self.convolutions(kernels, precision)
        fields, pools = self._fields(pooling)

        def made(normalize, picture):
            before = self.normalized(picture, precision) if normalize else picture
            return self.pooled(before, pooling, "float32")

        def seen(normalize, wanted, picture, cuts=()):
            normal = self.normalized(picture, precision) if normalize else picture
            names = list(wanted.values())
            found = self.see(normal, names, convolutions, pooling, precision, cuts)
            return {layer: found[name] for layer, name in wanted.items()}

        return [
            Level(
                partial(made, number == 1),
                partial(seen, not number, wanted),
                {layer: fields[name] for layer, name in wanted.items()},
                pools,
            )
            for number, wanted in enumerate(self.by_level(layers))
        ]

    def by_level(self, layers: Sequence[str]) -> list[dict[str, str]]:
        """Of each level that is wanted, or passed on the way, the convolutions by layer."""
        places = {layer: self.place(layer) for layer in layers}
        deepest = max(level for level, _ in places.values())
        return [
            {layer: name for layer, (level, name) in places.items() if level == number}
            for number in range(deepest + 1)
        ]

    def window(self, layers: Sequence[str], pooling: str, tile: int) -> int:
        """How many pixels across a tile sees at most, for these layers of so many pixels."""
        fields, names = self.fields(pooling), {self.place(layer)[1] for layer in layers}
        stride = max((fields[name].stride for name in names), default=1)
        reach = max((fields[name].before + fields[name].after for name in names), default=0)
        return tile + reach + stride

    def fields(self, pooling: str) -> dict[str, Field]:
        """The receptive field of each convolution by name, in pixels of its level."""
        fields, _ = self._fields(pooling)
        return fields

    def pools(self, pooling: str) -> list[Field]:
        """That of what each pooling gives, first to last."""
        _, pools = self._fields(pooling)
        return pools

    def _fields(self, pooling: str) -> tuple[dict[str, Field], list[Field]]:
        field, fields, pools = Field(), {}, []
        for name, shape in self.shapes.items():
            if self.is_pooled(name):
                field = field.pooled(pooling)
                pools.append(field)
            field = fields[name] = field.convolved(shape[0])
        return fields, pools

    def activations(self, layers: Sequence[str]) -> float:
        """How many there are for each pixel of an image, where these layers are wanted."""
        fields, names, values = self.fields(self.pooling), list(self.shapes), 0.0
        for number, wanted in enumerate(self.by_level(layers)):
            deepest = max(map(names.index, wanted.values()), default=-1)
            for name in names[: deepest + 1]:
                values += self.shapes[name][-1] / (2**number * fields[name].stride) ** 2
        return values

    @property
    def size(self) -> int:
        """Of the weights in float32, in bytes."""
        return 4 * sum(math.prod(shape) + shape[-1] for shape in self.shapes.values())


@dataclass(frozen=True, kw_only=True)
class VGG(Network):
    """Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition"
    (ICLR 2015): blocks of 3x3 convolutions, each block but the last halved by pooling."""

    blocks: tuple[tuple[int, int], ...]  # (channels, convolutions) of each block

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        shapes, depth = {}, 3
        for b, (channels, convolutions) in enumerate(self.blocks, 1):
            for c in range(1, convolutions + 1):
                shapes[f"block{b}_conv{c}"] = (3, 3, depth, channels)
                depth = channels
        return shapes

    def keras_name(self, name: str) -> str:
        """Keras's name from Keras's or the paper's: conv3_2 is block3_conv2."""
        return re.sub(r"^conv(\d)_(\d)$", r"block\1_conv\2", name.strip())

    @staticmethod
    def block(layer: str) -> int:
        """The number of a layer's block: 3 of block3_conv2, which is halved twice."""
        return int(layer.removeprefix("block").partition("_")[0])

    @staticmethod
    def scale(precision: str) -> int:
        """A network of convolutions and ReLUs scales with its input, if the biases do."""
        return FLOAT16_SCALE if precision == "float16" else 1

    def normalized(self, image, precision: str):
        return (image - MEAN) / self.scale(precision)

    def is_pooled(self, name: str) -> bool:
        return name.endswith("_conv1") and self.block(name) > 1

    def convolutions(self, kernels: dict[str, list[np.ndarray]], precision: str) -> dict:
        layers = {}
        for name, shape in self.shapes.items():
            layers[name] = _convolution(name, shape, precision)
            kernel, bias = kernels[name]
            if name == "block1_conv1":
                kernel = kernel[:, :, ::-1]  # trained on BGR
            layers[name].set_weights([kernel, bias / self.scale(precision)])
        return layers

    def see(self, picture, names, convolutions, pooling, precision, cuts=()):
        found = super().see(picture, names, convolutions, pooling, precision, cuts)
        if (scale := self.scale(precision)) > 1:
            found = {x: tf.keras.ops.cast(y, "float32") * scale for x, y in found.items()}
        return found


@dataclass(frozen=True, kw_only=True)
class Pyramid(Network):
    """A shallow network on every level of a Gaussian pyramid, so that the filters that see a stroke
    four pixels wide also see one of sixty.

    After Snelgrove, "High-Resolution Multi-Scale Neural Texture Synthesis" (SIGGRAPH Asia 2017).
    A level is half the size of the one before; its layers are level1_conv1, level1_conv2, ...
    """

    levels: int
    channels: tuple[int, ...]  # of each layer

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The kernel shape of each convolution by name, first to last; all levels have the same."""
        depths = (3, *self.channels)
        return {
            f"conv{c}": (3 if c > 1 else 5,) * 2 + depths[c - 1 : c + 1]
            for c in range(1, len(depths))
        }

    @property
    def layers(self) -> list[str]:
        levels = range(1, self.levels + 1)
        return [f"level{level}_{name}" for level in levels for name in self.shapes]

    def place(self, layer: str) -> tuple[int, str]:
        level, _, name = layer.removeprefix("level").partition("_")
        return int(level) - 1, name

    def normalized(self, image, precision: str):
        return (image - 128) / 64

    def is_pooled(self, name: str) -> bool:
        return False

    def pooled(self, features, pooling: str, precision: str):
        """The picture of a level, [1, H, W, 3], at half the size, rounded up."""
        return pooled(features, pooling, dtype=precision, padding="same")

    def convolutions(self, kernels: dict[str, list[np.ndarray]], precision: str) -> dict:
        layers = {}
        for name, shape in self.shapes.items():
            layers[name] = _convolution(name, shape, precision)
            layers[name].set_weights(kernels[name])
        return layers


def _convolution(name: str, shape: tuple[int, ...], precision: str):
    """A Keras layer of convolutions with ReLU, for its weights to be set."""
    layer = tf.keras.layers.Conv2D(
        shape[-1], shape[0], padding="same", activation="relu", dtype=precision, name=name
    )
    layer.trainable = False
    layer.build([None, None, None, shape[2]])
    fast = tf.has_onednn() or tf.gpus()
    if not fast and precision == "float32" and shape[2] > 3:
        layer.convolution_op = _convolve
    return layer


def _convolve(features, kernel):
    """[1, h, w, C] by a kernel [k, k, C, D], with a gradient that is a convolution, too: by the
    kernel turned round. TensorFlow's own, where it has neither oneDNN nor a GPU, takes longer, and
    k² times the memory of its result.
    """
    values = tf.convert_to_tensor(kernel)  # a variable that is seen would want a gradient

    @tf.custom_gradient
    def function(features):
        def gradient(upstream):
            with tf.init_scope():  # once for all evaluations, when the first is traced
                turned = tf.transpose(tf.reverse(kernel, [0, 1]), [0, 1, 3, 2])
            return tf.nn.conv2d(upstream, turned, 1, "SAME")

        return tf.nn.conv2d(features, values, 1, "SAME"), gradient

    return function(features)


def cut(features, box):
    """Of activations, [1, h, w, C], those in a box: top, left, height, width."""
    return tf.slice(features, [0, box[0], box[1], 0], [1, box[2], box[3], features.shape[-1]])


POOLINGS = ("max", "avg", "blur")


def pooled(features, pooling: str, **options):
    """[1, H, W, C] at half the size; options: of a Keras pooling layer."""
    if pooling == "blur":
        return halved(features)
    layers = {"max": tf.keras.layers.MaxPooling2D, "avg": tf.keras.layers.AveragePooling2D}
    return layers[pooling](2, **options)(features)


def halved(features):
    """[1, H, W, C] at half the size, [1, ⌈H/2⌉, ⌈W/2⌉, C] in the same precision, without aliasing.

    Burt and Adelson, "The Laplacian Pyramid as a Compact Image Code" (1983): blurred with binomial
    weights, every other pixel taken. Pooling without blurring leaves a grain in stylized pictures.
    """
    return tf.keras.layers.Lambda(_halve, dtype=features.dtype)(features)


def _halve(features):
    """The same of a tensor, with a gradient that is its transpose in four depthwise convolutions:
    in bfloat16 TensorFlow's own takes thirty times as long."""

    def convolve(x, kernel, stride, padding):
        kernel = np.repeat(kernel[:, :, np.newaxis, np.newaxis], features.shape[-1], 2)
        strides = [1, stride, stride, 1]
        return tf.nn.depthwise_conv2d(x, tf.constant(kernel, x.dtype), strides, padding)

    @tf.custom_gradient
    def half(x):
        height, width = tf.unstack(tf.shape(x)[1:3])
        padding = [[0, 0], [2, 2], [2, 2], [0, 0]]  # as much on all sides: centred on even pixels

        def gradient(upstream):
            even, odd = np.array([1, 6, 1]) / 16, np.array([0, 4, 4]) / 16
            kernels = [np.outer(rows, columns) for rows in (even, odd) for columns in (even, odd)]
            parts = [convolve(upstream, kernel, 1, "SAME") for kernel in kernels]
            return tf.nn.depth_to_space(tf.concat(parts, -1), 2)[:, :height, :width]

        binomial = np.array([1, 4, 6, 4, 1]) / 16
        return convolve(x, np.outer(binomial, binomial), 2, padding), gradient

    return half(features)


MEAN = np.array([123.68, 116.779, 103.939], np.float32)  # the mean colour of ImageNet, RGB
IMAGENET = "https://storage.googleapis.com/tensorflow/keras-applications/"
NETWORKS = {
    "vgg19": VGG(
        blocks=((64, 2), (128, 2), (256, 4), (512, 4), (512, 4)),
        content_layers=("block5_conv2",),
        style_layers=STYLE_LAYERS,
        pooling="max",
        weights=IMAGENET + "vgg19/vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5",
        md5="253f8cb515780f3b799900260a226db6",
    ),
    "vgg16": VGG(
        blocks=((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)),
        content_layers=("block5_conv2",),
        style_layers=STYLE_LAYERS,
        pooling="max",
        weights=IMAGENET + "vgg16/vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5",
        md5="6d6bbae143d832006294945121d1f1fc",
    ),
    # Its filters are found in photographs by training/learn_small.py.
    "small": Pyramid(
        levels=5,
        channels=(40, 80),
        content_layers=("level2_conv2=0.25", "level3_conv2", "level5_conv2=0.5"),
        style_layers=tuple(f"level{level}_conv{c}" for c in (1, 2) for level in range(1, 6)),
        style_loss="wasserstein",
        style_layout=0.2,
        colors="palette",
        pooling="blur",
        num_iter=200,
        learning_rate=10.0,
        init_noise=0.1,
        content_focus=0.4,
        contrast=25.0,
        tv_weight=1.0,
        least_positions=20,
        overhead=1.8,
        weights="small.h5",
    ),
}


class WeightsUnavailable(UserError):
    """The ImageNet weights are neither in Keras's cache nor to be downloaded."""


def layer_name(network: str, name: str) -> str:
    """Keras's name of a layer from any that it is called by.

    Raises UserError where the network has no such layer.
    """
    keras_name, names = NETWORKS[network].keras_name(name), NETWORKS[network].layers
    if keras_name not in names:
        raise UserError(
            f"{network} has no layer {name!r}; its layers are {names[0]} to {names[-1]}"
        )
    return keras_name


def layer_weights(network: str, layers: Iterable[str] | None) -> dict[str, float]:
    """Keras's layer names and their weights, from "name" (of weight 1) or "name=weight".

    Raises UserError for a layer that the network has not and for a weight not above 0.
    """
    weights = {}
    for layer in layers or ():
        name, equals, weight = layer.partition("=")
        name = layer_name(network, name)
        try:
            weights[name] = float(weight if equals else 1)
        except ValueError:
            weights[name] = math.nan
        if not 0 < weights[name] < math.inf:
            raise UserError(f"the weight in {layer!r} must be a number above 0")
    return weights


def style_strengths(network: str, layers: Iterable[str], sizes: dict) -> dict[str, float]:
    """What to multiply the style loss of each layer by, at the size of an image.

    sizes: the activations' (height, width) by layer. 0 for layers with fewer positions across than
    the network's `least_positions`, whose share of the mean goes to the others; else 1.
    """
    weights = layer_weights(network, layers)
    least = NETWORKS[network].least_positions
    used = {x: weight for x, weight in weights.items() if min(sizes[x]) >= least} or weights
    share = sum(weights.values()) / sum(used.values())
    return {layer: share if layer in used else 0.0 for layer in weights}


PRECISIONS = ("float32", "bfloat16", "float16")
FLOAT16_SCALE = 64  # float16 ends at 65504, which VGG's activations can exceed


def best_precision() -> str:
    """The fastest of PRECISIONS on this machine: bfloat16 where the hardware multiplies in it.

    Those are CPUs as `has_bfloat16` has it, and NVIDIA GPUs from Ampere on; Volta and Turing have
    float16 instead.
    """
    if gpus := tf.gpus():
        details = tf.config.experimental.get_device_details(gpus[0])
        generation = details.get("compute_capability", (0, 0))[0]
        return "bfloat16" if generation >= 8 else "float16" if generation == 7 else "float32"
    return "bfloat16" if has_bfloat16() else "float32"


def has_bfloat16() -> bool:
    """Whether this CPU multiplies in bfloat16, with AVX512_BF16 or AMX; told by Linux only."""
    with contextlib.suppress(OSError):
        flags = Path("/proc/cpuinfo").read_text().split()
        return not {"avx512_bf16", "amx_bf16"}.isdisjoint(flags)
    return False


def feature_extractor(
    network: str,
    layers: list[str],
    pooling: str | None = None,
    weights: str | Path | None = None,
    precision: str = "float32",
) -> "tf.keras.Model":
    """The submodel that outputs the named activations and computes nothing past the deepest.

    From an image, float32 RGB [1, H, W, 3] in 0..255 with H and W at least 16, to a dict of
    activations [1, h, w, C] (after the ReLU) by layer name. `pooling` is one of POOLINGS [the
    network's own]; `weights` a file [downloaded, or bundled]; `precision`, one of PRECISIONS, what
    it computes in and, save for VGG in float16, outputs. Raises UserError for an unknown layer or a
    file of another network, WeightsUnavailable where a download fails.
    """
    entry, arguments = _to_build(network, layers, pooling, weights, precision)
    return entry.build(*arguments)


def level_extractors(
    network: str,
    layers: list[str],
    pooling: str | None = None,
    weights: str | Path | None = None,
    precision: str = "float32",
) -> list[Level]:
    """What `feature_extractor` does, for each level of the pyramid by itself, the finest first."""
    entry, arguments = _to_build(network, layers, pooling, weights, precision)
    return entry.build_levels(*arguments)


def _to_build(network, layers, pooling, weights, precision) -> tuple[Network, tuple]:
    """The network, and the arguments of its `build`."""
    names = [layer_name(network, name) for name in layers]
    kernels = read_weights(weights or find_weights(network), network)
    entry = NETWORKS[network]
    return entry, (kernels, names, pooling or entry.pooling, precision)


class LoadedNetwork(NamedTuple):
    """A network with its weights, ready for the pictures of these settings."""

    settings: "Settings"  # resolved
    extractor: Callable  # image -> activations by layer name, compiled

    def fit(self, settings: "Settings") -> "LoadedNetwork":
        """The same for a picture with other settings.

        Raises UserError where they want another network, or layers that this one leaves out.
        """
        resolved = settings.resolved()
        for name in ("network", "weights", "pooling", "precision"):
            loaded, wanted = getattr(self.settings, name), getattr(resolved, name)
            if loaded != wanted:
                raise UserError(
                    f"the network was loaded with --{name} {loaded}, not {wanted}: "
                    "call load_network with these settings"
                )
        if missing := set(used_layers(resolved)) - set(used_layers(self.settings)):
            raise UserError(
                f"the network was loaded without {min(missing)}: "
                "call load_network with these settings"
            )
        return self._replace(settings=resolved)


def used_layers(settings: "Settings") -> list[str]:
    """The layers that resolved settings give a weight to, by Keras's names."""
    content = settings.content_layers if settings.content_weight else ()
    style = settings.style_layers if settings.style_weight else ()
    return list(layer_weights(settings.network, (*(content or ()), *(style or ()))))


def prepare(network: str) -> None:
    """Let TensorFlow compute as suits the network: of use before it is loaded only."""
    if isinstance(NETWORKS[network], Pyramid):
        tf.use_onednn()


def load_network(settings: "Settings") -> LoadedNetwork:
    """The network of these settings, `small` where VGG cannot be had; loaded once and kept."""
    prepare(settings.network)
    try:  # before TensorFlow is loaded, for which `small` may have to be prepared instead
        weights = settings.weights or find_weights(settings.network)
    except WeightsUnavailable as reason:
        try:
            bundled = dataclasses.replace(settings, network="small")
        except UserError:  # it has not the layers that are named
            raise reason from None
        log.warning("%s. Going on with the bundled network (--network small).", reason)
        return load_network(bundled)
    resolved = settings.resolved()
    extractor = _compiled_extractor(
        resolved.network,
        tuple(used_layers(resolved)),
        resolved.pooling,
        weights,
        resolved.precision,
        paths.changed(weights),
    )
    return LoadedNetwork(resolved, extractor)


@functools.lru_cache(maxsize=2)
def _compiled_extractor(network, layers, pooling, weights, precision, changed) -> Callable:
    return compiled(feature_extractor(network, list(layers), pooling, weights, precision))


_tracing = threading.RLock()


def compiled(function: Callable) -> Callable:
    """A function of tensors, compiled at its first call for images of any height and width.

    Without AutoGraph, which takes half a second to find that there is no loop over tensors in it.
    Threads trace one at a time.
    """
    graph = None

    def any_size(tensor):
        shape = tensor.shape
        shape = [shape[0], None, None, shape[-1]] if len(shape) == 4 else shape
        return tf.TensorSpec(shape, tensor.dtype)

    def call(*arguments):
        nonlocal graph
        with _tracing:
            if graph is None:
                signature = tf.nest.map_structure(any_size, arguments)
                graph = tf.function(function, input_signature=signature, autograph=False)
                graph.get_concrete_function()
        return graph(*arguments)

    return call


def traced_once(function: Callable) -> Callable:
    """A function of tensors that a compiled function calls for several layers: traced once for all
    of the same shape, and left out of the graph. So the first evaluation of `small`, whose ten
    layers have two shapes, comes sooner, and each takes a little less memory."""

    @functools.cache
    def graph():
        options = {"autograph": False, "experimental_attributes": {"_noinline": True}}
        return tf.function(function, **options)

    @functools.wraps(function)
    def call(*arguments, **named):
        return (function if tf.executing_eagerly() else graph())(*arguments, **named)

    return call


def find_weights(network: str) -> str:
    """The path of the network's own weights: bundled, or downloaded once into Keras's cache.

    The file's hash is checked at each run, so what is there is never trusted unseen.
    """
    source, md5 = NETWORKS[network].weights, NETWORKS[network].md5
    if not source.startswith("https:"):
        return str(Path(__file__).with_name(source))
    home = os.path.expanduser(os.environ.get("KERAS_HOME", "~/.keras"))  # noqa: PTH111
    folder = Path(home, "models")
    try:
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK) and not paths.is_file(folder / Path(source).name):
            folder = Path(tempfile.gettempdir(), ".keras", "models")  # as Keras does
        return str(fetch.cached(source, md5, folder))
    except Exception as error:  # urllib raises almost anything
        raise WeightsUnavailable(
            f"the ImageNet weights of {network} cannot be downloaded ({why(error)}); "
            f"fetch {source} elsewhere and put it into {folder}, or give its path with --weights"
        ) from error


def read_weights(path: str | Path, network: str) -> dict[str, list[np.ndarray]]:
    """[kernel, bias] of each layer, float32, from an .h5 or .weights.h5 file that Keras wrote.

    Reads numbers only: nothing in the file is executed, no link in it is followed, and nothing is
    read before all shapes are right; the file is read once as long as it stays the same. Raises
    UserError where it cannot be read, is not of this network, or holds what is no finite number.
    """
    return _read_weights(path, network, paths.changed(path))


@functools.lru_cache(maxsize=1)
def _read_weights(path, network, changed) -> dict[str, list[np.ndarray]]:
    import h5py  # a third of a second

    groups = {}  # the arrays in each group, by layer

    def visit(name, item):  # sees each array once, and none behind a link out of the file
        # Keras names layers block1_conv1/.../kernel, or, in .weights.h5, layers/conv2d_7/vars/0.
        layer = re.search(r"[a-z]+\d_conv\d|conv2d(_\d+)?|conv\d", name)
        if not layer or name.startswith("optimizer"):  # which holds tensors like them
            return
        if isinstance(item, h5py.Dataset) and item.ndim in (1, 4):
            groups.setdefault((layer[0], name.rpartition("/")[0]), {})[item.ndim] = item

    def read(item):
        values = np.asarray(item, np.float32)
        if not np.isfinite(values).all():
            raise UserError(f"{path} holds weights that are no finite numbers; fetch it again")
        return values

    paths.open_file(path).close()
    try:
        with h5py.File(path) as file:
            file.visititems(visit)
            found = {
                layer: (arrays[4], arrays[1])
                for (layer, _), arrays in groups.items()
                if arrays.keys() == {1, 4}
            }
            shapes = NETWORKS[network].shapes
            if "conv2d" in found:
                order = sorted(found, key=lambda name: int(name[7:] or 0))
                names = [*shapes, *order[len(shapes) :]]  # more than it has keep their own names
                found = {x: found[number] for x, number in zip(names, order, strict=False)}
            if not _fit(found, shapes):
                raise UserError(f"{path} does not hold the weights of {network}; check --network")
            return {layer: [read(item) for item in found[layer]] for layer in shapes}
    except UserError:
        raise
    except Exception as error:  # a damaged file makes h5py raise almost anything
        raise UserError(
            f"cannot read {path}: it is not a whole .h5 file; fetch it again"
        ) from error


def _fit(found: dict[str, tuple], shapes: dict[str, tuple[int, ...]]) -> bool:
    """Whether these h5py.Datasets, (kernel, bias) of each layer, are of the shapes of a network,
    and hold plain numbers in the file itself."""

    def is_plain(item):
        inside = not item.external and not item.is_virtual
        # No chunk, which is unpacked as a whole, is larger than the array.
        small = np.all(np.less_equal(item.chunks or 0, item.shape))
        return item.dtype.kind == "f" and inside and small

    seen = {layer: (kernel.shape, bias.shape) for layer, (kernel, bias) in found.items()}
    right = seen == {layer: (shape, shape[-1:]) for layer, shape in shapes.items()}
    return right and all(is_plain(item) for pair in found.values() for item in pair)
