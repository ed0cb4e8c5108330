"""The networks against NumPy and keras.applications; every kind of weights file."""

import os
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import BGR_MEAN, activations, batch, picture

import nst
from nstlib import UserError, networks, tf

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")  # in Keras itself

SMALL = Path(networks.__file__).with_name("small.h5")
CONVOLUTIONS = {"vgg19": (2, 2, 4, 4, 4), "vgg16": (2, 2, 3, 3, 3), "narrow": (2, 2, 4, 4, 4)}
FILES = {"small": SMALL}
LEVELS = [[f"level{level}_conv{c}" for c in (1, 2)] for level in range(1, 6)]


def layer_names(network):
    if network == "small":
        return [name for level in LEVELS for name in level]
    return [
        f"block{b}_conv{c}"
        for b, convolutions in enumerate(CONVOLUTIONS[network], 1)
        for c in range(1, convolutions + 1)
    ]


def same(value, expected, tolerance=1e-4):
    assert value.shape == expected.shape
    assert np.abs(value - expected).max() <= tolerance * np.abs(expected).max()


@pytest.fixture(scope="module", autouse=True)
def files(narrow):
    FILES["narrow"] = narrow


def extractor(network, layers, pooling=None, precision="float32"):
    return networks.feature_extractor(network, layers, pooling, FILES[network], precision)


# What there is


@pytest.mark.parametrize("network", ["vgg19", "vgg16"])
def test_shapes(network):
    shapes = networks.NETWORKS[network].shapes
    assert list(shapes) == layer_names(network)
    depths = [3] + [shape[3] for shape in shapes.values()]
    assert [shape[:3] for shape in shapes.values()] == [(3, 3, depth) for depth in depths[:-1]]
    channels = {int(name[5]): shape[3] for name, shape in shapes.items()}
    assert channels == {1: 64, 2: 128, 3: 256, 4: 512, 5: 512}


@pytest.mark.parametrize("network", ["vgg19", "vgg16"])
def test_layer_names(network):
    for name in layer_names(network):
        papers_name = name.replace("block", "conv").replace("_conv", "_")
        assert networks.layer_name(network, name) == name
        assert networks.layer_name(network, papers_name) == name


def test_layer_names_of_levels():
    assert networks.NETWORKS["small"].layers == layer_names("small")
    for name in layer_names("small"):
        assert networks.layer_name("small", f" {name}") == name


@pytest.mark.parametrize(
    ("network", "name"),
    [
        ("vgg19", "block6_conv1"),
        ("vgg19", "conv5_5"),
        ("vgg16", "block3_conv4"),
        ("small", "conv1_1"),
        ("small", "conv1"),
        ("small", "level6_conv1"),
        ("small", "level1_conv3"),
        ("vgg19", "block1_pool"),
        ("vgg19", ""),
        ("vgg19", "xconv1_1"),
    ],
)
def test_unknown_layer(network, name):
    with pytest.raises(UserError) as error:
        networks.layer_name(network, name)
    assert network in str(error.value)
    assert repr(name) in str(error.value)
    assert layer_names(network)[-1] in str(error.value)
    with pytest.raises(UserError):
        networks.feature_extractor(network, [name], weights=SMALL)


# What the submodel computes


@pytest.mark.parametrize(
    "layers",
    [
        ["block1_conv1"],
        ["conv3_1"],
        ["block3_conv1"],
        ["block4_conv1", "block2_conv2"],
        ["conv1_1", "block5_conv2"],
    ],
)
def test_ends_at_the_deepest_layer(layers):
    model = extractor("narrow", layers)
    names = [networks.layer_name("narrow", name) for name in layers]
    assert list(model.output) == names
    present = [layer.name for layer in model.layers if "conv" in layer.name]
    assert present == [name for name in layer_names("narrow") if name <= max(names)]
    pools = [layer.name for layer in model.layers if "pool" in layer.name]
    assert len(pools) == int(present[-1][5]) - 1
    assert not model.trainable_weights
    assert set(model(batch(picture(16, 16)))) == set(names)


