"""The losses against independent NumPy in float64, and where they can be worked out by hand."""

import numpy as np
import pytest
from conftest import DISTANCES, EXACT, focus, gram, layout_distance, moments, total_variation

import nst
from nstlib import CannotGoOn, losses, networks, tf


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(0, 30, shape).astype(np.float32)


def close(value, expected):
    np.testing.assert_allclose(value, expected, rtol=2e-5, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 5), (7, 5, 3), (33, 17, 64), (1, 129, 31)])
def test_gram_matrix(shape, masked):
    arguments = [random(*shape)]
    if masked:
        arguments += [np.random.default_rng(1).uniform(0, 1, (*shape[:2], 1)).astype(np.float32)]
    value = losses.gram_matrix(*(tf.constant(x[None]) for x in arguments)).numpy()
    assert value.shape == (shape[-1], shape[-1])
    assert value.dtype == np.float32
    close(value, gram(*arguments))


def test_gram_matrix_by_hand():
    """Channels (1, 2, 3) and (0, 1, 0) over three positions."""
    features = np.float32([[[1, 0], [2, 1], [3, 0]]])
    expected = [[14 / 3, 2 / 3], [2 / 3, 1 / 3]]
    close(losses.gram_matrix(tf.constant(features[None])), np.array(expected))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_gram_matrix_of_half_precision(dtype):
    """Summed in float32: positions enough for a sum in half precision to lose most of them."""
    features = tf.cast(random(99, 101, 3)[None] / 30 + 1, dtype)
    value = losses.gram_matrix(features)
    assert value.dtype == tf.float32
    close(value, gram(tf.cast(features, tf.float32).numpy()[0]))


@pytest.fixture(params=["CPU", "GPU"])
def device(request, monkeypatch):
    monkeypatch.setattr(tf, "gpus", lambda: ["GPU"] * (request.param == "GPU"))


def test_sums_of_parts_add_up(device):
    """With a mask and without; and so do their gradients, for a picture that is seen in tiles."""
    features, mask = random(1, 9, 7, 4), np.random.default_rng(1).uniform(0, 1, (1, 9, 7, 1))
    for masks in ((), (tf.constant(mask, tf.float32),)):
        whole = losses.sums(tf.constant(features), *masks)
        cut = [slice(0, 4), slice(4, 9)]
        y = losses.row_coordinates(9)
        parts = [
            losses.sums(features[:, rows], masks[0][:, rows] if masks else None, y[:, rows])
            for rows in cut
        ]
        for one, of_parts in zip(whole, zip(*parts, strict=True), strict=True):
            assert one.dtype == tf.float32
            close(sum(of_parts), one.numpy())


@pytest.mark.parametrize("masked", [False, True])
def test_mean_and_covariance_of_sums(masked):
    """Under a mask T, those in which each position has the weight T²."""
    features = random(9, 7, 4) + 20
    mask = np.random.default_rng(1).uniform(0, 1, (9, 7, 1)) if masked else np.ones([9, 7, 1])
    arguments = [features, np.float32(mask)] if masked else [features]
    found = losses.sums(*(tf.constant(x[None]) for x in arguments))
    flat, weights = features.reshape(-1, 4), mask.ravel() ** 2
    mean = np.average(flat, axis=0, weights=weights)
    close(found.mean.numpy(), mean)
    covariance = np.cov(flat.T, aweights=weights, bias=True)
    close(found.covariance.numpy(), covariance)
    y = np.repeat(np.linspace(-1, 1, 9), 7)
    with_y = np.cov(flat.T, y, aweights=weights, bias=True)[:, -1]
    close(found.trend.numpy(), with_y[:-1] / np.sqrt(with_y[-1]))


def gradients(function, formula, *arguments):
    """Of a function and of a formula for the same, at each argument."""
    found = []
    for f in (function, formula):
        with tf.GradientTape() as tape:
            tape.watch(arguments)
            value = f(*arguments)
            # Weights of its own for each element: upstream gradients are not symmetric.
            weights = tf.constant(random(*value.shape))
            total = tf.reduce_sum(weights * value)
        found.append(tape.gradient(total, arguments))
    return zip(*found, strict=True)


