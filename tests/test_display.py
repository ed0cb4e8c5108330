import base64
import io
import re
import subprocess
import sys

import numpy as np
import pytest
from conftest import picture
from PIL import Image

from nstlib import display
from nstlib.images import to_uint8


def shown_images(figure):
    """What each axes of a figure shows, row by row; None where it shows nothing."""
    return [ax.images[0].get_array() if ax.images else None for ax in figure.axes]


def decoded(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), dtype=float)


def in_page(html, kind):
    """The images of a page that are given as data URLs."""
    return [base64.b64decode(x) for x in re.findall(f'"data:image/{kind};base64,([^"]+)"', html)]


class Step:
    """As much of a step of `stylize` as a panel looks at."""

    def __init__(self, iteration, num_iter, image):
        self.iteration, self.progress, self.image = iteration, iteration / num_iter, image
        self.losses = {"total": 3e5 / (iteration + 1), "content": 0.0, "tv": 1e3}
        self.seconds = 2.0 * iteration


def test_importing_and_drawing_need_neither_ipython_nor_pyplot(tmp_path):
    code = f"""if True:
        import sys
        from nstlib import display
        assert not {{"matplotlib", "IPython", "tensorflow"}} & set(sys.modules)
        display.loss_curves({{"total": [3.0, 2.0]}}).savefig({str(tmp_path / "curves.png")!r})
        assert not {{"matplotlib.pyplot", "IPython", "tensorflow"}} & set(sys.modules)
    """
    subprocess.run([sys.executable, "-c", code], check=True)
    assert np.ptp(decoded((tmp_path / "curves.png").read_bytes())) > 100


def test_pictures_stand_row_by_row_with_their_names():
    colours = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
    given = [np.full((30, 30, 3), colour, np.uint8) for colour in colours]
    shown = display.pictures(given, ["one", "two"], columns=2, rows=["first", "second"], width=500)
    page = np.asarray(shown.picture)
    assert page.shape[1] == 500
    boxes = []
    for colour in colours:
        ys, xs = np.nonzero((page == colour).all(axis=2))
        left, top, right, bottom = xs.min(), ys.min(), xs.max() + 1, ys.max() + 1
        assert (page[bottom : bottom + 25, left:right] == 0).any()  # below it its column's title
        assert (page[top:bottom, :20] == 0).any()  # and at the left its row's name
        boxes.append((left, top, right, bottom))
    first, second, third = boxes
    assert first[1] == second[1]
    assert first[0] == third[0]
    assert first[2] < second[0]
    assert first[3] < third[1]
    assert (page[third[1] :, second[0] :] == 255).all()  # an empty place


def test_float_images_are_shown_rounded_and_clipped():
    image = np.array([[[-3.0, 0.6, 300.0]]], np.float32).repeat(4, axis=0)
    page = np.asarray(display.pictures([image]).picture)
    assert (page == [0, 1, 255]).all(axis=2).any()


def test_loss_curves_leave_out_what_a_log_scale_cannot_show():
    (ax,) = display.loss_curves({"total": [30, 2, 1], "content": [0, 1, 2], "tv": [5, 5, 5]}).axes
    assert ax.get_yscale() == "log"
    curves = {line.get_label(): line for line in ax.lines}
    assert list(curves) == ["total", "content", "total variation"]
    np.testing.assert_array_equal(curves["content"].get_ydata(), [np.nan, 1, 2])
    np.testing.assert_array_equal(curves["total"].get_xydata(), [[0, 30], [1, 2], [2, 1]])


def test_loss_curves_of_other_names_have_colours_of_their_own_and_single_values_a_mark():
    (ax,) = display.loss_curves({"conv1_1": [3, 1], "conv2_1": [3, 2], "conv3_1": [4]}).axes
    assert len({line.get_color() for line in ax.lines}) == 3
    assert [line.get_marker() for line in ax.lines] == ["None", "None", "o"]


def test_feature_maps_shows_the_most_varied_channels_first():
    activation = np.random.default_rng(0).uniform(0, 1, (1, 6, 8, 5)) * [1, 9, 0, 5, 3]
    activation = np.float16(activation)  # which half-precision networks put out
    figure = display.feature_maps(activation, count=3, columns=2)
    shown = shown_images(figure)
    for ax, image, channel in zip(figure.axes, shown, [1, 3, 4], strict=False):
        np.testing.assert_array_equal(image, activation[0, :, :, channel])
        assert ax.images[0].get_clim() == (0, image.max())  # each scaled to its own
    assert shown[3] is None
    (dark,) = display.feature_maps(np.zeros([1, 2, 2, 1])).axes[:1]
    assert dark.images[0].get_clim() == (0, 1)


def test_gram_matrices_share_order_and_brightness_within_a_layer():
    content = np.array([[9.0, 1.0], [1.0, 4.0]])
    style = np.array([[1.0, 2.0], [2.0, 5.0]])
    figure = display.gram_matrices(
        {"content": {"a": content, "b": 9 * content}, "style": {"a": style, "b": style}}
    )
    shown = shown_images(figure)
    turned = np.log1p(content[::-1, ::-1] / style.mean())  # the second is style's most active
    np.testing.assert_allclose(shown[0], turned)
    np.testing.assert_allclose(shown[2], np.log1p(style[::-1, ::-1] / style.mean()))
    limits = [ax.images[0].get_clim() for ax in figure.axes]
    assert limits[0] == limits[2] == (0, pytest.approx(np.log1p(9 / style.mean())))
    assert limits[1] == limits[3] != limits[0]
    assert [ax.get_title() for ax in figure.axes] == ["a", "b", "", ""]
    assert [ax.get_ylabel() for ax in figure.axes] == ["content", "", "style", ""]


