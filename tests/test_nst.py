"""The library: settings, the objective and its gradient, the best image, stylize."""

import dataclasses
import math
import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from conftest import (
    EXACT,
    LAYERS,
    batch,
    framed,
    picture,
    quick,
    style_distance,
    total_variation,
    weighted_losses,
)
from PIL import Image

import nst
from nstlib import (
    UserError,
    __version__,
    images,
    losses,
    memory,
    networks,
    scales,
    sources,
    tf,
    tiles,
)
from nstlib.optimizers import OPTIMIZERS

CONTENT, STYLE, OTHER_STYLE = picture(32, 40), picture(40, 32, 1), picture(32, 32, 2)
SMALL = networks.NETWORKS["small"]


def balanced(small, **changes):
    """Options under which each loss has the same effect, whatever the network."""
    ones = quick(content_weight=1.0, style_weight=1.0, tv_weight=1.0, **changes).resolved()
    plain = weighted_losses(picture(32, 40, 3), CONTENT, [STYLE], ones, small)
    return {f"{x}_weight": float(100 / plain[x]) for x in ("content", "style", "tv")} | changes


@pytest.fixture(scope="module")
def weights(small):
    return balanced(small)


# Settings


@pytest.mark.parametrize("network", networks.NETWORKS)
def test_resolved(network):
    """What nobody chose is the network's; what somebody chose stays."""
    settings, entry = nst.Settings(network=network).resolved(), networks.NETWORKS[network]
    own = "num_iter", "learning_rate", "tv_weight", "style_loss", "colors", "init_noise", "pooling"
    own += "content_focus", "style_layout"
    for name in own:
        assert getattr(settings, name) == getattr(entry, name), name
    for kind in ("content_layers", "style_layers"):
        found, wanted = (
            networks.layer_weights(network, getattr(x, kind)) for x in (settings, entry)
        )
        assert found == wanted
    layer = SMALL.layers[0] if network == "small" else "conv2_2"
    chosen = {"num_iter": 7, "learning_rate": 0.5, "style_loss": "covariance", "pooling": "avg"}
    chosen |= {"init_noise": 0.25, "content_layers": [layer], "style_layers": [f"{layer}=2"]}
    resolved = nst.Settings(network=network, **chosen).resolved()
    layer = networks.layer_name(network, layer)
    chosen |= {"content_layers": (layer,), "style_layers": (f"{layer}=2",)}
    assert {name: getattr(resolved, name) for name in chosen} == chosen
    assert resolved.resolved() == resolved


@pytest.mark.parametrize(
    ("size", "scales"), [(32, 1), (128, 1), (255, 1), (256, 2), (512, 3), (1024, 4), (1100, 4)]
)
def test_scales_start_at_128_or_more(size, scales):
    assert nst.Settings(size=size).resolved().scales == scales


@pytest.mark.parametrize(
    ("content", "style", "style_scale", "thinnest"),
    [
        ((60, 80), (50, 80), 1, 0.625),
        ((60, 80), (80, 40), 1, 0.5),
        ((20, 80), (80, 80), 1, 0.25),
        ((80, 80), (40, 80), 0.5, 0.25),
        ((80, 40), (20, 80), 4, 0.5),
    ],
)
def test_the_thinnest_image(content, style, style_scale, thinnest):
    settings = quick(size=80, style_scale=style_scale)
    found = sources.load_sources(picture(*content), [picture(*style)], settings)
    assert found.thinnest == thinnest


@pytest.mark.parametrize(
    ("settings", "thinnest", "plan"),
    [
        ({"size": 512, "num_iter": 1000}, 1, [(128, 333), (256, 333), (512, 334)]),
        ({"size": 512, "num_iter": 900, "scales": 1}, 1, [(512, 900)]),
        ({"size": 512, "num_iter": 10}, 0.5, [(128, 3), (256, 3), (512, 4)]),
        ({"size": 512, "num_iter": 10}, 0.1, [(512, 10)]),
        ({"size": 512, "num_iter": 10}, 0.2, [(256, 5), (512, 5)]),
        ({"size": 512, "num_iter": 10}, 0.04, [(512, 10)]),
        ({"size": 512, "num_iter": 2}, 1, [(256, 1), (512, 1)]),
        ({"size": 512, "num_iter": 1}, 1, [(512, 1)]),
        ({"size": 40, "num_iter": 7, "scales": 9}, 1, [(40, 7)]),
    ],
)
def test_plan_scales(settings, thinnest, plan):
    assert scales.plan_scales(nst.Settings(**settings).resolved(), thinnest) == plan