@pytest.mark.parametrize("network", ["small", "narrow"])
@pytest.mark.parametrize("pooling", networks.POOLINGS)
@pytest.mark.parametrize("shape", [(32, 32), (35, 49), (16, 17)])
def test_activations_equal_numpy(network, pooling, shape):
    image = picture(*shape)
    expected = activations(image, networks.read_weights(FILES[network], network), pooling)
    seen = extractor(network, layer_names(network), pooling)(batch(image))
    assert set(seen) == set(expected)
    for name, value in seen.items():
        assert value.dtype == tf.float32
        same(value[0], expected[name])
        assert np.ptp(value) > 0  # something is seen


@pytest.mark.parametrize("layers", LEVELS[::2])
def test_a_level_by_itself_is_that_of_the_whole(layers):
    """And nothing but its layers and the halvings to its size is computed."""
    image = batch(picture(67, 83))
    whole = networks.feature_extractor("small", layer_names("small"))(image)
    for name in layers:
        model = extractor("small", [name])
        assert np.array_equal(model(image)[name], whole[name])
        deep, level = int(name[-1]), int(name[5])
        operations = [layer.__class__.__name__ for layer in model.layers]
        assert operations.count("Conv2D") == deep
        assert operations.count("Lambda") == level - 1


def test_halved_keeps_levels_and_drops_what_is_fine():
    image = np.full([1, 33, 40, 2], 80, np.float32)
    image[..., 1] += 50 * (-1) ** np.arange(40)
    small = networks.halved(tf.constant(image)).numpy()
    assert small.shape == (1, 17, 20, 2)
    np.testing.assert_allclose(small[:, 1:-1, 1:-1], 80, rtol=1e-5)


def test_bundled_file():
    """Small, and of plain numbers."""
    assert SMALL.stat().st_size < 8e6
    kinds = []
    with h5py.File(SMALL) as file:
        file.visititems(lambda _, x: kinds.append(x.dtype.kind if hasattr(x, "dtype") else "f"))
    assert set(kinds) == {"f"}
    for kernel, bias in networks.read_weights(SMALL, "small").values():
        assert kernel.dtype == bias.dtype == np.float32


# Precision


