"""The measures of benchmarks/quality.py: known values, and what must rank right."""

import re
import subprocess
import sys

import numpy as np
import pytest
import quality
from conftest import ROOT, picture
from scipy import ndimage, signal, stats

from nstlib import colors, images

EXAMPLES = ROOT / "examples"
STYLES = quality.pictures(EXAMPLES / "style")


def grey(level, size=128):
    return np.full((size, size, 3), level, np.float32)


def distance(one, other):
    return quality.style_distance(*map(quality.patch_quantiles, (one, other)))


def specked(image, share=0.01):
    rng = np.random.default_rng(0)
    where = rng.random((*image.shape[:2], 1)) < share
    return np.where(where, rng.choice([0, 255], image.shape), image)


def noisy(image, deviation=20):
    rng = np.random.default_rng(0)
    return (image + rng.normal(0, deviation, image.shape)).clip(0, 255)


def test_wasserstein_is_scipys_along_each_projection():
    one, other = picture(128, 120), picture(120, 128, 1)
    found = quality.wasserstein(*map(quality.patch_quantiles, (one, other)))
    filters = quality.projections().reshape(-1, 3, 7, 7)
    assert np.allclose(np.sum(filters**2, axis=(1, 2, 3)), 1)
    for i in (0, 127, 128, 255):
        along = []
        for image in map(colors.to_lab, (one, other)):
            layers = [signal.correlate(image[..., c], filters[i, c], "valid") for c in range(3)]
            along.append(np.sum(layers, axis=0).ravel())
        assert found[0, i] == pytest.approx(stats.wasserstein_distance(*along), rel=0.02)


def test_patches_of_flat_pictures_differ_by_their_lightness():
    found = quality.wasserstein(*(quality.patch_quantiles(grey(x)) for x in (60, 180)))
    lightness = [colors.to_lab(grey(x, 1))[0, 0, 0] for x in (60, 180)]
    sums = quality.projections().reshape(256, 3, 49)[:, 0].sum(axis=-1)
    assert np.allclose(found, abs(sums) * (lightness[1] - lightness[0]), atol=1e-3)
    assert np.abs(found[:, 128:]).max() < 1e-3 < np.abs(found[:, :128]).max()


def test_a_sample_of_the_patches_stands_for_all(monkeypatch):
    one, other = (images.load(x, 256) for x in STYLES[:2])  # 50,000 patches at the finest level
    sampled = distance(one, other)
    monkeypatch.setattr(np.random, "default_rng", lambda _: np.random.Generator(np.random.PCG64(7)))
    assert distance(one, other) == pytest.approx(sampled, rel=0.02)


def test_unrelated_paintings_are_one_apart():
    seen = [quality.patch_quantiles(images.load(x, 512)) for x in STYLES]
    distances = [quality.style_distance(a, b) for i, a in enumerate(seen) for b in seen[:i]]
    assert np.mean(distances) == pytest.approx(1)
    assert min(distances) > 0.3


def smooth(x, kernel):
    radius = len(kernel) // 2
    padded = np.pad(np.float64(x), radius, mode="reflect")
    return signal.convolve2d(padded, np.outer(kernel, kernel), "valid")


def test_content_is_contrast_and_structure_of_ssim_on_every_level():
    one, other = picture(128, 144), picture(128, 144, 1)
    window = np.exp(-(np.arange(-6, 7) ** 2) / (2 * 1.5**2))
    window /= window.sum()
    x, y = (colors.to_lab(image)[..., 0] for image in (one, other))
    levels = []
    for _ in range(5):
        mean_x, mean_y = smooth(x, window), smooth(y, window)
        variances = smooth(x * x, window) - mean_x**2 + smooth(y * y, window) - mean_y**2
        covariance = smooth(x * y, window) - mean_x * mean_y
        levels.append(np.mean((2 * covariance + 9) / (variances + 9)))
        x, y = (smooth(z, np.array([1, 4, 6, 4, 1]) / 16)[::2, ::2] for z in (x, y))
    assert quality.content_likeness(one, other) == pytest.approx(np.mean(levels), abs=1e-4)
    assert quality.content_likeness(one, one) == pytest.approx(1)