def test_a_scale_has_its_share(monkeypatch):
    monkeypatch.setattr(scales, "share", lambda size: 128 / size)
    chosen = nst.Settings(network="small", size=512, num_iter=73).resolved()
    assert scales.plan_scales(chosen, 1.0) == [(128, 41), (256, 21), (512, 11)]


# The objective


@pytest.fixture(
    scope="module", params=[("max", "gram"), ("avg", "covariance"), ("blur", "wasserstein")]
)
def objective(request, small):
    """Of two styles, at an image of its own; with all that makes it up."""
    pooling, style_loss = request.param
    layers = {"content_layers": ("level2_conv2", "level1_conv1")}
    layers["style_layers"] = ("level1_conv2", "level2_conv1")
    settings = quick(**balanced(small, pooling=pooling, style_loss=style_loss, **layers))
    settings, extractor = nst.load_network(settings)
    styles = [batch(STYLE), batch(OTHER_STYLE)]
    targets = nst.take_targets(extractor, settings, batch(CONTENT), styles)
    image = np.float64(picture(32, 40, 3))
    return partial(nst.make_objective(extractor, settings), targets), image, settings


def expected_losses(image, settings, small):
    return weighted_losses(image, CONTENT, [STYLE, OTHER_STYLE], settings, small)


def test_losses_equal_numpy(objective, small):
    """Weighted, averaged over layers, the styles' Gram matrices averaged, and summed."""
    objective, image, settings = objective
    parts, _ = objective(batch(image))
    expected = expected_losses(image, settings, small)
    assert parts.keys() == expected.keys()
    for name, value in parts.items():
        np.testing.assert_allclose(value, expected[name], rtol=3 * EXACT[settings.style_loss])
        assert expected[name] > 0.05 * expected["total"]  # each has its say


def test_gradient_equals_central_differences(objective, small):
    """Of the losses in NumPy, in directions where each of their terms counts."""
    objective, image, settings = objective
    gradient = objective(batch(image))[1].numpy()[0]
    assert gradient.shape == image.shape
    rng = np.random.default_rng(0)
    toward = np.float64(gradient) / np.abs(gradient).max()
    for direction in (
        toward,
        rng.normal(size=image.shape) + toward,
        np.ones_like(image),
        rng.normal(size=3) * np.ones_like(image),
        np.float64(CONTENT - image) / 100,
    ):
        step = 1e-5 * direction  # so short that it changes few of what ReLUs and maxima let through
        above, below = (
            expected_losses(image + sign * step, settings, small)["total"] for sign in (1, -1)
        )
        slope = np.sum(gradient * direction)
        scale = np.sqrt(np.sum(np.float64(gradient) ** 2) * np.sum(direction**2))
        exact = max(1e-3, 2 * EXACT[settings.style_loss])
        assert abs(slope - (above - below) / 2e-5) < exact * scale


@pytest.mark.parametrize(
    ("layers", "used"),
    [
        (
            ("level1_conv1=3", "level1_conv2", "level2_conv1"),
            {"level1_conv1": 3, "level1_conv2": 1},
        ),
        (("level2_conv2=3", "level2_conv1"), {"level2_conv2": 3, "level2_conv1": 1}),
    ],
)
def test_layers_of_few_positions_are_left_out(small, weights, layers, used):
    """The others have their share in the mean; where all are so small, none is left out."""
    settings, extractor = nst.load_network(quick(**weights | {"style_layers": layers}))
    targets = nst.take_targets(extractor, settings, batch(CONTENT), [batch(STYLE)])
    image = picture(32, 40, 3)
    parts, _ = nst.make_objective(extractor, settings)(targets, batch(image))
    full = dataclasses.replace(settings, style_layers=tuple(used))
    expected = weighted_losses(image, CONTENT, [STYLE], full, small, style_layers=used)
    np.testing.assert_allclose(parts["style"], expected["style"], rtol=EXACT["covariance"])


