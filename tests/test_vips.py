"""16 bits a channel and BigTIFF: each level and colour, metadata, damage."""

import struct
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, arguments, picture
from PIL import Image
from test_images import (
    P3_TO_XYZ,
    RED,
    SRGB_TO_XYZ,
    UPRIGHT,
    encode_srgb,
    grey_profile,
    one_sentence,
    png,
    quadrants,
    rgb_profile,
)
from test_show import METADATA

import nst
from nstlib import UserError, images, outputs, provenance, vips

pyvips = pytest.importorskip("pyvips")

ENDINGS = ".png", ".tif", ".TIFF"


def noise(*shape):
    return np.random.default_rng(0).integers(0, 65536, shape, dtype=np.uint16)


def write(path, values, **fields):
    """A 16-bit file by libvips, with fields of its metadata by name."""
    height, width, bands = values.shape
    image = pyvips.Image.new_from_memory(values.tobytes(), width, height, bands, "ushort")
    image = image.copy(interpretation="rgb16" if bands > 2 else "grey16")
    for name, value in fields.items():
        kind = pyvips.GValue.blob_type if isinstance(value, bytes) else pyvips.GValue.gint_type
        image.set_type(kind, name.replace("_", "-"), value)
    image.write_to_file(str(path))


# Out of the program and into it again


@pytest.mark.parametrize("ending", ENDINGS)
def test_round_trip(tmp_path, ending):
    """Each of 65536 levels, the metadata, and the profile of every other picture."""
    path, again, shallow = (tmp_path / f"{name}{ending}" for name in "abc")
    levels = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1)
    image = np.concatenate([levels, levels.T.reshape(256, 256, 1), 65535 - levels], -1)
    for file in (path, again):
        images.save(file, image / 257, METADATA, depth=16)
    images.save(shallow, image / 257, METADATA)
    assert (images.to_uint16(images.load(path)) == image).all()
    assert images.load(path).dtype == np.float32
    assert images.read_metadata(path) == METADATA
    assert images.image_size(path) == (256, 256)
    assert path.read_bytes() == again.read_bytes()
    with Image.open(path) as im, Image.open(shallow) as other:
        assert im.format == other.format
        assert im.info["icc_profile"] == other.info["icc_profile"]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.uint8])
def test_levels_are_rounded_and_clipped(dtype):
    values = np.array([-20, 0, 0.5, 128, 254.9, 255, 300], np.float64)
    if dtype == np.uint8:
        values = values[[1, 3, 5]]
    found = images.to_uint16(np.tile(values.astype(dtype)[None, :, None], (2, 1, 3)))
    expected = np.rint(np.float64(values.astype(dtype)).clip(0, 255) * 257)
    assert (found == expected[None, :, None]).all()


def test_result_is_written_before_it_is_rounded(tmp_path, monkeypatch):
    content, style = picture(32, 48), picture(32, 32, 1)
    settings = nst.Settings(num_iter=2, network="small", size=48)
    written = outputs.Outputs(tmp_path / "x.png", save_every=1, depth=16)
    seen = []

    def on_step(step):
        written.add(step)
        seen.append(step.picture(exact=True))

    result = nst.stylize(content, style, settings, on_step)
    written.save(result)
    assert (images.to_uint8(result.exact) == result.image).all()
    for name, exact in (("x.png", result.exact), ("x_steps/000001.png", seen[1])):
        assert np.abs(images.load(tmp_path / name) - exact).max() < 1 / 500
    assert np.abs(images.load(tmp_path / "x.png") - result.image).max() > 0.3
    argv, _ = provenance.read(tmp_path / "x.png")
    assert argv[-2:] == ["--depth", "16"]
    assert nst.parse(argv).depth == 16