@pytest.mark.parametrize("shape", [(1, 1, 1), (7, 5, 3), (33, 17, 8)])
@pytest.mark.parametrize("masked", [False, True])
def test_gradient_of_gram_matrix(shape, masked):
    def formula(features, mask=None):
        mask = tf.ones_like(features[..., :1]) if mask is None else mask
        flat = tf.reshape(features * mask, [-1, shape[-1]])
        return tf.matmul(flat, flat, transpose_a=True) / tf.reduce_sum(mask**2)

    arguments = [tf.constant(random(1, *shape))]
    if masked:
        mask = np.random.default_rng(1).uniform(0.1, 1, (1, *shape[:2], 1))
        arguments.append(tf.constant(mask, tf.float32))
    for value, expected in gradients(losses.gram_matrix, formula, *arguments):
        assert value.shape == expected.shape
        close(value, expected.numpy())


@pytest.mark.parametrize("shape", [(2, 2, 3), (5, 7, 3), (33, 16, 3)])
@pytest.mark.parametrize("compiled", [False, True])
def test_gradient_of_total_variation(shape, compiled):
    def formula(image):
        down, across = image[:, 1:] - image[:, :-1], image[:, :, 1:] - image[:, :, :-1]
        return tf.reduce_mean(down**2) + tf.reduce_mean(across**2)

    function = losses.total_variation_loss
    if compiled:
        signature = [tf.TensorSpec([1, None, None, 3], tf.float32)]
        function = tf.function(function, input_signature=signature)
    image = tf.constant(random(1, *shape))
    ((value, expected),) = gradients(function, formula, image)
    close(value, expected.numpy())


@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 7, 3), (17, 33, 8)])
def test_content_loss(shape):
    features, target = random(*shape), random(*shape, seed=1)
    value = losses.content_loss(tf.constant(features[None]), tf.constant(target[None]))
    assert value.shape == ()
    close(value, np.mean((np.float64(features) - target) ** 2))
    assert losses.content_loss(tf.constant(features[None]), tf.constant(features[None])) == 0


@pytest.mark.parametrize("network", ["vgg19", "small"])
def test_content_focus(network):
    contrast = networks.NETWORKS[network].contrast
    photograph = 5 * random(30, 41, 3, seed=2)
    photograph[:, :20] = photograph[0, 0]
    for strength in (0, 0.25, 1):
        settings = nst.Settings(network=network, content_focus=strength)
        found = losses.content_focus(settings, tf.constant(photograph[None]), (15, 20))
        close(found[0], focus(photograph, 15, 20, strength, contrast))
    shares = found.numpy() / found.numpy().mean()
    assert shares[0, :, :6].max() < 0.2 < 1 < shares[0, :, 13:].min()
    features, target = random(1, 15, 20, 8), random(1, 15, 20, 8, seed=1)
    value = losses.content_loss(tf.constant(features), tf.constant(target), found)
    close(value, np.mean(found.numpy() * (np.float64(features) - target) ** 2))


@pytest.mark.parametrize("value", [0, 128, 255])
def test_a_flat_photograph_counts_alike_everywhere(value):
    photograph = tf.fill([1, 24, 32, 3], np.float32(value))
    settings = nst.Settings(content_focus=1.0)
    close(losses.content_focus(settings, photograph, (12, 16)), np.ones([1, 12, 16, 1]))


@pytest.mark.parametrize(("network", "times"), [("vgg19", 1), ("small", 4)])
def test_content_counts_as_much_in_a_pale_photograph(network, times):
    """Squared differences are a quarter where the contrast is a half."""
    settings = nst.Settings(network=network).resolved()
    photographs = random(1, 30, 40, 3), random(1, 30, 40, 3) / 2
    vivid, pale = (losses.content_focus(settings, x, (30, 40)) for x in photographs)
    close(pale, times * vivid.numpy())


