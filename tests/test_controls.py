"""What each option changes, measured against independent NumPy: styles blended and masked, colours,
strokes, layers' weights, where to start, optimizers and when to stop, precision."""

from functools import partial

import conftest
import numpy as np
import pytest
from conftest import (
    EXACT,
    framed,
    picture,
    style_distance,
    total_variation,
    weighted_losses,
)
from PIL import Image

import nst
from nstlib import UserError, colors, images, scales, sources, tf

CONTENT, STYLE, OTHER_STYLE = picture(35, 49), picture(49, 40, 1), picture(44, 49, 2)
# With the bundled network and the pictures of these tests each loss then has its say.
WEIGHTS = {"content_weight": 1e4, "style_weight": 1e-3, "tv_weight": 3e1}


quick = partial(conftest.quick, size=49, **WEIGHTS)
SETTINGS = quick().resolved()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The path of a picture, saved losslessly."""
    folder = tmp_path_factory.mktemp("pictures")

    def save(image, name):
        images.save(folder / f"{name}.png", image)
        return str(folder / f"{name}.png")

    return save


@pytest.fixture(scope="module")
def start(saved):
    """The file of a picture that is neither content nor style."""
    return saved(picture(35, 49, 3), "start")


def watched(content=CONTENT, styles=STYLE, last=None, **changes):
    """A run and its steps as (losses, image [H, W, 3] with its margin), ended after `last`."""
    steps = []

    def on_step(step):
        steps.append((step.losses, np.float64(step.tensor)[0]))
        return step.iteration != last

    return nst.stylize(content, styles, quick(**changes), on_step), steps


def first(content=CONTENT, styles=STYLE, **changes):
    """The losses and the image that a run starts with."""
    return watched(content, styles, 0, **changes)[1][0]


def check_losses(found, image, content, styles, small, settings=SETTINGS, **how):
    expected = weighted_losses(image, content, styles, settings, small, **how)
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert expected[name] > 0.02 * expected["total"]  # each has its say
        exact = EXACT["gram" if name in ("content", "tv") else settings.style_loss]
        assert value == pytest.approx(expected[name], rel=exact), name


# Several styles


def test_blend_of_one_style_alone():
    styles = [STYLE, OTHER_STYLE]
    alone = nst.stylize(CONTENT, STYLE, quick()).image
    assert (nst.stylize(CONTENT, styles, quick(style_blend=(1, 0))).image == alone).all()
    assert (nst.stylize(CONTENT, styles, quick(style_blend=(0, 1))).image != alone).any()


@pytest.mark.parametrize("style_loss", ["gram", "covariance"])
def test_blend_is_of_moments(small, start, style_loss):
    """The Gram matrices and the means are mixed, for each way to compare them."""
    styles, settings = [STYLE, OTHER_STYLE], quick(style_loss=style_loss).resolved()
    losses, image = first(styles=styles, style_blend=(3, 7), init=start, style_loss=style_loss)
    check_losses(losses, image, framed(CONTENT), styles, small, settings, blend=(0.3, 0.7))
    even = weighted_losses(image, framed(CONTENT), styles, settings, small)
    assert abs(even["style"] / losses["style"] - 1) > 2 * EXACT[style_loss]


# Masks


def half_planes(height=35, width=49):
    """White on the left, and white on the right; with a hard edge."""
    left = np.zeros([height, width, 3], np.uint8)
    left[:, : width // 2] = 255
    return left, 255 - left


def soft_masks(height=35, width=49):
    """One that fades from left to right, and one from top to bottom."""
    across, down = np.linspace(0, 255, width), np.linspace(255, 0, height)
    masks = np.tile(across, (height, 1)), np.tile(down[:, None], (1, width))
    return [np.rint(mask).astype(np.uint8)[..., None].repeat(3, axis=2) for mask in masks]


@pytest.mark.parametrize(
    ("style_loss", "make", "blend"),
    [
        ("gram", half_planes, (1, 1)),
        ("gram", soft_masks, (3, 7)),
        ("covariance", soft_masks, (3, 7)),
    ],
)
def test_masks_guide_style_losses(small, saved, start, style_loss, make, blend):
    """Also where a layer's size is no whole fraction of the mask's."""
    masks, styles = make(), [STYLE, OTHER_STYLE]
    options = {"style_blend": blend, "init": start, "style_loss": style_loss}
    settings = quick(style_loss=style_loss).resolved()
    paths = [saved(mask, f"mask{number}") for number, mask in enumerate(masks)]
    losses, image = first(styles=styles, mask=paths, **options)
    how = {"masks": [framed(mask)[..., 0] / 255 for mask in masks], "blend": blend}
    check_losses(losses, image, framed(CONTENT), styles, small, settings, **how)
    plain = weighted_losses(image, framed(CONTENT), styles, settings, small, blend=blend)
    assert abs(plain["style"] / losses["style"] - 1) > 2 * EXACT[style_loss]


def test_one_white_mask_changes_nothing(saved, start):
    white = saved(np.full([20, 30, 3], 255), "white")
    losses, _ = first(mask=[white], init=start)
    plain, _ = first(init=start)
    assert losses == pytest.approx(plain, rel=1e-4)


def test_each_style_is_where_its_mask_is_white(small, saved):
    content, styles = picture(64, 64), [picture(64, 64, 1), 255 - picture(64, 64, 1) // 4]
    masks = [saved(mask, f"side{number}") for number, mask in enumerate(half_planes(64, 64))]

    def distances(masks):
        """[half, style]"""
        options = {"num_iter": 30, "size": 64, "content_weight": 1e2, "optimizer": "lbfgs"}
        image = nst.stylize(content, styles, quick(mask=masks, **options)).image
        halves = image[:, :32], image[:, 32:]
        return np.array([[style_distance(half, x, small) for x in styles] for half in halves])

    found, swapped = distances(masks), distances(masks[::-1])
    for half, (own, other) in enumerate([(0, 1), (1, 0)]):
        assert found[half, own] < 0.5 * found[half, other]
        assert swapped[half, other] < 0.5 * swapped[half, own]
        assert found[half, own] < 0.7 * swapped[half, own]


# Colours


@pytest.mark.parametrize(
    ("rgb", "lab"),
    [
        ((255, 255, 255), (100, 0, 0)),
        ((0, 0, 0), (0, 0, 0)),
        ((119, 119, 119), (50.03, 0, 0)),
        ((5, 5, 5), (1.37, 0, 0)),  # where both curves are straight
        ((255, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 255, 0), (87.73, -86.18, 83.18)),
        ((0, 0, 255), (32.30, 79.19, -107.86)),
        ((255, 255, 0), (97.14, -21.55, 94.48)),
        ((0, 128, 128), (48.25, -28.84, -8.48)),
    ],
)
def test_cielab(rgb, lab):
    """Values as Bruce Lindbloom's and other converters give them for sRGB under D65."""
    found = colors.to_lab(np.float32([[rgb]]))
    assert found.shape == (1, 1, 3)
    np.testing.assert_allclose(found[0, 0], lab, atol=0.1)
    np.testing.assert_allclose(colors.from_lab(np.float32([[lab]]))[0, 0], rgb, atol=0.3)