def distance(value, expected):
    """Of two arrays of any type, relative to the second."""
    value, expected = (np.float64(tf.cast(x, tf.float32)) for x in (value, expected))
    return np.linalg.norm(value - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize(
    ("network", "precision", "output", "bits"),
    [
        ("small", "bfloat16", "bfloat16", 8),
        ("small", "float16", "float16", 11),
        ("narrow", "bfloat16", "bfloat16", 8),
        ("narrow", "float16", "float32", 11),  # which is scaled back
    ],
)
def test_half_precision_is_close(network, precision, output, bits):
    """Rounded to so many bits are a layer's input, its weights and its output, by half a unit each
    at most, and what the errors of earlier layers come to."""
    layers, image = layer_names(network), batch(picture(33, 48))
    expected = extractor(network, layers)(image)
    found = extractor(network, layers, precision=precision)(image)
    for name in layers:
        assert found[name].dtype == output
        assert 0 < distance(found[name], expected[name]) < 4 * 2.0**-bits


def test_float16_does_not_overflow():
    """Where activations exceed what float16 can hold."""
    layers, image = layer_names("narrow")[:9], 300 * batch(picture(32, 32))
    expected = extractor("narrow", layers)(image)
    found = extractor("narrow", layers, precision="float16")(image)
    assert max(float(tf.reduce_max(x)) for x in expected.values()) > 1e5
    for name in layers:
        assert distance(found[name], expected[name]) < 0.005


@pytest.fixture(scope="module")
def gradient():
    """Of the objective, from a precision and changes of the settings."""

    def at(precision, **changes):
        options = {"network": "small", "content_weight": 100.0, "style_weight": 1e-5} | changes
        options["style_layers"] = ("level1_conv1", "level1_conv2")  # of all, tracing takes longer
        settings, extractor = nst.load_network(nst.Settings(precision=precision, **options))
        content, style, image = (batch(picture(32, 48, seed)) for seed in range(3))
        targets = nst.take_targets(extractor, settings, content, [style])
        return nst.make_objective(extractor, settings)(targets, image)[1].numpy().ravel()

    return at


@pytest.mark.parametrize("factor", [1, 1e6, 1e-6])
def test_gradient_in_half_precision(gradient, factor):
    """However large or small the losses are."""
    changes = {"content_weight": 100 * factor, "style_weight": 1e-5 * factor}
    changes["tv_weight"] = 1e2 * factor
    exact = np.float64(gradient("float32", **changes))
    for precision in ("bfloat16", "float16"):
        found = np.float64(gradient(precision, **changes))
        assert np.isfinite(found).all()
        cosine = found @ exact / np.linalg.norm(found) / np.linalg.norm(exact)
        assert cosine > 0.99
        assert np.linalg.norm(found) == pytest.approx(np.linalg.norm(exact), rel=0.02)


def test_gradient_in_float16_with_much_style(gradient):
    assert np.isfinite(gradient("float16", style_weight=1e6 * nst.Settings().style_weight)).all()


@pytest.mark.parametrize(
    ("capability", "precision"),
    [((9, 0), "bfloat16"), ((8, 6), "bfloat16"), ((7, 5), "float16"), ((6, 1), "float32")],
)
def test_best_precision_of_a_gpu(monkeypatch, capability, precision):
    details = {"compute_capability": capability}
    monkeypatch.setattr(tf, "gpus", lambda: ["GPU"])
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda gpu: details)
    assert networks.best_precision() == precision
    assert nst.Settings(network="small").resolved().precision == precision


def test_best_precision_of_an_unknown_gpu(monkeypatch):
    monkeypatch.setattr(tf, "gpus", lambda: ["GPU"])
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda gpu: {})
    assert networks.best_precision() == "float32"


def missing(path):
    raise FileNotFoundError(path)


@pytest.mark.parametrize(
    ("read", "precision"),
    [
        (lambda path: "flags : fpu avx512f avx512_bf16 amx_tile\n", "bfloat16"),
        (lambda path: "flags : fpu amx_bf16\n", "bfloat16"),
        (lambda path: "flags : fpu avx2 avx512f avx512_vnni\n", "float32"),
        (lambda path: "", "float32"),
        (missing, "float32"),
    ],
)
def test_best_precision_of_a_cpu(monkeypatch, read, precision):
    monkeypatch.setattr(tf, "gpus", list)
    monkeypatch.setattr(Path, "read_text", read)
    assert networks.best_precision() == precision
    assert nst.Settings(network="small", optimizer="lbfgs").resolved().precision == "float32"


# Compiled


def test_compiled_once_for_every_size():
    traces = []

    def function(image, targets):
        traces.append(image.shape)
        return tf.reduce_sum(image) * targets["gram"][0][1, 0] + targets["scale"]

    compiled = networks.compiled(function)
    for height, width in [(5, 7), (8, 3), (1, 1)]:
        image = tf.ones([1, height, width, 3])
        targets = {"gram": [tf.constant([[1.0, 2.0], [3.0, 4.0]])], "scale": tf.constant(1.0)}
        assert compiled(image, targets) == 9 * height * width + 1
    assert [list(shape) for shape in traces] == [[1, None, None, 3]]


# Weights files