def test_content_loss_by_hand():
    features, target = np.float32([[[[1, 2], [3, 4]]]]), np.float32([[[[1, 0], [6, 4]]]])
    assert losses.content_loss(tf.constant(features), tf.constant(target)) == (4 + 9) / 4


def test_style_loss_by_hand():
    one, other = np.float32([[1, 2], [2, 5]]), np.float32([[1, 0], [0, 8]])
    assert losses.style_loss(tf.constant(one), tf.constant(other)) == (4 + 4 + 9) / 4


# Style losses by name, of the sums of two activations


def activation(*shape, seed):
    """What is rectified and varies more in some directions than in others."""
    mixing = np.random.default_rng(seed).uniform(-1, 1, (shape[-1], shape[-1]))
    return np.maximum(random(*shape, seed=seed) @ mixing + 20, 0)


FORMULAS = {**DISTANCES, "layout": layout_distance}
FUNCTIONS = {**losses.STYLE_LOSSES, "layout": losses.layout_distance}


def compared(name, found, wanted, *mask):
    """(loss, its gradient by the first activation), under a mask of it."""
    found = tf.constant(found[None])
    with tf.GradientTape() as tape:
        tape.watch(found)
        sums = losses.sums(found, *(tf.constant(np.float32(x[None])) for x in mask))
        loss = FUNCTIONS[name](sums, losses.sums(tf.constant(wanted[None])))
    return float(loss), tape.gradient(loss, found).numpy()[0]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("channels", [1, 5, 48])
@pytest.mark.parametrize("name", FORMULAS)
def test_distances_and_their_gradients(name, channels, masked):
    """Against the formula in float64 and its central differences."""
    found, wanted = activation(17, 13, channels, seed=1), activation(11, 19, channels, seed=2)
    mask = [np.random.default_rng(3).uniform(0, 1, (17, 13, 1))] if masked else []

    def expected(features):
        return FORMULAS[name](moments(features, *mask), moments(wanted))

    loss, gradient = compared(name, found, wanted, *mask)
    assert loss == pytest.approx(expected(found), rel=EXACT[name])
    assert gradient.shape == found.shape
    rng, found = np.random.default_rng(4), np.float64(found)
    for direction in (gradient / np.abs(gradient).max(), rng.normal(size=found.shape)):
        slope = (expected(found + 1e-3 * direction) - expected(found - 1e-3 * direction)) / 2e-3
        scale = np.linalg.norm(gradient) * np.linalg.norm(direction)
        assert np.sum(gradient * direction) == pytest.approx(slope, abs=EXACT[name] * scale)


@pytest.mark.parametrize("name", DISTANCES)
def test_distances_of_fewer_positions_than_channels(name):
    """Where most directions have but what `_regular` adds to them."""
    found, wanted = activation(7, 1, 48, seed=1), activation(9, 1, 48, seed=2)
    expected = DISTANCES[name](moments(found), moments(wanted))
    assert compared(name, found, wanted)[0] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("layout", [0, 0.5])
@pytest.mark.parametrize("name", DISTANCES)
def test_blends_and_masks(name, layout, masked):
    """Two styles, of 1 and 3 parts, of a layer of weight 2."""

    def distance(found, wanted):
        return DISTANCES[name](found, wanted) + layout * layout_distance(found, wanted)

    found, one, other = (activation(17, 13, 5, seed=seed) for seed in range(3))
    masks = np.random.default_rng(3).uniform(0, 1, (2, 17, 13, 1)) if masked else ()
    guides = [tf.constant(np.float32(mask[None])) for mask in masks]
    samples = [losses.sums(tf.constant(x[None])) for x in (one, other)]
    wanted = losses.wanted_sums(samples, [1, 3], guides, 2.0)
    sums = [losses.sums(tf.constant(found[None]), *target.mask) for target in wanted]
    settings = nst.Settings(style_loss=name, style_layout=layout).resolved()
    loss = losses.layer_style_loss(settings, sums, wanted)
    shares, targets = (0.25, 0.75), [moments(one), moments(other)]
    if masked:
        expected = sum(
            2 * 2 * share * np.mean(mask**2) * distance(moments(found, mask), target)
            for share, mask, target in zip(shares, masks, targets, strict=True)
        )
    else:
        mixed = [0.25 * x + 0.75 * y for x, y in zip(*targets, strict=True)]
        expected = 2 * distance(moments(found), mixed)
    assert float(loss) == pytest.approx(expected, rel=EXACT[name])