@pytest.mark.parametrize("contrast", [0.5, -1])
def test_content_of_a_changed_contrast(contrast):
    """2·cov / (var + var) is 2c / (1 + c²) where e is small beside the variances."""
    rng = np.random.default_rng(0)
    scales = [np.kron(rng.choice([-14, 14], (n, n)), np.ones([128 // n] * 2)) for n in (8, 16, 128)]
    lightness = sum(scales)
    image, changed = (
        colors.from_lab(np.stack([50 + c * lightness, 0 * lightness, 0 * lightness], axis=-1))
        for c in (1, contrast)
    )
    found = quality.content_likeness(changed, image)
    assert found == pytest.approx(2 * contrast / (1 + contrast**2), abs=0.12)


def test_kurtosis_is_scipys_of_bands_under_noise():
    image = specked(np.float32(picture(128, 144)), 0.003)
    kernel = np.array([1, 4, 6, 4, 1]) / 16
    rng = np.random.default_rng(0)
    for channel in range(3):
        level = colors.to_lab(image)[..., channel].astype(np.float64)
        for band in range(2):
            half = smooth(level, kernel)[::2, ::2]
            whole = np.zeros_like(level)
            whole[::2, ::2] = half
            detail = np.tile(level - 4 * smooth(whole, kernel), (40, 1, 1))
            detail += rng.normal(0, quality.VISIBLE, detail.shape)
            wanted = stats.kurtosis(detail, axis=None, fisher=False)
            assert quality.kurtosis(image)[band, channel] == pytest.approx(wanted, rel=0.02)
            level = half


def test_kurtosis_of_nothing_and_of_noise_is_that_of_a_gaussian():
    assert np.allclose(quality.kurtosis(grey(128)), 3)
    assert np.allclose(quality.kurtosis(noisy(grey(128, 256))), 3, atol=0.3)


@pytest.mark.parametrize("file", STYLES[::2], ids=lambda x: x.stem)
def test_rankings(file):
    """What happens to a painting, and to a photograph in its colours, moves each measure."""
    painting, other = (images.load(x, 192) for x in (file, STYLES[STYLES.index(file) - 1]))
    photograph = images.load(EXAMPLES / "content/astronaut.jpg", 192)
    recoloured = colors.match(photograph, painting)
    own = quality.patch_quantiles(painting)

    def style(image):
        return quality.style_distance(quality.patch_quantiles(image), own)

    assert style(painting) == 0
    blurred = ndimage.gaussian_filter(painting, (1, 1, 0))
    assert 0 < max(map(style, (noisy(painting), specked(painting), blurred))) < style(other)
    elsewhere = np.roll(painting, (60, 90), axis=(0, 1))  # nothing changes but places
    assert style(elsewhere) < style(recoloured) < style(photograph)

    def content(image):
        return quality.content_likeness(image, photograph)

    assert content(images.resize(painting, 192, 192)) < 0.3 < content(noisy(recoloured))
    assert content(noisy(recoloured)) < content(recoloured) < content(photograph)
    assert quality.speckle(painting, painting) == 0
    assert quality.speckle(noisy(painting), painting) < quality.speckle(specked(painting), painting)
    assert quality.speckle(specked(painting), painting) > 0.2


@pytest.fixture
def gallery(tmp_path):
    """A folder of two photographs in the colours of a painting."""
    painting = images.load(EXAMPLES / "style/wave.jpg", 160)
    for name in ("cat", "coffee"):
        photograph = images.load(EXAMPLES / f"content/{name}.jpg", 192)
        images.save(tmp_path / f"{name}_wave.png", colors.match(photograph, painting))
    return tmp_path


def table(text):
    """{first cell: the others}"""
    rows = (line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|"))
    return {head: cells for head, *cells in rows}


def test_report(gallery, capsys):
    assert quality.main([str(gallery)]) == 0
    rows = table(capsys.readouterr().out)
    assert rows["picture"] == ["style", "content", "speckle"]
    cat, coffee = (np.float64(rows[f"{name}_wave"]) for name in ("cat", "coffee"))
    assert np.allclose(np.float64(rows["mean"]), (cat + coffee) / 2, atol=0.011)
    assert np.allclose(np.float64(rows["standard deviation"]), abs(cat - coffee) / 2, atol=0.011)
    assert np.all(np.float64(rows["least"]) == np.minimum(cat, coffee))
    assert np.all(np.float64(rows["most"]) == np.maximum(cat, coffee))
    one = [gallery / "cat_wave.png", "-c", EXAMPLES / "content/cat.jpg", "-s", STYLES[-1]]
    assert quality.main(list(map(str, one))) == 0
    assert np.all(np.float64(table(capsys.readouterr().out)["cat_wave"]) == cat)


def test_validate(gallery, capsys):
    (gallery / "cat_wave.png").unlink()
    assert quality.main([str(gallery), "--validate"]) == 0
    rows = table(capsys.readouterr().out)
    assert rows["painting"][0] == "0.00 ± 0.00"
    assert rows["photograph"][1] == "1.00 ± 0.00"
    for measure, low, high in quality.RANKINGS:
        assert re.fullmatch("[01]", rows[f"{measure}: {low} < {high}"][0])
    for ranking in ("style: painting < result", "content: result < photograph"):
        assert rows[ranking] == ["1"]


def test_mistakes_are_one_sentence(gallery, capsys):
    images.save(gallery / "small.png", grey(128, 100))
    cat, wave = ["-c", str(EXAMPLES / "content/cat.jpg")], ["-s", str(STYLES[-1])]
    for argv, problem in [
        ([gallery], r"small.png is not named CONTENT_STYLE"),
        ([gallery / "missing"], r"cannot read .*missing: no such file"),
        ([gallery / "small.png", *cat, *wave], r"small.png is too small to judge: make it 112"),
        ([gallery / "cat_wave.png", *cat, *wave, "--validate"], r"--validate needs more paintings"),
    ]:
        assert quality.main(list(map(str, argv))) == 2
        assert re.match(f"quality: .*{problem}", capsys.readouterr().err)


def test_needs_no_tensorflow():
    script = "import quality, sys; sys.exit('tensorflow' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT / "benchmarks", check=True)