@pytest.fixture(scope="module")
def vgg(tmp_path_factory):
    """keras.applications' models with random weights by name, and a folder of their files."""
    folder, models = tmp_path_factory.mktemp("weights"), {}
    for name in ("VGG19", "VGG16"):
        model = getattr(tf.keras.applications, name)(weights=None, include_top=False)
        rng = np.random.default_rng(0)
        for layer in model.layers:
            if layer.weights:
                kernel, bias = layer.get_weights()
                layer.set_weights([kernel, rng.normal(0, 1, bias.shape)])
        name = name.lower()
        models[name] = model
        model.save_weights(folder / f"{name}.weights.h5")
        model.save(folder / f"{name}-whole.h5")
        with h5py.File(folder / f"{name}-classic.h5", "w") as file:  # as Keras 1 and 2 wrote it
            file.attrs["layer_names"] = [layer.name.encode() for layer in model.layers]
            for layer in model.layers:
                group = file.create_group(layer.name)
                names = [f"{layer.name}_{part}_1:0" for part in "Wb"] if layer.weights else []
                group.attrs["weight_names"] = [x.encode() for x in names]
                for x, values in zip(names, layer.get_weights(), strict=True):
                    group[x] = values
    yield models, folder
    shutil.rmtree(folder)  # half a gigabyte


@pytest.mark.parametrize(
    ("network", "file"),
    [
        ("vgg19", "vgg19.weights.h5"),
        ("vgg19", "vgg19-whole.h5"),
        ("vgg19", "vgg19-classic.h5"),
        ("vgg16", "vgg16.weights.h5"),
        ("vgg16", "vgg16-whole.h5"),
    ],
)
def test_weights_file_is_as_keras_loads_it(vgg, network, file):
    models, folder = vgg
    weights = networks.read_weights(folder / file, network)
    assert list(weights) == layer_names(network)
    for name, pair in weights.items():
        for value, expected in zip(
            pair, models[network].get_layer(name).get_weights(), strict=True
        ):
            assert np.array_equal(value, expected)


@pytest.mark.parametrize("network", ["vgg19", "vgg16"])
def test_vgg_equals_keras(vgg, network):
    """Mean, order of channels, padding, pooling and all layers of every block."""
    models, folder = vgg
    image, names = picture(33, 48), layer_names(network)
    extractor = networks.feature_extractor(network, names, weights=folder / f"{network}.weights.h5")
    model = models[network]
    outputs = {name: model.get_layer(name).output for name in names}
    expected = tf.keras.Model(model.inputs, outputs)(batch(image[..., ::-1] - BGR_MEAN))
    seen = extractor(batch(image))
    for name in names:
        same(seen[name].numpy(), expected[name].numpy(), 1e-5)


def test_trained_model_has_more_than_weights(tmp_path, monkeypatch):
    """The optimizer's momenta, saved beside the weights, have the weights' names and shapes."""
    layers = {"content_layers": ("block1_conv1",), "style_layers": ("block1_conv1",)}
    tiny = networks.VGG(blocks=((4, 2), (6, 1)), **layers, pooling="max", weights="")
    monkeypatch.setitem(networks.NETWORKS, "tiny", tiny)
    keras = tf.keras
    model = keras.Sequential(
        [keras.Input([8, 8, 3])]
        + [keras.layers.Conv2D(s[3], 3, name=name) for name, s in tiny.shapes.items()]
    )
    model.compile("adam", "mse")
    model.train_on_batch(np.ones([1, 8, 8, 3]), np.ones([1, 2, 2, 6]))
    for name in ("tiny.h5", "tiny.weights.h5"):
        (model.save if name == "tiny.h5" else model.save_weights)(tmp_path / name)
        weights = networks.read_weights(tmp_path / name, "tiny")
        for layer, (kernel, bias) in weights.items():
            assert np.array_equal(kernel, model.get_layer(layer).kernel)
            assert np.array_equal(bias, model.get_layer(layer).bias)