@pytest.mark.parametrize("left_out", ["content", "style", "tv"])
def test_weight_0_leaves_a_loss_out(left_out, small, weights):
    settings = quick(**{**weights, f"{left_out}_weight": 0.0})
    settings, extractor = nst.load_network(settings)
    if left_out == "style":
        assert list(extractor(batch(CONTENT))) == ["level1_conv2"]
    targets = nst.take_targets(extractor, settings, batch(CONTENT), [batch(STYLE)])
    image = picture(32, 40, 3)
    parts, gradient = nst.make_objective(extractor, settings)(targets, batch(image))
    expected = weighted_losses(image, CONTENT, [STYLE], settings, small)
    assert float(parts.get(left_out, 0)) == 0
    np.testing.assert_allclose(parts["total"], expected["total"], rtol=EXACT["covariance"])
    assert np.isfinite(gradient).all()


# The loop and its best image


@pytest.fixture
def run(monkeypatch):
    """Adam on a made-up objective, from a grey picture: its result, and (loss, mean grey level) at
    each step."""

    def run(objective, start, num_iter, rate, **changes):
        monkeypatch.setattr(nst, "make_objective", lambda *_: lambda _, image: objective(image))
        steps = []

        def on_step(step):
            image = step.tensor.numpy()
            assert 0 <= image.min() <= image.max() <= 255
            steps.append((step.losses["total"], float(image.mean())))

        settings = quick(num_iter=num_iter, learning_rate=rate, **{"size": 32, **changes})
        grey = np.full([32, 32, 3], start, np.uint8)
        return nst.stylize(grey, STYLE, settings, on_step), steps

    return run


def walk(loss):
    """An objective whose gradient is always 1: Adam darkens the image by its rate each step."""

    def objective(image):
        total = loss(tf.reduce_mean(image))
        return {"total": total, "content": total}, tf.ones_like(image)

    return objective


def test_best_image_is_the_one_of_lowest_loss(run):
    """The walk passes the minimum, at 100, on its way from 250 to 0."""
    result, steps = run(walk(lambda x: (x - 100) ** 2), 250, 30, 20.0)
    totals, levels = zip(*steps, strict=True)
    assert len(totals) == 31
    assert 0 < np.argmin(totals) < 20
    assert totals[-1] > 10 * min(totals)
    assert (result.image == round(levels[np.argmin(totals)])).all()
    assert result.best_losses["total"] == min(totals)
    assert levels[0] == 250
    np.testing.assert_allclose(totals, (np.array(levels) - 100) ** 2, rtol=1e-4, atol=1e-2)


def test_of_equals_the_last_is_the_best(run):
    result, steps = run(walk(lambda x: 0 * x + 1), 250, 5, 20.0)
    assert (result.image == round(steps[-1][1])).all()


def test_the_last_image_counts_too(run):
    result, steps = run(walk(lambda x: x), 250, 10, 5.0)
    totals = [total for total, _ in steps]
    assert totals == sorted(totals, reverse=True)
    assert (result.image == round(totals[-1])).all()
    falls = -np.diff(totals)  # the rate falls along half a cosine
    expected = 5 * (1 + np.cos(np.pi * np.arange(10) / 10)) / 2
    np.testing.assert_allclose(falls, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("start", "sign", "end"), [(20, 1, 0), (230, -1, 255)])
def test_pixels_stay_displayable(run, start, sign, end):
    def objective(image):
        total = sign * tf.reduce_mean(image)
        return {"total": total, "tv": total}, sign * tf.ones_like(image)

    result, steps = run(objective, start, 20, 30.0)
    assert (result.image == end).all()
    assert steps[-1][0] == sign * end


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_bad_loss_keeps_the_best_image(run, bad):
    result, steps = run(walk(lambda x: tf.where(x < 150, bad, x)), 250, 50, 20.0)
    assert isinstance(result.cut_short, UserError)
    assert "--content_weight" in str(result.cut_short)
    assert "--learning_rate" in str(result.cut_short)
    assert 2 < len(steps) < 50
    assert all(math.isfinite(total) for total, _ in steps)
    assert 150 <= result.image.mean() < 190
    assert (result.image == round(min(steps)[0])).all()


def exhausted():
    return tf.errors.ResourceExhaustedError(None, None, "out of memory")