def test_cielab_and_back():
    image = np.random.default_rng(0).uniform(0, 255, (40, 50, 3)).astype(np.float32)
    back = colors.from_lab(colors.to_lab(image))
    assert back.dtype == np.float32
    np.testing.assert_allclose(back, image, atol=0.01)


def test_colours_beyond_srgb_are_clipped():
    back = colors.from_lab(np.float32([[[50, 120, -120], [100, 90, 0], [0, -80, 0]]]))
    assert 0 <= back.min() <= back.max() <= 255.001
    assert back.std() > 50


def muted(image):
    """With a quarter of its contrast, around grey: no change of lightness leaves sRGB."""
    return np.rint(128 + (np.float64(image) - 128) / 4).astype(np.uint8)


def test_colours_of_the_content():
    """a* and b* are the photograph's; lightness is another, and was optimized in grey."""
    content, steps = muted(CONTENT), []
    style = np.zeros([49, 49, 3], np.uint8)
    style[np.indices([49, 49]).sum(axis=0) % 6 < 3] = [250, 40, 30]  # red and black, aslant

    def on_step(step):
        steps.append((step.image, np.float64(step.tensor)[0]))

    options = {"num_iter": 30, "style_weight": 1e-1, "tv_weight": 0}
    result = nst.stylize(content, style, quick(colors="content", **options), on_step)
    photograph, painted = (colors.to_lab(np.float32(x)) for x in (content, result.image))
    difference = np.abs(painted - photograph)
    assert difference[..., 1:].max() < 1  # by rounding to 256 levels
    assert difference[..., 0].mean() > 2
    grey = steps[0][1]
    assert np.abs(grey - grey.mean(axis=-1, keepdims=True)).max() < 0.01
    assert np.abs(np.float64(steps[0][0]) - content).max() <= 1
    for image, _ in steps:  # as the result would be
        assert np.abs(colors.to_lab(image) - photograph)[..., 1:].max() < 1
    assert any((image == result.image).all() for image, _ in steps)