@pytest.mark.parametrize("depth", images.DEPTHS)
@pytest.mark.parametrize(("above", "version"), [(0, 42), (1, 43)])
def test_bigtiff(tmp_path, monkeypatch, depth, above, version):
    """Above so many bytes; in 8 bits, too, as Pillow writes none that is compressed."""
    image, path = picture(40, 60), tmp_path / "x.tif"
    monkeypatch.setattr(vips, "BIG", image.nbytes * depth // 8 - above)
    images.save(path, image, METADATA, depth)
    assert path.read_bytes()[:4] == b"II" + struct.pack("<H", version)
    assert (images.load(path) == image).all()
    assert images.read_metadata(path) == METADATA
    with Image.open(path) as im:
        assert im.tag_v2[258] == (depth,) * 3
        assert im.info["compression"] == "tiff_adobe_deflate"
        assert im.info["icc_profile"] == images._SRGB


def test_rescued_image_keeps_its_depth(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(UserError, match="is in"):
        images.save(tmp_path / "gone" / "x.tif", noise(20, 30, 3) / 257, METADATA, 16)
    (rescue,) = tmp_path.iterdir()
    assert (images.to_uint16(images.load(rescue)) == noise(20, 30, 3)).all()
    assert images.read_metadata(rescue) == METADATA


# Other programs' pictures


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize(
    ("matrix", "gamma"), [(SRGB_TO_XYZ, 1.0), (P3_TO_XYZ, 2.2)], ids=["linear", "wide gamut"]
)
def test_profile_is_converted_to_srgb(tmp_path, suffix, matrix, gamma):
    values = noise(20, 30, 3)
    write(tmp_path / f"x.{suffix}", values, icc_profile_data=rgb_profile(matrix, gamma))
    linear = (values / 65535) ** gamma @ matrix.T @ np.linalg.inv(SRGB_TO_XYZ).T
    expected = encode_srgb(linear)
    difference = np.abs(images.load(tmp_path / f"x.{suffix}") - expected)
    assert np.median(difference) < 0.05  # of 8 bits it is 0.25
    assert np.quantile(difference, 0.9) < 0.2  # curves are tables, coarse where they are steep
    assert np.abs(expected - values / 257).mean() > 4


def test_grey_profile_is_converted_to_srgb(tmp_path):
    ramp = np.arange(0, 65536, 257, np.uint16)[None, :, None]
    write(tmp_path / "x.png", ramp, icc_profile_data=grey_profile(1.75))
    found = images.load(tmp_path / "x.png")
    assert found.shape == (1, 256, 3)
    assert np.abs(found - encode_srgb((ramp / 65535) ** 1.75))[:, 20:].max() < 0.2


@pytest.mark.parametrize("profile", [b"no profile at all", grey_profile(1.0)])
def test_useless_profile_is_ignored(tmp_path, profile):
    values = noise(4, 5, 3)
    write(tmp_path / "x.tif", values, icc_profile_data=profile)
    assert (images.to_uint16(images.load(tmp_path / "x.tif")) == values).all()


@pytest.mark.parametrize(
    ("suffix", "bands"),
    [*(("png", bands) for bands in (1, 2, 3, 4)), *(("tif", bands) for bands in (1, 3, 4))],
)
def test_grey_and_transparency(tmp_path, suffix, bands):
    values = noise(20, 30, bands)
    write(tmp_path / f"x.{suffix}", values)
    expected = np.float64(values)
    if bands in (2, 4):
        alpha = values[..., -1:] / 65535
        expected = values[..., :-1] * alpha + 65535 * (1 - alpha)
    found = images.load(tmp_path / f"x.{suffix}")
    assert found.shape == (20, 30, 3)
    assert np.abs(found - expected / 257).max() < 1 / 100


def test_one_transparent_colour(tmp_path):
    """The tRNS chunk of a PNG without an alpha channel."""
    values = np.array([[0, 25700, 65535], [65535, 257, 51400]], ">u2")
    chunk = b"tRNS", values[0].tobytes()
    (tmp_path / "x.png").write_bytes(png(2, 1, 16, 2, [values.tobytes()], chunk))
    assert (images.load(tmp_path / "x.png") == [[(255, 255, 255), values[1] / 257]]).all()


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(tmp_path, orientation, suffix):
    path = tmp_path / f"x.{suffix}"
    write(path, quadrants() * np.uint16(257), orientation=orientation)
    expected = UPRIGHT[orientation](quadrants())
    assert images.image_size(path) == expected.shape[1::-1]
    assert (images.load(path) == expected).all()
    small = images.load(path, 20)
    assert small.shape == (*(side // 8 for side in expected.shape[:2]), 3)
    corners = np.ix_([0, -1], [0, -1])
    assert np.abs(small[corners] - expected[corners]).max() <= 6


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("share", [0.5, 0.95])
def test_truncated_file(tmp_path, capfd, suffix, share):
    path = tmp_path / f"x.{suffix}"
    write(path, noise(200, 300, 3))
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(UserError) as error:
        images.load(path)
    one_sentence(error, f"cannot read {path}: it is ")
    assert capfd.readouterr() == ("", "")


def test_other_kinds_stay_with_pillow(tmp_path):
    Image.new("CMYK", (4, 4), (0, 255, 255, 0)).save(tmp_path / "x.tif")
    assert np.abs(images.load(tmp_path / "x.tif") - RED).max() <= 3
    with Image.open(tmp_path / "x.tif") as im:
        assert not vips.is_deep(im)


# What cannot be written is refused before work


def test_libvips_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyvips", None)
    assert not vips.is_installed()
    images.check_format(tmp_path / "x.tif", 30_000)
    for size, depth, option in ((64, 16, "--depth 16"), (40_000, 8, "a TIFF of 40000 pixels")):
        with pytest.raises(UserError, match=rf"^{option} needs pyvips: pip install 'pyvips"):
            images.check_format(tmp_path / "x.tif", size, depth)


def test_it_is_not_imported_in_vain():
    code = "import sys, nst, nstlib.images; sys.exit('pyvips' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_gallery_has_no_depth(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    argv = {"-c": "photos", "-s": "photos", "-r": "x.png", "--depth": 16}
    assert nst.main(arguments(argv, [])) == 2
    assert "--depth is for one picture" in capsys.readouterr().err


def test_a_single_pixel(tmp_path):
    Image.fromarray(np.full((1, 1), 40000, np.uint16)).save(tmp_path / "pixel.png")
    assert images.load(tmp_path / "pixel.png", 32).shape == (32, 32, 3)