def lack_memory(total):
    raise exhausted()


@pytest.mark.parametrize(
    ("fail", "advice"),
    [(lambda total: math.nan * total, "--learning_rate"), (lack_memory, "--size")],
)
def test_what_fails_in_the_second_scale_leaves_the_end_of_the_first(run, fail, advice):
    def objective(image):
        total = tf.reduce_mean(image)
        total = fail(total) if image.shape[2] > 76 else total
        return {"total": total, "content": total}, tf.ones_like(image)

    result, _ = run(objective, 250, 6, 5.0, scales=2, size=80)
    assert isinstance(result.cut_short, UserError)
    assert advice in str(result.cut_short)
    assert result.image.shape == (80, 80, 3)
    assert 200 < result.image.mean() < 250


@pytest.mark.parametrize("part", [math.nan, 3e38])  # two of these are infinite
def test_bad_loss_at_the_start_is_raised(run, part):
    def objective(image):
        total = tf.constant(part) + part
        return {"total": total, "content": total / 2, "style": total / 2}, tf.ones_like(image)

    with pytest.raises(UserError, match="--learning_rate"):
        run(objective, 250, 5, 1.0)


# stylize


@pytest.fixture(scope="module")
def painted():
    """A run of two scales, and what on_step saw of it."""
    steps = []

    def on_step(step):
        steps.append((step, step.image))

    content, styles = CONTENT.copy(), [STYLE.copy()]
    settings = quick(num_iter=12, scales=2, size=80, style_weight=1.0, learning_rate=10.0)
    result = nst.stylize(content, styles, settings, on_step)
    assert (content == CONTENT).all()
    assert len(styles) == 1
    assert (styles[0] == STYLE).all()
    return result, steps


def test_result(painted):
    result, _ = painted
    assert result.image.shape == (64, 80, 3)
    assert result.image.dtype == np.uint8
    assert result.cut_short is None
    assert set(result.losses) == {"total", "content", "style", "tv"}
    for name, history in result.losses.items():
        assert len(history) == 13, name
    parts = [result.losses[name] for name in ("content", "style", "tv")]
    np.testing.assert_allclose(np.sum(parts, axis=0), result.losses["total"], rtol=1e-5)


def test_result_tells_the_settings_that_were_used(painted):
    settings = painted[0].settings
    left = {x for x, value in dataclasses.asdict(settings).items() if value in (None, "auto")}
    assert left == {"weights", "style_blend", "mask"}
    assert settings.content_layers == ("level1_conv2",)
    assert settings.style_layers == LAYERS
    assert (settings.network, settings.pooling, settings.scales) == ("small", SMALL.pooling, 2)


def test_on_step_sees_every_iteration_once(painted):
    result, steps = painted
    assert [step.iteration for step, _ in steps] == list(range(13))
    assert [step.losses["total"] for step, _ in steps] == result.losses["total"]
    progress = [step.progress for step, _ in steps]
    assert progress[0] == 0
    assert progress[-1] == pytest.approx(1)
    assert (np.diff(progress) > 0).all()
    assert progress[6] == pytest.approx(1 / 5)  # a quarter of the pixels
    seconds = [step.seconds for step, _ in steps]
    assert seconds == sorted(seconds)
    shapes = [image.shape for _, image in steps]
    assert shapes[:6] == [(32, 40, 3)] * 6
    assert shapes[7:] == [(64, 80, 3)] * 6


def test_a_scale_carries_over_what_the_one_before_changed(monkeypatch):
    """A patch painted at the small scale is there at the large one, whose own detail is kept."""
    content = picture(64, 80)
    content[:32:2] = 100  # rows too fine for half the size
    content[1:32:2] = 140
    starts = []

    def paint(objective, start, settings, num_iter, report):
        report(0, {"total": 2.0}, start)
        starts.append(scales.without_margin(start))
        changed = start.numpy()
        changed[:, 32:48, 20:36] = 200
        report(1, {"total": 1.0}, tf.constant(changed))

    monkeypatch.setattr(nst, "minimize", paint)
    result = nst.stylize(content, STYLE, quick(scales=2, size=80))
    small, large = starts
    assert np.abs(small - images.resize(content, 32, 40)).max() < 0.01
    assert np.abs(large[:20] - content[:20]).max() < 0.01
    painted = large[36:60, 12:36].mean() - content[36:60, 12:36].mean()
    assert painted == pytest.approx(200 - small[16:32, 4:20].mean(), abs=15)
    assert (result.image[:16] == content[:16]).all()