@pytest.mark.parametrize("kind", [".weights", "-whole", "-classic"])
@pytest.mark.parametrize(("network", "other"), [("vgg19", "vgg16"), ("vgg16", "vgg19")])
def test_weights_of_another_network_are_refused(vgg, monkeypatch, network, other, kind):
    monkeypatch.setattr(networks.VGG, "build", lambda *args: pytest.fail("is built"))
    path = vgg[1] / f"{other}{kind}.h5"
    with pytest.raises(UserError, match=rf"{path.name}.* {network}"):
        networks.feature_extractor(network, ["block1_conv1"], weights=path)


@pytest.mark.parametrize(
    ("network", "there", "used"),
    [("small", True, "1"), ("vgg19", True, None), ("vgg19", False, "1")],
)
def test_onednn_where_it_is_faster(network, there, used, monkeypatch):
    """It is chosen before TensorFlow is asked for anything, and loaded by that."""
    seen = []

    def find_weights(name):
        if name == "vgg19" and not there:
            raise networks.WeightsUnavailable("there is no network")
        return f"{name}.h5"

    def best_precision():
        seen.append(os.environ.get("TF_ENABLE_ONEDNN_OPTS"))
        return "float32"

    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS")
    monkeypatch.setattr(networks, "find_weights", find_weights)
    monkeypatch.setattr(networks, "_compiled_extractor", lambda *_: None)
    monkeypatch.setattr(networks, "best_precision", best_precision)
    networks.load_network(nst.Settings(network=network))
    assert set(seen) == {used}


def test_the_bundled_network_has_other_layers(monkeypatch, caplog):
    """Where they are named it cannot stand in for VGG19."""

    def find_weights(network):
        raise networks.WeightsUnavailable("there is no network")

    monkeypatch.setattr(networks, "find_weights", find_weights)
    for layers in ({"content_layers": ["conv4_2"]}, {"style_layers": ["block1_conv1=2"]}):
        with pytest.raises(networks.WeightsUnavailable, match="there is no network"):
            networks.load_network(nst.Settings(network="vgg19", **layers))
    assert not caplog.records


def test_gradient_without_onednn(narrow, monkeypatch):
    """It is that of TensorFlow, computed in another way."""
    layers, image, found = ["block1_conv1", "block2_conv1"], batch(picture(40, 48)), []
    monkeypatch.setattr(tf, "gpus", list)
    for onednn in (True, False):
        monkeypatch.setattr(tf, "has_onednn", lambda onednn=onednn: onednn)
        extractor = networks.feature_extractor("narrow", layers, weights=narrow)

        def gradient(image, extractor=extractor):
            with tf.GradientTape() as tape:
                tape.watch(image)
                loss = tf.add_n([tf.reduce_sum(x**2) for x in extractor(image).values()])
            return tape.gradient(loss, image)

        compiled = tf.function(gradient).get_concrete_function(tf.constant(image))
        kinds = [x.type for x in compiled.graph.get_operations()]
        found.append((compiled(tf.constant(image)).numpy(), kinds))
    (expected, native), (value, other) = found
    np.testing.assert_allclose(value, expected, atol=1e-5 * np.abs(expected).max())
    counts = [kinds.count("Conv2DBackpropInput") for kinds in (native, other)]
    assert counts == [3, 1]  # the first layer has three channels only
    assert "ReverseV2" not in other  # the kernels are turned once, not at each evaluation


def test_what_is_called_for_several_layers_is_traced_once_for_each_shape():
    traced = []

    @networks.traced_once
    def double(x):
        traced.append(x.shape[-1])
        return 2 * x

    def total(*layers):
        with tf.GradientTape() as tape:
            tape.watch(layers)
            loss = tf.add_n([tf.reduce_sum(double(x)) for x in layers])
        return loss, tape.gradient(loss, layers)

    layers = [tf.ones([1, 2, 3, channels]) for channels in (4, 5, 4, 5, 4)]
    loss, gradients = networks.compiled(total)(*layers)
    assert traced == [4, 5]
    assert float(loss) == 2 * sum(tf.size(x).numpy() for x in layers)
    assert all((gradient.numpy() == 2).all() for gradient in gradients)