def test_style_in_lightness_alone(small):
    """Its lightness has the mean and the spread of the content's, and no colour."""
    content = np.float32(muted(CONTENT))
    grey, (style,), _ = colors.prepare("content", content, [np.float32(STYLE)])
    wanted, alike = colors.to_lab(content)[..., 0], colors.to_lab(style)
    np.testing.assert_allclose(colors.to_lab(grey)[..., 0], wanted, atol=0.01)
    assert np.abs(alike[..., 1:]).max() < 0.01
    assert alike[..., 0].mean() == pytest.approx(wanted.mean(), abs=0.01)
    assert alike[..., 0].std() == pytest.approx(wanted.std(), rel=0.01)
    assert np.corrcoef(alike[..., 0].ravel(), colors.to_lab(STYLE)[..., 0].ravel())[0, 1] > 0.999
    losses, image = first(muted(CONTENT), colors="content")
    rounded, style = (np.float32(np.float16(x)) for x in (grey, style))  # as a run keeps them
    expected = weighted_losses(image, framed(rounded), [style], SETTINGS, small)
    assert losses["style"] == pytest.approx(expected["style"], rel=EXACT["covariance"])


def test_colours_matched(small):
    content = muted(CONTENT)
    matched = colors.match(np.float32(STYLE), np.float32(content))
    assert matched.shape == STYLE.shape
    one, other = (np.float64(x).reshape(-1, 3) for x in (matched, content))
    np.testing.assert_allclose(one.mean(axis=0), other.mean(axis=0), atol=0.05)
    covariances = np.cov(one.T), np.cov(other.T)
    np.testing.assert_allclose(*covariances, atol=0.01 * np.abs(covariances[1]).max())
    for channel in range(3):  # as little as that takes: what was red is still the reddest
        before, after = STYLE[..., channel].ravel(), matched[..., channel].ravel()
        assert np.corrcoef(before, after)[0, 1] > 0.9
    losses, image = first(content, colors="match")
    expected = weighted_losses(image, framed(content), [matched], SETTINGS, small)
    assert losses["style"] == pytest.approx(expected["style"], rel=EXACT["covariance"])


def test_palette():
    """The content with the style's mean colour and covariance; light stays lighter than dark."""
    content, style = np.float32(muted(CONTENT)), np.float32(muted(STYLE))
    found, (same,), tint = colors.prepare("palette", content, [style])
    assert same is style
    assert tint(found) is found
    one, other = (np.float64(x).reshape(-1, 3) for x in (found, style))
    np.testing.assert_allclose(one.mean(axis=0), other.mean(axis=0), atol=0.1)
    covariances = np.cov(one.T), np.cov(other.T)
    np.testing.assert_allclose(*covariances, atol=0.1 * np.abs(covariances[1]).max())
    lightness = [colors.to_lab(x)[..., 0].ravel() for x in (content, found)]
    assert np.corrcoef(lightness)[0, 1] > 0.8


def test_palette_of_a_photograph_without_colours():
    """Its noise does not become colour."""
    noise = np.random.default_rng(0).normal(0, 0.5, [40, 50, 3])
    content = np.float32(128 + 40 * np.sin(np.arange(50))[:, np.newaxis] + noise)
    found = colors.transport(content, np.float32(STYLE))
    plain = colors.transport(content - noise, np.float32(STYLE))
    assert np.abs(found - plain).mean() < 5