def test_style_comes_nearer(painted, small):
    before, after = (
        style_distance(image, images.load(STYLE, 80), small)
        for image in (images.load(CONTENT, 80), painted[0].image)
    )
    assert after < 0.7 * before


def test_step_shows_the_image_of_its_losses(small, weights):
    steps = []

    def on_step(step):
        steps.append((step.losses["total"], step.image, step.tensor.numpy()[0]))

    result = nst.stylize(CONTENT, STYLE, quick(**weights), on_step)
    assert (steps[0][1] == CONTENT).all()
    for total, image, exact in steps:
        assert np.abs(scales.without_margin(exact[None]) - image).max() < 0.51
        style = images.load(STYLE, 40)
        expected = weighted_losses(exact, framed(CONTENT), [style], result.settings, small)
        assert total == pytest.approx(expected["total"], rel=EXACT["covariance"])


def test_paths_and_arrays_are_the_same(tmp_path):
    for name, image in (("content", CONTENT), ("style", STYLE)):
        images.save(tmp_path / f"{name}.png", image)
    expected = nst.stylize(CONTENT, STYLE, quick()).image
    content, style = tmp_path / "content.png", tmp_path / "style.png"
    for arguments in ((content, style), (str(content), [str(style)]), (CONTENT, [style, STYLE])):
        assert (nst.stylize(*arguments, quick()).image == expected).all()


def test_no_style():
    with pytest.raises(UserError, match="style"):
        nst.stylize(CONTENT, [], quick())


def test_same_seed_same_picture():
    one, same, other = (
        nst.stylize(CONTENT, STYLE, quick(init="noise", seed=seed)).image for seed in (7, 7, 8)
    )
    assert (one == same).all()
    assert np.abs(one.astype(float) - other).mean() > 10


@pytest.fixture
def start(monkeypatch):
    """The image a run starts from."""

    def minimize(objective, image, settings, num_iter, report):
        report(0, {"total": 1.0}, image)

    def start(init, **changes):
        settings = quick(init=str(init), **changes)
        return nst.stylize(CONTENT, STYLE, settings).image.astype(float)

    monkeypatch.setattr(nst, "minimize", minimize)
    return start


def test_init(tmp_path, start):
    assert (start("content") == CONTENT).all()
    style = images.resize(images.load(STYLE), 32, 40)
    assert np.abs(start("style") - style).mean() < 3
    noise = start("noise")
    assert noise.std() > 60
    assert total_variation(noise) == pytest.approx(2 * 2 * noise.var(), rel=0.1)
    images.save(tmp_path / "own.png", OTHER_STYLE)
    assert np.abs(start(tmp_path / "own.png") - images.resize(OTHER_STYLE, 32, 40)).max() <= 1
    with pytest.raises(UserError, match=r"cannot read .*gone\.png"):
        start(tmp_path / "gone.png")


def test_noise_that_the_network_wants(tmp_path, start):
    """On the photograph alone: another picture is begun with as it is."""
    images.save(tmp_path / "own.png", OTHER_STYLE)
    for init in ("content", "style", "noise", tmp_path / "own.png"):
        share = SMALL.init_noise if init == "content" else 0
        noise = start(init, init_noise=None) - (1 - share) * start(init)
        assert noise.std() == pytest.approx(255 / np.sqrt(12) * share, rel=0.05), init


@pytest.mark.parametrize("shape", [(10, 333), (417, 7)])
def test_too_thin(shape):
    """The sentence names the least size that works; and it does."""
    image, size = picture(*shape), 100
    for arguments in ((image, STYLE), (CONTENT, image)):
        with pytest.raises(UserError, match="--size") as error:
            nst.stylize(*arguments, quick(size=size))
    needed = int(str(error.value).rpartition(" ")[2])
    result = nst.stylize(image, STYLE, quick(num_iter=1, size=needed))
    assert max(result.image.shape) == needed


# Runs that end early