def test_layers_of_as_many_channels_are_compared_at_once(monkeypatch):
    """And the loss is the weighted mean of the layers', each by itself."""
    settings = nst.Settings(network="small").resolved()
    weights = networks.layer_weights("small", settings.style_layers)
    found, wanted = {}, {}
    for number, layer in enumerate(weights):
        channels = 5 if layer.endswith("1") else 7
        one, other = (activation(9, 8, channels, seed=2 * number + k)[None] for k in range(2))
        found[layer] = [losses.sums(tf.constant(one))]
        wanted[layer] = losses.wanted_sums([losses.sums(tf.constant(other))], [1], (), 1 + number)
    each = {x: losses.layer_style_loss(settings, found[x], wanted[x]) for x in weights}
    expected = sum(weights[x] * float(each[x]) for x in weights) / sum(weights.values())
    compare, shapes = losses.STYLE_LOSSES["wasserstein"], []

    def counted(one, other):
        shapes.append(tuple(one.products.shape))
        return compare(one, other)

    monkeypatch.setitem(losses.STYLE_LOSSES, "wasserstein", counted)
    loss = losses.weighted_style_loss(settings, found, wanted)
    assert sorted(shapes) == [(5, 5, 5), (5, 7, 7)]
    assert float(loss) == pytest.approx(settings.style_weight * expected, rel=1e-5)


@pytest.mark.parametrize("name", ["covariance", "wasserstein"])
def test_distances_by_hand(name):
    """Of one channel: mean 3 and deviation 4 to mean 1 and deviation 2."""
    found, wanted = np.float32([[[-1], [7]]]), np.float32([[[-1], [3]]])
    hand = {"covariance": ((16 - 4) ** 2 / 4**2 + 2**2 / 4) / 2, "wasserstein": (2**2 + 2**2) / 4}
    assert compared(name, found, wanted)[0] == pytest.approx(2.5e8 * hand[name], rel=1e-3)


@pytest.mark.parametrize("name", DISTANCES)
def test_distance_of_the_same(name):
    """Whatever the order of the positions and their number: next to nothing, and less than that of
    what is a little different."""
    wanted = activation(11, 19, 16, seed=2)
    found = np.tile(np.random.default_rng(0).permutation(wanted, axis=0), (2, 1, 1))
    near, far = (compared(name, x, wanted)[0] for x in (found, 1.3 * found))
    assert abs(near) < (0.05 if name == "wasserstein" else 1e-4) * far