@pytest.mark.parametrize("masked", [False, True])
def test_palette_of_several_styles(masked):
    """As the styles are mixed, and where each is to be; elsewhere the photograph's."""
    content, styles = np.float32(CONTENT), [np.float32(STYLE), np.float32(STYLE[:, ::-1] // 2)]
    alone = [colors.transport(content, style) for style in styles]
    masks = [np.zeros([*content.shape[:2], 1], np.float32) for _ in styles]
    masks[0][:, :20], masks[1][:, 10:30] = 255, 255
    pictures = sources.Sources(content, styles, masks if masked else [], None, 1.0)
    found = pictures.in_colors(nst.Settings(colors="palette", style_blend=(1, 3))).content
    close = partial(np.testing.assert_allclose, atol=0.01, rtol=2**-11)  # float16's rounding
    if masked:
        close(found[:, :10], alone[0][:, :10])
        close(found[:, 10:20], np.mean(alone, 0)[:, 10:20])
        close(found[:, 20:30], alone[1][:, 20:30])
        close(found[:, 30:], content[:, 30:])
    else:
        close(found, (alone[0] + 3 * alone[1]) / 4)


def test_colours_are_the_same_in_few_rows_at_a_time(monkeypatch):
    content, style = np.float32(picture(50, 60)), np.float32(picture(40, 30, 1))

    def all_of_them():
        for way in ("content", "match", "palette"):
            photograph, paintings, finish = colors.prepare(way, content, [style])
            yield from (photograph, *paintings, finish(content[::-1]))

    whole = list(all_of_them())

    def sevens(height, _):
        return (slice(top, top + 7) for top in range(0, height, 7))

    monkeypatch.setattr(colors, "strips", sevens)
    for one, other in zip(whole, all_of_them(), strict=True):
        assert one.dtype == other.dtype == np.float32
        np.testing.assert_allclose(one, other, atol=1e-3)


# Strokes


@pytest.mark.parametrize("factor", [0.5, 2])
def test_style_scale(small, start, factor):
    """As if the painting had been given in another size."""
    losses, image = first(style_scale=factor, init=start)
    height, width = (round(side * factor) for side in STYLE.shape[:2])
    style = np.array(Image.fromarray(STYLE).resize((width, height), Image.Resampling.LANCZOS))
    check_losses(losses, image, framed(CONTENT), [style], small)
    plain = weighted_losses(image, framed(CONTENT), [STYLE], SETTINGS, small)
    assert abs(plain["style"] / losses["style"] - 1) > 0.01


# Layers and their weights


def test_weights_of_layers(small, start):
    names = {"content_layers": ["level1_conv2=2", "level2_conv2"]}
    names["style_layers"] = ["level1_conv1=5", "level1_conv2=0.5", "level2_conv1"]
    losses, image = first(init=start, **names)
    how = {
        "content_layers": {"level1_conv2": 2, "level2_conv2": 1},
        "style_layers": {"level1_conv1": 5, "level1_conv2": 0.5, "level2_conv1": 1},
    }
    check_losses(losses, image, framed(CONTENT), [STYLE], small, **how)
    even = {kind: dict.fromkeys(layers, 1) for kind, layers in how.items()}
    plain = weighted_losses(image, framed(CONTENT), [STYLE], SETTINGS, small, **even)
    for name in ("content", "style"):
        assert abs(plain[name] / losses[name] - 1) > 0.01


def test_weight_of_a_single_layer_is_no_matter(start):
    one, other = (
        first(init=start, style_layers=[f"level2_conv1{weight}"])[0] for weight in ("", "=7.5")
    )
    assert one == pytest.approx(other, rel=1e-6)


def test_resolved_names_layers_alike():
    settings = nst.Settings(
        content_layers=["conv4_2=1", "block5_conv2=0.25"], style_layers=["conv1_1=1e3", " conv2_1"]
    )
    resolved = settings.resolved()
    assert resolved.content_layers == ("block4_conv2", "block5_conv2=0.25")
    assert resolved.style_layers == ("block1_conv1=1000", "block2_conv1")
    assert resolved.resolved() == resolved


def test_focus_leaves_flat_areas_to_the_painting():
    content = picture(64, 96, 4)
    content[:, :48] = 128

    def changed(focus):
        settings = quick(size=96, num_iter=60, content_focus=focus)
        image = nst.stylize(content, STYLE, settings).image
        change = np.abs(np.float64(image) - content).mean((0, 2))
        return change[:40].mean(), change[56:].mean()

    (flat, detailed), (flat_in_focus, detailed_in_focus) = map(changed, (0.0, 1.0))
    assert flat_in_focus > 1.1 * flat
    assert detailed_in_focus < 0.95 * detailed


def test_layout_brings_to_the_top_what_is_on_top():
    style = np.uint8(picture(64, 80) / 2 + np.linspace(120, 0, 64)[:, None, None])

    def fall(image):
        rows = np.float64(image).mean((1, 2))
        return rows[: len(rows) // 2].mean() - rows[len(rows) // 2 :].mean()

    def painted(layout):
        options = {"size": 64, "num_iter": 60, "content_weight": 0, "init": "noise"}
        return nst.stylize(CONTENT, style, quick(**options, style_layout=layout)).image

    everywhere, in_place = (fall(painted(layout)) / fall(style) for layout in (0.0, 1.0))
    assert abs(everywhere) < 0.2
    assert 0.4 < in_place < 1.1  # in the margin the picture's mirror image has its share of it


# Where to start


def test_going_on_from_a_result(small, saved):
    """At the losses of that file within its mirror image, and at one scale unless told."""
    options = {"num_iter": 10, "style_weight": 1e-2}
    result = nst.stylize(CONTENT, STYLE, quick(**options))
    path = saved(result.image, "result")
    assert nst.Settings(init=path, size=1024).resolved().scales == 1
    assert nst.Settings(init=path, size=1024, scales=2).resolved().scales == 2
    losses, image = first(init=path, **options | {"scales": "auto"})
    assert (scales.without_margin(image[None]) == result.image).all()
    settings = quick(**options).resolved()
    check_losses(losses, framed(result.image), framed(CONTENT), [STYLE], small, settings)
    assert losses["total"] < result.losses["total"][0]


@pytest.mark.parametrize("share", [0, 0.5, 1])
def test_noise_at_the_start(share):
    _, image = first(init_noise=share)
    noise = scales.without_margin(image[None]) - (1 - share) * np.float64(CONTENT)
    assert noise.mean() == pytest.approx(127.5 * share, abs=4)
    assert noise.std() == pytest.approx(255 / np.sqrt(12) * share, abs=3)
    assert noise.min() > -0.01
    assert noise.max() < 255 * share + 0.01
    if share:
        assert abs(np.corrcoef(noise.ravel(), CONTENT.ravel())[0, 1]) < 0.05
        assert total_variation(noise) == pytest.approx(4 * noise.var(), rel=0.1)


def test_style_alone_is_a_texture(small):
    """Without a content loss, from noise; with its margin, within which it was optimized."""
    options = {"num_iter": 60, "init": "noise", "content_weight": 0, "tv_weight": 0}
    options["style_loss"] = "wasserstein"
    result, steps = watched(optimizer="lbfgs", **options)
    assert result.losses.keys() == {"total", "style", "tv"}
    best = min(steps, key=lambda step: step[0]["total"])[1]
    before, after, content = (
        style_distance(image, STYLE, small) for image in (steps[0][1], best, framed(CONTENT))
    )
    assert after < 0.2 * before
    assert after < 0.5 * content


def test_content_alone_is_an_inversion():
    """Without a style loss, from noise, the activations come to be the photograph's."""
    options = {"num_iter": 100, "init": "noise", "style_weight": 0, "tv_weight": 0}
    result, _ = watched(learning_rate=20.0, **options)
    assert result.best_losses["content"] < 0.1 * result.losses["content"][0]
    assert np.corrcoef(result.image.ravel(), CONTENT.ravel())[0, 1] > 0.5


# The loss curves


def test_plot(saved, tmp_path):
    plot, result = tmp_path / "curves.webp", tmp_path / "out.png"
    files = ["-c", saved(CONTENT, "content"), "-s", saved(STYLE, "style"), "-r", str(result)]
    options = ["-n", "3", "--size", "49", "--network", "small", "--style_layers", "level1_conv1"]
    assert nst.main([*files, *options, "--plot", str(plot)]) == 0
    assert sorted(tmp_path.iterdir()) == sorted([plot, result])
    with Image.open(plot) as curves:
        assert (curves.format, curves.size) == ("WEBP", (720, 280))
        assert np.ptp(np.asarray(curves)) > 200


# L-BFGS


def test_lbfgs(small):
    """Each evaluation is reported, displayable and up to the bounds, and the best one kept, which
    is better than Adam's."""
    result, steps = watched(optimizer="lbfgs", num_iter=60, style_weight=1e-2)
    assert 30 < len(steps) <= 61
    assert [losses["total"] for losses, _ in steps] == result.losses["total"]
    settings = quick(style_weight=1e-2).resolved()
    for losses, image in (steps[0], steps[1], steps[-1]):
        expected = weighted_losses(image, framed(CONTENT), [STYLE], settings, small)
        assert losses == pytest.approx(expected, rel=EXACT["covariance"])
    assert min(image.min() for _, image in steps) == 0
    assert max(image.max() for _, image in steps) <= 255
    losses, image = min(steps, key=lambda step: step[0]["total"])
    assert result.best_losses == losses
    assert (images.to_uint8(scales.without_margin(image[None])) == result.image).all()
    assert result.cut_short is None
    adam = nst.stylize(CONTENT, STYLE, quick(num_iter=60, style_weight=1e-2))
    assert losses["total"] < adam.best_losses["total"]


@pytest.mark.parametrize("num_iter", [1, 7])
def test_lbfgs_evaluates_no_more_than_asked(num_iter):
    result, steps = watched(optimizer="lbfgs", num_iter=num_iter)
    assert len(steps) == len(result.losses["total"]) == num_iter + 1


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_lbfgs_needs_float32(precision):
    with pytest.raises(UserError, match="--optimizer lbfgs"):
        nst.Settings(optimizer="lbfgs", precision=precision)


# Numbers at the ends of what floats hold


@pytest.mark.parametrize(
    "changes",
    [{"style_blend": (1e-50,)}, {"style_weight": 0, "tv_weight": 0, "precision": "float16"}],
)
def test_painted_with(changes):
    result = nst.stylize(CONTENT, STYLE, quick(num_iter=2, **changes))
    assert result.cut_short is None
    assert np.isfinite(result.losses["total"]).all()


# When to stop


def stalling(tolerance, num_iter=120, falls=0):
    """How many images are evaluated of an objective that falls by 1 % each of so many times."""
    seen = []

    def objective(image):
        total = tf.constant(0.99 ** min(len(seen), falls))
        return {"total": total, "content": total}, tf.ones_like(image)

    image = tf.Variable(tf.fill([1, 4, 5, 3], 250.0))
    settings = nst.Settings(tolerance=tolerance, learning_rate=5.0)
    nst.minimize(objective, image, settings, num_iter, lambda *step: seen.append(step))
    return len(seen)


def test_tolerance():
    """What 50 iterations gain; no tolerance is no end before the last iteration."""
    assert stalling(0) == 121
    assert stalling(1e-6) == 51
    assert stalling(1e-6, num_iter=40) == 41
    assert stalling(1e-6, falls=20) == 71
    assert stalling(0.1, falls=60) == pytest.approx(60 + 51 - 10, abs=1)  # 0.99^10 is about 0.9
    assert stalling(0.3, falls=1000) == 121  # 0.99^50 is 0.6


def test_tolerance_ends_each_scale():
    shapes, progress = [], []

    def on_step(step):
        shapes.append(step.image.shape[:2])
        progress.append(step.progress)

    options = {"num_iter": 200, "scales": 2, "size": 96, "learning_rate": 0.01}
    result = nst.stylize(CONTENT, STYLE, quick(tolerance=0.5, **options), on_step)
    assert shapes == [(34, 48)] * 51 + [(69, 96)] * 50
    assert {len(history) for history in result.losses.values()} == {101}
    assert (np.diff(progress) > 0).all()
    assert result.image.shape == (69, 96, 3)


# Precision


def test_bfloat16_comes_to_the_same_loss(small):
    """As evaluated in float64."""
    totals, settings = [], quick(style_weight=1e-2).resolved()
    for precision in ("float32", "bfloat16"):
        result, steps = watched(precision=precision, num_iter=10, style_weight=1e-2)
        best = min(steps, key=lambda step: step[0]["total"])[1]
        expected = weighted_losses(best, framed(CONTENT), [STYLE], settings, small)
        totals.append(expected["total"])
        assert result.best_losses["total"] == pytest.approx(totals[-1], rel=0.01)
    assert totals[0] < 0.5 * result.losses["total"][0]
    assert totals[1] == pytest.approx(totals[0], rel=0.02)