def interrupted(at, action, **changes):
    """A run of two scales of three iterations, with an action at one of them."""

    def on_step(step):
        if step.iteration == at:
            return action()
        return None

    settings = quick(**{"num_iter": 6, "scales": 2, "size": 80, **changes})
    return nst.stylize(CONTENT, STYLE, settings, on_step)


def test_false_of_numpy_ends_a_run():
    assert len(interrupted(2, lambda: np.False_).losses["total"]) == 3
    assert len(interrupted(2, lambda: 0).losses["total"]) == 7


def test_what_is_done_to_the_losses_of_a_step():
    """It is done to a copy."""
    expected = interrupted(9, dict).losses
    settings = quick(num_iter=6, scales=2, size=80)
    result = nst.stylize(CONTENT, STYLE, settings, lambda step: step.losses.clear())
    assert result.losses == expected


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ({"num_iter": np.int64(3)}, 3),
        ({"size": 64.0}, 64),
        ({"style_weight": np.float32(0.5)}, 0.5),
        ({"content_weight": 7}, 7.0),
        ({"style_blend": np.array([1, 2])}, (1.0, 2.0)),
        ({"style_blend": 5}, (5.0,)),
        ({"mask": "m.png"}, ("m.png",)),
        ({"mask": [Path("m.png")]}, ("m.png",)),
        ({"init": Path("m.png")}, "m.png"),
        ({"content_layers": "level3_conv2"}, ("level3_conv2",)),
        ({"scales": np.int8(2)}, 2),
    ],
)
def test_settings_are_kept_as_the_command_line_gives_them(value, kept):
    (name,) = value
    found = getattr(nst.Settings(**{"network": "small", **value}), name)
    assert (found, type(found)) == (kept, type(kept))
    for number in found if isinstance(found, tuple) else (found,):
        assert type(number) in (int, float, str)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({"size": "384"}, "--size must be a whole number, not '384'"),
        ({"size": 100.5}, "--size must be a whole number, not 100.5"),
        ({"size": math.inf}, "--size must be a whole number, not inf"),
        ({"seed": None}, "--seed must be a whole number, not None"),
        ({"content_weight": "much"}, "--content_weight must be a number, not 'much'"),
        ({"style_blend": "3,7"}, "--style_blend must be a number, not '3,7'"),
        ({"mask": [np.zeros([4, 4])]}, "--mask must be text, not ndarray"),
        ({"init": np.zeros([4, 4, 3])}, "--init must be text, not ndarray"),
        ({"mask": object()}, "--mask must be text, not object"),
        ({"scales": "three"}, "--scales must be auto or 1 to 20, not three"),
        ({"scales": None}, "--scales must be a whole number or text, not None"),
    ],
)
def test_settings_that_are_of_another_kind(value, told):
    with pytest.raises(UserError) as error:
        nst.Settings(**value)
    assert str(error.value) == told


@pytest.mark.parametrize("tile", ["some", None, 10, 100.5, -1])
def test_tiles_of_no_size(tile):
    with pytest.raises(UserError, match="--tile must be auto, 0, or at least 64 pixels"):
        nst.stylize(CONTENT, STYLE, quick(), tile=tile)


def test_kinds_of_pictures(tmp_path):
    images.save(tmp_path / "style.png", STYLE)
    expected = nst.stylize(CONTENT, STYLE, quick(num_iter=1)).image
    (entry,) = os.scandir(tmp_path)
    for styles in (entry, iter([entry]), (x for x in [STYLE])):
        assert (nst.stylize(CONTENT, styles, quick(num_iter=1)).image == expected).all()
    for content, styles in ((Image.fromarray(CONTENT), STYLE), (CONTENT, Image.fromarray(STYLE))):
        with pytest.raises(UserError, match="by its path or as an array, not as Image"):
            nst.stylize(content, styles, quick())


@pytest.mark.parametrize("depth", [12, 0, "16", None])
def test_depths_that_no_file_has(painted, tmp_path, depth):
    result, _ = painted
    with pytest.raises(UserError, match="--depth must be one of 8, 16, not"):
        result.save(tmp_path / "x.png", depth=depth)
    assert not any(tmp_path.iterdir())


def press_ctrl_c():
    raise KeyboardInterrupt