def test_the_panel_keeps_its_size_and_shows_the_picture():
    shown = []
    panel = display.live_panel(10, width=400, show=shown.append)
    panel(Step(0, 10, np.full((24, 32, 3), (200, 30, 30), np.uint8)))
    panel(Step(10, 10, np.full((97, 128, 3), (30, 30, 200), np.uint8)))
    first, last = map(decoded, shown)
    assert first.shape == last.shape
    np.testing.assert_allclose(first[:300].reshape(-1, 3).mean(axis=0), (200, 30, 30), atol=3)
    np.testing.assert_allclose(last[:300].reshape(-1, 3).mean(axis=0), (30, 30, 200), atol=3)
    assert last[300:].mean() > 200
    assert np.ptp(last[310:]) > 100  # curves on white
    np.testing.assert_allclose(last[300:, -3:], 255, atol=15)  # all of the legend is within
    tall = display.live_panel(10, width=400, show=shown.append)
    tall(Step(0, 10, np.full((80, 40, 3), 90, np.uint8)))
    fitted = decoded(shown[-1])
    np.testing.assert_allclose(fitted[:400, 104:296], 90, atol=3)
    np.testing.assert_allclose(fitted[:400, :96], 255, atol=3)


@pytest.mark.parametrize(
    ("steps", "step", "drawing", "gap"),
    [(500, 0.01, 0.04, 20 * 0.04), (100, 0.02, 0, 0.26)],
    ids=["a twentieth of the time", "four times a second"],
)
def test_the_panel_is_drawn_at_most(monkeypatch, steps, step, drawing, gap):
    """With a clock on which a step and drawing a panel take so many seconds; and first and last."""
    clock, drawn = [0.0], []

    def show(jpeg):
        clock[0] += drawing
        drawn.append(clock[0])

    monkeypatch.setattr(display.time, "monotonic", lambda: clock[0])
    panel = display.live_panel(steps, width=300, show=show)
    image = picture(16, 20)
    for iteration in range(steps + 1):
        panel(Step(iteration, steps, image))
        clock[0] += step
    assert drawn[0] == pytest.approx(drawing)
    assert drawn[-1] == pytest.approx(clock[0] - step)
    gaps = np.diff(drawn[:-1])
    assert len(gaps) >= 5
    np.testing.assert_allclose(gaps, gap, atol=0.011)


@pytest.mark.parametrize(
    ("iteration", "text"),
    [
        (0, "iteration 0 of 100"),
        (50, "iteration 50 of 100, 1 min 40 s left"),
        (90, "iteration 90 of 100, 20 s left"),
        (100, "iteration 100 of 100"),
    ],
)
def test_the_panel_tells_how_far_it_is(iteration, text):
    assert display._how_far(Step(iteration, 100, None), 100) == text


def test_the_panel_refreshes_in_place(monkeypatch):
    import IPython.display

    calls = []

    class Handle:
        def update(self, image):
            calls.append(("update", image.data))

    def fake_display(image, display_id):
        calls.append(("display", image.data))
        return Handle()

    monkeypatch.setattr(IPython.display, "display", fake_display)
    panel = display.live_panel(1, width=300)
    for iteration in range(2):
        panel(Step(iteration, 1, picture(16, 20)))
    assert [name for name, _ in calls] == ["display", "update"]
    assert all(data.startswith(b"\xff\xd8") for _, data in calls)


def test_before_and_after_lie_on_each_other():
    before, after = np.full((30, 40, 3), 40, np.uint8), np.full((60, 80, 3), 220, np.uint8)
    view = display.before_after(before, after, width=80)
    below, above = map(decoded, in_page(view.html, "jpeg"))
    assert below.shape == above.shape == (60, 80, 3)
    np.testing.assert_allclose(below, 40, atol=2)
    np.testing.assert_allclose(above, 220, atol=2)
    still = decoded(base64.b64decode(view._repr_mimebundle_()["image/jpeg"]))
    np.testing.assert_allclose(still[:, :36], 40, atol=4)
    np.testing.assert_allclose(still[:, 44:], 220, atol=4)


def test_an_animation_has_every_frame_and_rests_on_the_last():
    frames = [np.full((12 * k, 16 * k, 3), 60 * k, np.uint8) for k in (1, 2, 3)]
    with Image.open(io.BytesIO(display.animated(frames, width=32, seconds=3))) as film:
        assert film.size == (32, 24)
        assert film.n_frames == 3
        shown = []
        for k in range(3):
            film.seek(k)
            film.load()
            shown.append((np.asarray(film.convert("RGB")).mean(), film.info["duration"]))
    levels, durations = zip(*shown, strict=True)
    np.testing.assert_allclose(levels, [60, 120, 180], atol=3)
    assert durations == (1000, 1000, 2000)


@pytest.mark.parametrize("count", [1, 2, 9])
def test_a_time_lapse_plays_and_has_a_still_strip(count):
    frames = [picture(24, 32, seed) for seed in range(count)]
    lapse = display.time_lapse(frames, width=32)
    (film,) = in_page(lapse.html, "webp")
    with Image.open(io.BytesIO(film)) as film:
        assert film.n_frames == count
    assert lapse.picture.width > 6 * lapse.picture.height


def test_a_download_is_the_very_picture():
    image = picture(20, 30)
    html = display.download_link(image, "mine.png").data
    assert 'download="mine.png"' in html
    np.testing.assert_array_equal(decoded(*in_page(html, "png")), to_uint8(image))