@pytest.mark.parametrize("name", FORMULAS)
def test_distances_where_nothing_varies(name):
    """Of a style of one colour, and of a picture of one: no division by zero, and a way out."""
    flat, varied = np.full([9, 8, 6], 7, np.float32), activation(9, 8, 6, seed=1)
    for found, wanted in ((varied, flat), (flat, varied), (flat, flat), (0 * flat, 0 * flat)):
        loss, gradient = compared(name, found, wanted)
        assert np.isfinite(loss)
        assert np.isfinite(gradient).all()
        assert loss >= -1e-3 * 2.5e8
    assert compared(name, varied, flat)[0] > 100 * abs(compared(name, flat, flat)[0])


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_distances_of_what_is_not_finite(name, value):
    """They are no numbers either, which `check_finite` sees."""
    found, wanted = activation(9, 8, 6, seed=1), activation(9, 8, 6, seed=2)
    found[3, 4, 5] = value
    assert not np.isfinite(compared(name, found, wanted)[0])


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("contrast", [1e-2, 1e-3, 1e-4, 1e-5])
def test_distances_where_little_varies(name, contrast):
    """About a large mean, where float32 leaves little of a covariance."""
    varied = activation(19, 18, 32, seed=1)
    faint = 20 + np.float32(contrast) * varied
    for found, wanted in ((varied, faint), (faint, varied), (faint, faint)):
        loss, gradient = compared(name, found, wanted)
        assert np.isfinite(loss)
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize("name", FORMULAS)
def test_distances_of_half_precision(name):
    """As exact as the activations are: their sums are made in float32."""
    found, wanted = (activation(31, 33, 12, seed=seed) for seed in (1, 2))
    with tf.GradientTape() as tape:
        half = tf.cast(found[None], "bfloat16")
        tape.watch(half)
        loss = FUNCTIONS[name](losses.sums(half), losses.sums(tf.constant(wanted[None])))
    gradient = tape.gradient(loss, half)
    assert (loss.dtype, gradient.dtype) == ("float32", "bfloat16")
    rounded = tf.cast(half, "float32").numpy()[0]
    exact = FORMULAS[name](moments(rounded), moments(wanted))
    assert float(loss) == pytest.approx(exact, rel=EXACT[name])
    _, expected = compared(name, rounded, wanted)
    difference = tf.cast(gradient, "float32").numpy()[0] - expected
    assert np.linalg.norm(difference) < 0.02 * np.linalg.norm(expected)


@pytest.mark.parametrize("shape", [(2, 2, 3), (5, 7, 3), (33, 16, 3)])
def test_total_variation_loss(shape):
    image = random(*shape)
    value = losses.total_variation_loss(tf.constant(image[None]))
    assert value.shape == ()
    close(value, total_variation(image))


def test_total_variation_loss_by_hand():
    """Two rows of three grey pixels; rows and columns are averaged apart."""
    image = np.float32([[0, 1, 3], [2, 1, 3]])[..., None].repeat(3, axis=2)
    expected = (4 + 0 + 0) / 3 + (1 + 4 + 1 + 4) / 4
    close(losses.total_variation_loss(tf.constant(image[None])), np.float64(expected))
    flat = tf.fill([1, 5, 4, 3], 99.0)
    assert losses.total_variation_loss(flat) == 0


@pytest.mark.parametrize(
    ("found", "previous", "suspect"),
    [
        ((np.inf, 1.0, 2.0), (0, 9, 1), "content"),
        ((np.nan, np.inf, 2.0), None, "style"),
        ((np.nan, np.nan, np.nan), (0, 1, 9), "tv"),
    ],
)
def test_the_loss_that_overflows_is_named(found, previous, suspect):
    def named(values, total):
        names = "total", "content", "style", "tv"
        return values and dict(zip(names, (total, *values), strict=True))

    with pytest.raises(CannotGoOn, match=f"lower --{suspect}_weight or "):
        losses.check_finite(named(found, np.nan), named(previous, 10))


@pytest.mark.parametrize("masked", [False, True])
def test_sums_of_millions_of_positions(masked, device):
    """As exact as those of few: a covariance keeps its smallest eigenvalues."""
    rng = np.random.default_rng(0)
    features = rng.uniform(0, 1, [1, 1500, 1501, 4]).astype(np.float32) + np.float32(30)
    features[..., 3] = features[..., 0] + 0.01 * features[..., 3]
    mask = np.full([1, 1500, 1501, 1], 0.6 if masked else 1.0, np.float32)
    compiled = tf.function(losses.sums.__wrapped__)
    found = compiled(tf.constant(features), tf.constant(mask) if masked else None)
    gram, mean, moment, of_y = moments(features[0])
    count = mask.astype(np.float64).ravel() @ mask.ravel()
    np.testing.assert_allclose(found.count, count, rtol=2e-6)
    np.testing.assert_allclose(found.products / count, gram, rtol=2e-6)
    np.testing.assert_allclose(found.totals / count, mean, rtol=2e-6)
    np.testing.assert_allclose(found.moments / count, moment, atol=1e-5)
    np.testing.assert_allclose(found.coordinates / count, of_y, atol=1e-6)