@pytest.mark.parametrize("at", [0, 3, 5])
@pytest.mark.parametrize("action", [press_ctrl_c, lambda: False])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_early_end_gives_the_best_image(at, action, optimizer):
    steps = []

    def act(step):
        steps.append(step)
        return action() if step.iteration == at else None

    settings = quick(num_iter=6, scales=2, size=80, optimizer=optimizer)
    result = nst.stylize(CONTENT, STYLE, settings, act)
    assert len(result.losses["total"]) == at + 1
    assert isinstance(result.cut_short, KeyboardInterrupt if action is press_ctrl_c else type(None))
    of_scale = [x for x in steps if x.tensor.shape == steps[-1].tensor.shape]
    best = min(of_scale, key=lambda step: step.losses["total"])
    image = scales.without_margin(best.tensor)
    if at <= 3:  # its changes, on the photograph at full size
        photograph = images.load(CONTENT, 80)
        base = images.resize(images.resize(photograph, 32, 40), 64, 80)
        image = np.clip(photograph + images.resize(image, 64, 80) - base, 0, 255)
    assert result.image.shape == (64, 80, 3)
    assert np.abs(result.image - image).max() < 0.51


class Trace:
    """Counts the lines that run of nst.py and scales.py, and raises an error at one of them."""

    def __init__(self, number=None, error=None):
        self.number, self.error, self.count = number, error, 0

    def __enter__(self):
        self.before = sys.gettrace()
        sys.settrace(lambda frame, *_: self if frame.f_code.co_filename in WATCHED else None)
        return self

    def __call__(self, frame, event, argument):
        if event == "line":
            self.count += 1
            if self.count == self.number:
                sys.settrace(None)
                raise self.error
        return self

    def __exit__(self, *_):
        sys.settrace(self.before)


WATCHED = {nst.__file__, scales.__file__}


@pytest.mark.parametrize("make_error", [KeyboardInterrupt, MemoryError, exhausted])
def test_an_error_at_any_place_costs_no_picture(monkeypatch, make_error):
    """Before there is one, it comes out as it was; from then on, the result is one of the pictures
    that a whole run sees."""

    def descend(evaluate, image, *_):
        while True:
            image = tf.clip_by_value(image - evaluate(image)[1] / 9, 0, 255)

    monkeypatch.setitem(OPTIMIZERS, "descent", descend)
    settings = quick(num_iter=2, scales=2, size=80, optimizer="descent", init="noise")
    content = picture(64, 80)
    steps = []

    def objective(_, image):  # another for each image, and soon evaluated
        total = tf.reduce_mean((image - 99) ** 2)
        return {"total": total, "tv": total}, 2 * (image - 99)

    monkeypatch.setattr(nst, "make_objective", lambda *_: objective)
    monkeypatch.setattr(nst, "take_targets", lambda *_: {})

    def run(**trace):
        steps.clear()
        with Trace(**trace) as traced:
            return nst.stylize(content, content[:, :64], settings, steps.append), traced.count

    def walk():
        run()
        _, places = run()
        assert places > 100
        pictures = [step.picture() for step in steps]
        for number in range(1, places + 1):
            error, raised = make_error(), None
            try:
                result, _ = run(number=number, error=error)
            except (type(error), UserError) as reason:
                raised = reason
            if raised:
                assert error in (raised, raised.__cause__)
                assert not steps, number
                continue
            assert result.image.shape == (64, 80, 3)
            if make_error is KeyboardInterrupt:
                assert isinstance(result.cut_short, KeyboardInterrupt)
            else:
                assert str(result.cut_short) == memory.LACK
            assert len({len(history) for history in result.losses.values()}) == 1
            assert any((result.image == picture).all() for picture in pictures), number

    # An error that is raised where an `except` or a `with` is just left stays the context of all
    # later ones of its thread [CPython 3.11]: so the walk has a thread of its own.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(walk).result()
    assert sys.exc_info() == (None, None, None)


def test_a_step_that_is_kept_stays_what_it_was():
    steps = []

    def on_step(step):
        steps.append((step, step.image, step.picture()))

    nst.stylize(CONTENT, STYLE, quick(num_iter=6, scales=2, size=80, init="noise"), on_step)
    for step, image, result in steps:
        assert (step.image == image).all()
        assert (step.picture() == result).all()


@pytest.mark.parametrize("error", [StopIteration, UserError, ZeroDivisionError])
def test_what_on_step_raises_comes_out(error):
    def fail():
        raise error

    with pytest.raises(error):
        interrupted(1, fail)


def test_ctrl_c_before_the_first_image_is_raised(monkeypatch):
    monkeypatch.setattr(nst, "make_objective", lambda *args: press_ctrl_c())
    with pytest.raises(KeyboardInterrupt):
        nst.stylize(CONTENT, STYLE, quick())


# Loaded networks


def test_a_loaded_network_is_used(monkeypatch):
    network = nst.load_network(quick(pooling="max"))
    monkeypatch.setattr(networks, "load_network", lambda _: pytest.fail("is loaded again"))
    monkeypatch.setattr(nst, "load_network", lambda _: pytest.fail("is loaded again"))
    result = nst.stylize(CONTENT, STYLE, quick(pooling="max", num_iter=1), network=network)
    assert result.settings.pooling == "max"
    for changes, word in (
        ({"pooling": "avg"}, "--pooling max, not avg"),
        ({"pooling": "max", "style_layers": ("level1_conv2",)}, None),
        ({"pooling": "max", "style_layers": ("level5_conv2",)}, "without level5_conv2"),
    ):
        if word is None:
            nst.stylize(CONTENT, STYLE, quick(num_iter=1, **changes), network=network)
            continue
        with pytest.raises(UserError, match=word):
            nst.stylize(CONTENT, STYLE, quick(**changes), network=network)


def test_many_pictures_read_build_and_trace_once(monkeypatch):
    calls = []

    def count(owner, name):
        function = getattr(owner, name)

        def counted(*args):
            calls.append(name)
            return function(*args)

        monkeypatch.setattr(owner, name, counted)

    count(networks, "read_weights")
    count(losses, "total_variation_loss")
    networks._compiled_extractor.cache_clear()
    nst.make_objective.cache_clear()
    for content in (CONTENT, picture(40, 33), picture(64, 64)):
        for style in (STYLE, OTHER_STYLE):
            nst.stylize(content, style, quick(num_iter=2, size=72, scales=2))
    assert sorted(calls) == ["read_weights", "total_variation_loss"]


def test_weights_that_have_changed_are_read_again(tmp_path):
    path = tmp_path / "own.h5"
    shutil.copy(networks.find_weights("small"), path)
    settings = quick(weights=str(path))
    first = nst.load_network(settings)
    assert nst.load_network(settings).extractor is first.extractor
    functions = tiles._functions(first.settings, None)
    assert tiles._functions(first.settings, None) is functions
    os.utime(path, (0, 0))
    assert nst.load_network(settings).extractor is not first.extractor
    assert tiles._functions(first.settings, None) is not functions


# The version

# Of each version: the total loss of `test_the_losses_of_a_version`, at each iteration.
CURVES = {
    "1.1.0.dev0": [
        *(482335.8, 245198.7, 179163.8, 158712.9, 151551.9),
        *(143040.2, 116061.4, 104409.7, 100775.4),
    ]
}


def test_the_losses_of_a_version():
    """A picture says by which version it was made, and --show that this version makes it again:
    when this curve changes, so does the version."""
    own = dict.fromkeys(("style_loss", "style_layers", "content_layers", "colors", "init_noise"))
    settings = quick(num_iter=8, scales=2, size=80, **own)
    result = nst.stylize(CONTENT, STYLE, settings)
    assert result.losses["total"] == pytest.approx(CURVES[__version__], rel=1e-4)


def test_help_explains_every_setting():
    for field in dataclasses.fields(nst.Settings):
        assert f"{field.name}: " in nst.Settings.__doc__
        assert field.metadata["help"] in nst.Settings.__doc__


def test_a_start_image_that_is_enlarged_is_told(tmp_path, caplog):
    path = tmp_path / "init.png"
    images.save(path, picture(20, 30))
    settings = nst.Settings(init=str(path), size=60, network="small")
    sources.load_sources(picture(40, 60), [picture(40, 60)], settings)
    told = f"{path} has only 30 x 20 pixels: it is enlarged to 60 x 40 (--size)"
    assert caplog.messages == [told]
