"""Files in and out: what each conversion gives, pixel by pixel; what a failure leaves behind."""

import errno
import os
import resource
import struct
import subprocess
import sys
import tempfile
import time
import warnings
import zlib
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from PIL import Image, ImageCms, ImageFile, JpegImagePlugin

from nstlib import UserError, images, memory, vips

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def noise(height=40, width=60):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def quadrants(height=80, width=160):
    """Red, green / blue, white: different under every orientation."""
    image = np.zeros((height, width, 3), np.uint8)
    image[: height // 2, : width // 2] = RED
    image[: height // 2, width // 2 :] = GREEN
    image[height // 2 :, : width // 2] = BLUE
    image[height // 2 :, width // 2 :] = WHITE
    return image


def png(width, height, depth, colour, rows, *chunks):
    """A PNG written by hand: for depths and chunks that Pillow does not write."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = [(b"IHDR", header), *chunks, (b"IDAT", body), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


# Colour profiles, written by hand

D50 = (0.9642, 1.0, 0.8249)
SRGB_TO_XYZ = np.array(  # adapted to D50, as ICC profiles are; one column per primary
    [[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]]
)
P3_TO_XYZ = np.array(
    [[0.51512, 0.29198, 0.15710], [0.24120, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]]
)


def icc(space, connection, tags, kind=b"mntr"):
    """A minimal ICC profile, version 2."""
    offset, table, data = 128 + 4 + 12 * len(tags), b"", b""
    for name, value in tags.items():
        value += bytes(-len(value) % 4)
        table += name + struct.pack(">II", offset + len(data), len(value))
        data += value
    body = struct.pack(">I", len(tags)) + table + data
    header = struct.pack(">I4xI", 128 + len(body), 0x02100000) + kind + space + connection
    header += struct.pack(">6H", 2000, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + xyz(D50)[8:]
    return header.ljust(128, b"\0") + body


def xyz(values):
    return b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(v * 65536)) for v in values)


def gamma_curve(gamma):
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))


def rgb_profile(matrix, gamma):
    tags = {b"wtpt": xyz(D50)}
    for name, column in zip("rgb", matrix.T, strict=True):
        tags[name.encode() + b"XYZ"] = xyz(column)
        tags[name.encode() + b"TRC"] = gamma_curve(gamma)
    return icc(b"RGB ", b"XYZ ", tags)


def grey_profile(gamma):
    return icc(b"GRAY", b"XYZ ", {b"wtpt": xyz(D50), b"kTRC": gamma_curve(gamma)})


def cmyk_profile():
    """A press whose black ink is a middle grey (L* = 50) unless all four meet, others are water."""
    ramp = bytes(range(256))
    matrix = struct.pack(">9i", *(np.eye(3) * 65536).astype(int).ravel())
    water, ink, all_four = (bytes([lightness, 128, 128]) for lightness in (255, 128, 0))
    table = (water + ink) * 7 + water + all_four  # black varies fastest
    lut = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + matrix + 4 * ramp + table + 3 * ramp
    return icc(b"CMYK", b"Lab ", {b"wtpt": xyz(D50), b"A2B0": lut}, b"prtr")


def encode_srgb(linear):
    linear = np.clip(linear, 0, 1)
    return 255 * np.where(
        linear <= 0.0031308, 12.92 * linear, 1.055 * np.maximum(linear, 1e-9) ** (1 / 2.4) - 0.055
    )


@pytest.mark.parametrize(
    ("matrix", "gamma"),
    [(SRGB_TO_XYZ, 1.0), (SRGB_TO_XYZ[:, [1, 2, 0]], 2.2), (P3_TO_XYZ, 2.2)],
    ids=["linear", "swapped primaries", "wide gamut"],
)
def test_rgb_profile_is_converted_to_srgb(tmp_path, matrix, gamma):
    stored = noise()
    Image.fromarray(stored).save(tmp_path / "x.png", icc_profile=rgb_profile(matrix, gamma))
    linear = (stored / 255) ** gamma @ matrix.T @ np.linalg.inv(SRGB_TO_XYZ).T
    loaded = images.load(tmp_path / "x.png")
    assert np.abs(loaded - encode_srgb(linear)).max() < 3
    assert np.abs(loaded - stored).mean() > 4  # so ignoring the profile would not pass


def test_profile_is_applied_to_the_fewer_pixels(tmp_path, monkeypatch):
    """A picture is converted before it is enlarged, and after it is made smaller."""
    stored, sizes = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8), []
    profile = rgb_profile(P3_TO_XYZ, 2.2)
    Image.fromarray(stored).save(tmp_path / "x.png", icc_profile=profile)
    convert = images.ImageCms.profileToProfile

    def counted(im, *profiles, **options):
        sizes.append(im.size)
        return convert(im, *profiles, **options)

    monkeypatch.setattr(images.ImageCms, "profileToProfile", counted)
    whole = np.uint8(images.load(tmp_path / "x.png"))
    larger = Image.fromarray(whole).resize((80, 60), Image.Resampling.LANCZOS)
    assert (images.load(tmp_path / "x.png", 80) == np.asarray(larger)).all()
    images.load(tmp_path / "x.png", 20)
    assert sizes == [(40, 30), (40, 30), (20, 15)]


def test_grey_profile_is_converted_to_srgb(tmp_path):
    ramp = np.arange(256, dtype=np.uint8)[None]
    Image.fromarray(ramp).save(tmp_path / "x.png", icc_profile=grey_profile(1.75))
    loaded = images.load(tmp_path / "x.png")
    expected = encode_srgb((ramp[0] / 255) ** 1.75)
    assert np.abs(loaded[0, :, 0] - expected).max() < 2
    assert np.abs(ramp - expected).max() > 10
    assert np.ptp(loaded, axis=2).max() <= 1


def test_transparent_grey_keeps_its_grey_profile(tmp_path):
    Image.new("LA", (4, 4), (128, 255)).save(tmp_path / "x.png", icc_profile=grey_profile(1.0))
    assert np.abs(images.load(tmp_path / "x.png") - 188).max() <= 1


def test_cmyk_goes_through_its_profile(tmp_path):
    picture = Image.new("CMYK", (4, 2), (255, 0, 0, 0))
    picture.paste((0, 0, 0, 255), (2, 0, 4, 2))
    picture.save(tmp_path / "x.tif", icc_profile=cmyk_profile())
    loaded = images.load(tmp_path / "x.tif")
    assert np.abs(loaded[:, :2] - 255).max() <= 2  # water on white paper
    assert np.abs(loaded[:, 2:] - 119).max() <= 3  # L* = 50


def test_cmyk_without_profile(tmp_path):
    Image.new("CMYK", (4, 4), (0, 255, 255, 0)).save(tmp_path / "x.jpg", quality=95)
    assert np.abs(images.load(tmp_path / "x.jpg") - RED).max() <= 3


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("profile", ["broken", "empty", "lab", "unfitting"])
def test_useless_profile_is_ignored(tmp_path, mode, profile):
    unfitting = rgb_profile(SRGB_TO_XYZ, 1.0) if mode != "RGB" else grey_profile(1.0)
    data = {
        "broken": unfitting[:200],
        "empty": b"no profile at all",
        "lab": ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes(),
        "unfitting": unfitting,
    }[profile]
    colour = {"L": 128, "RGB": (10, 128, 250), "CMYK": (245, 127, 5, 0)}[mode]
    Image.new(mode, (4, 4), colour).save(tmp_path / "x.tif", icc_profile=data)
    expected = 128 if mode == "L" else (10, 128, 250)
    assert np.abs(images.load(tmp_path / "x.tif") - expected).max() == 0


# Orientation


UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"x.{suffix}"
    options = {"jpg": {"quality": 100, "subsampling": 0}, "webp": {"lossless": True}}
    Image.fromarray(quadrants()).save(path, exif=exif, **options.get(suffix, {}))
    expected = UPRIGHT[orientation](quadrants())
    assert images.image_size(path) == expected.shape[1::-1]
    assert np.abs(images.load(path) - expected).max() <= 3
    small = images.load(path, 20)  # a JPEG is then decoded at a quarter of its size
    assert small.shape == (*(side // 8 for side in expected.shape[:2]), 3)
    corners = np.ix_([0, -1], [0, -1])
    assert np.abs(small[corners] - expected[corners]).max() <= 6


NINE = b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHIHH", 0x0112, 3, 1, 9, 0)  # no such orientation


@pytest.mark.parametrize(
    "data", [b"", b"garbage", b"II*\0\xff\xff\xff\xff", b"II*\0\x08\0\0\0\x05", NINE]
)
def test_broken_exif_is_ignored(tmp_path, data, recwarn):
    Image.fromarray(quadrants()).save(tmp_path / "x.jpg", exif=b"Exif\0\0" + data)
    assert images.load(tmp_path / "x.jpg").shape == (80, 160, 3)
    assert images.image_size(tmp_path / "x.jpg") == (160, 80)
    assert not recwarn.list


# Transparency, and modes other than RGB


def translucent(mode):
    """8x2: opaque 0, half-transparent 0, invisible 0, opaque 200; and what that is on white."""
    alpha = np.repeat(np.uint8([255, 128, 0, 255]), 2)[None].repeat(2, axis=0)
    value = np.repeat(np.uint8([0, 0, 0, 200]), 2)[None].repeat(2, axis=0)
    bands = {"RGBA": [value, value, value], "LA": [value]}[mode]
    expected = np.repeat([0, 127, 255, 200], 2)[None, :, None]
    return Image.merge(mode, [Image.fromarray(band) for band in [*bands, alpha]]), expected


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
def test_alpha_is_laid_over_white(tmp_path, mode, suffix):
    picture, expected = translucent(mode)
    picture.save(tmp_path / f"x.{suffix}", **({"lossless": True} if suffix == "webp" else {}))
    assert np.abs(images.load(tmp_path / f"x.{suffix}") - expected).max() <= 1


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_resized_edges_have_no_fringe(tmp_path, mode):
    """White upon transparent black stays white everywhere, also where the filter mixes both."""
    picture = Image.new(mode, (64, 64), 0)
    picture.paste("white", (9, 9, 50, 50))
    picture.save(tmp_path / "x.png")
    assert images.load(tmp_path / "x.png", 13).min() == 255


def test_palette_is_looked_up_before_resizing(tmp_path):
    """Between red (0) and blue (2) lies purple, not the palette's green (1)."""
    picture = Image.fromarray(np.tile(np.uint8([0, 2]), (32, 16)), "P")
    picture.putpalette([*RED, *GREEN, *BLUE])
    picture.save(tmp_path / "x.png")
    assert (images.load(tmp_path / "x.png")[0, :2] == [RED, BLUE]).all()
    assert np.abs(images.load(tmp_path / "x.png", 8) - (127.5, 0, 127.5)).max() < 12


@pytest.mark.parametrize(("suffix", "transparency"), [("png", b"\xff\x00\x80"), ("gif", 1)])
def test_palette_with_transparency(tmp_path, suffix, transparency):
    picture = Image.fromarray(np.tile(np.uint8([0, 1, 2]), (3, 1)), "P")
    picture.putpalette([*RED, *GREEN, *BLUE])
    picture.save(tmp_path / f"x.{suffix}", transparency=transparency)
    blue = (127, 127, 255) if suffix == "png" else BLUE
    assert np.abs(images.load(tmp_path / f"x.{suffix}")[1] - [RED, WHITE, blue]).max() <= 1


def test_palette_with_alpha(tmp_path):
    picture = Image.new("PA", (2, 1))
    picture.putpalette([*RED, *GREEN])
    picture.putpixel((0, 0), (0, 255))
    picture.putpixel((1, 0), (1, 0))
    picture.save(tmp_path / "x.tif")
    assert (images.load(tmp_path / "x.tif") == [[RED, WHITE]]).all()


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_one_transparent_colour(tmp_path, mode):
    """The tRNS chunk of a PNG without an alpha channel."""
    picture = Image.new(mode, (2, 1), "black")
    picture.putpixel((1, 0), 200 if mode == "L" else (200, 200, 200))
    picture.save(tmp_path / "x.png", transparency=0 if mode == "L" else (0, 0, 0))
    assert (images.load(tmp_path / "x.png") == [[WHITE, (200, 200, 200)]]).all()


def test_one_bit_and_grey(tmp_path):
    bits = np.random.default_rng(0).integers(0, 2, (9, 17)).astype(bool)
    Image.fromarray(bits).save(tmp_path / "bits.png")
    assert (images.load(tmp_path / "bits.png") == 255 * bits[..., None]).all()
    grey = noise()[..., 0]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    assert (images.load(tmp_path / "grey.png") == grey[..., None]).all()


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [("I;16", "png"), ("I;16", "tif"), ("I;16B", "tif"), ("I", "tif"), ("I", "pgm")],
)
def test_16_bit_grey_is_scaled(tmp_path, monkeypatch, mode, suffix):
    values = np.array([[0, 128, 257, 25700, 40000, 65535]])
    dtype = {"I;16": "<u2", "I;16B": ">u2", "I": "<i4"}[mode]
    picture = Image.frombytes(mode, (6, 1), values.astype(dtype).tobytes())
    picture.save(tmp_path / f"x.{suffix}")
    monkeypatch.setattr(vips, "is_installed", lambda: False)
    expected = np.rint(values / 257)[..., None]
    assert (images.load(tmp_path / f"x.{suffix}") == expected).all()


def test_16_bit_colour_without_libvips(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO", "nst")
    monkeypatch.setattr(vips, "is_installed", lambda: False)
    values = np.array([[0, 25700, 65535], [65535, 257, 51400]], ">u2")
    (tmp_path / "x.png").write_bytes(png(2, 1, 16, 2, [values.tobytes()]))
    assert np.abs(images.load(tmp_path / "x.png") - [values / 257]).max() <= 1
    assert "of which 8 are read: pip install" in caplog.text


@pytest.mark.parametrize("scale", [1, 255])
def test_float_grey(tmp_path, scale):
    values = np.float32([[0, 0.25, 0.5, 1]]) * scale
    Image.fromarray(values).save(tmp_path / "x.tif")
    assert (images.load(tmp_path / "x.tif")[0, :, 0] == [0, 64, 128, 255]).all()


def test_lab(tmp_path):
    Image.new("LAB", (2, 2), (136, 208, 195)).save(tmp_path / "x.tif")  # L* 53, a* 80, b* 67
    assert np.abs(images.load(tmp_path / "x.tif") - RED).max() <= 12


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif", "mpo"])
def test_first_frame_of_several(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    second = Image.new("RGB", (64, 32), GREEN)
    Image.new("RGB", (64, 32), RED).save(path, save_all=True, append_images=[second])
    assert images.image_size(path) == (64, 32)
    assert np.abs(images.load(path) - RED).max() <= 3
    assert np.abs(images.load(path, 8) - RED).max() <= 3


# Sizes


@pytest.mark.parametrize(
    ("shape", "size", "expected"),
    [
        ((400, 300), 200, (200, 150)),
        ((300, 400), 200, (150, 200)),
        ((16, 16), 512, (512, 512)),
        ((4000, 200), 512, (512, 26)),
        ((5000, 2), 100, (100, 1)),
        ((333, 333), 77, (77, 77)),
    ],
)
def test_size_to_fit(shape, size, expected):
    assert images.size_to_fit(*shape, size) == expected


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize(
    ("shape", "size", "expected"),
    [((100, 2000), 300, (15, 300)), ((16, 16), 64, (64, 64)), ((16, 16), None, (16, 16))],
    ids=["panorama", "enlarged", "tiny"],
)
def test_load_size(tmp_path, shape, size, expected, suffix):
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(quadrants(*shape)).save(path, quality=95)
    loaded = images.load(path, size)
    assert loaded.shape == (*expected, 3)
    assert loaded.dtype == np.float32
    assert images.image_size(path) == shape[::-1]
    corners = loaded[np.ix_([0, -1], [0, -1])]
    assert np.abs(corners - [[RED, GREEN], [BLUE, WHITE]]).max() < 16


def test_reducing_is_antialiased(tmp_path):
    board = 255 * (np.indices((256, 256)).sum(axis=0) % 2).astype(np.uint8)
    Image.fromarray(board).save(tmp_path / "x.png")
    assert np.abs(images.load(tmp_path / "x.png", 50)[4:-4, 4:-4] - 127.5).max() < 2


def test_jpeg_is_decoded_small_but_at_twice_the_target(tmp_path, monkeypatch):
    decoded = []
    plain_load = JpegImagePlugin.JpegImageFile.load

    def load(self):
        decoded.append(self.size)
        return plain_load(self)

    monkeypatch.setattr(JpegImagePlugin.JpegImageFile, "load", load)
    Image.new("RGB", (2000, 1000)).save(tmp_path / "x.jpg")
    assert images.load(tmp_path / "x.jpg", 240).shape == (120, 240, 3)
    assert set(decoded) == {(500, 250)}


def test_two_hundred_megapixels(tmp_path):
    """More than Pillow reads without being asked."""
    Image.new("L", (16000, 12500), 77).save(tmp_path / "x.jpg")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = images.load(tmp_path / "x.jpg", 512)
        assert images.image_size(tmp_path / "x.jpg") == (16000, 12500)
    assert loaded.shape == (400, 512, 3)
    assert np.abs(loaded - 77).max() <= 1
    assert Image.MAX_IMAGE_PIXELS < 10**8  # of other parts of a program


def test_more_pixels_than_memory(tmp_path, monkeypatch):
    """The largest that can be made here: its header is read, of its pixels none."""
    (tmp_path / "x.png").write_bytes(png(65535, 65535, 8, 2, [bytes(10)]))
    monkeypatch.setattr(memory, "available", lambda: 8 * 65535**2 - 1)
    assert images.image_size(tmp_path / "x.png") == (65535, 65535)
    with pytest.raises(UserError) as error:
        images.load(tmp_path / "x.png", 512)
    assert "not enough memory" in one_sentence(error, f"cannot read {tmp_path / 'x.png'}: ")
    written(tmp_path / "y.png")
    monkeypatch.setattr(memory, "available", lambda: 8 * 200 * 300)
    assert images.load(tmp_path / "y.png").shape == (200, 300, 3)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
def test_image_size_reads_no_pixels(tmp_path, monkeypatch, suffix):
    Image.fromarray(noise()).save(tmp_path / f"x.{suffix}")
    decoded = []
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: decoded.append(self))
    assert images.image_size(tmp_path / f"x.{suffix}") == (60, 40)
    assert not decoded


def test_arrays_are_images_too():
    image = noise()
    assert images.image_size(image) == (60, 40)
    loaded = images.load(image)
    assert loaded.dtype == np.float32
    assert (loaded == image).all()
    loaded += 1  # a copy of its own
    assert images.load(image[::-1, ::-1], 30).shape == (20, 30, 3)
    assert (images.load(image[:, ::-1]) == image[:, ::-1]).all()


@pytest.mark.parametrize(
    "array",
    [noise().astype(np.float32), noise()[..., 0], noise()[None], noise()[..., :2], noise()[:0]],
)
def test_other_arrays_are_refused(array):
    with pytest.raises(UserError, match=r"must be uint8 of shape \[height, width, 3\]"):
        images.load(array)
    with pytest.raises(UserError):
        images.image_size(array)


def test_resize():
    image = noise().astype(np.float32)
    assert np.abs(images.resize(image, 40, 60) - image).max() < 1e-3
    board = np.repeat(255.0 * (np.indices((64, 64)).sum(axis=0) % 2)[..., None], 3, axis=2)
    assert np.abs(images.resize(board, 16, 12)[2:-2, 2:-2] - 127.5).max() < 2
    flat = np.full((7, 9, 3), (0.25, 100.5, 254.75), np.float32)
    enlarged = images.resize(flat, 20, 31)
    assert enlarged.shape == (20, 31, 3)
    assert enlarged.dtype == np.float32
    assert np.abs(enlarged - flat[0, 0]).max() < 1e-3


def test_resize_keeps_within_range():
    edge = np.zeros((16, 16, 3), np.float32)
    edge[:, 8:] = 255  # Lanczos overshoots on both sides of it
    enlarged = images.resize(edge, 64, 64)
    assert enlarged.min() == 0
    assert enlarged.max() == 255


# Files that cannot be read


def written(path, suffix="png", **options):
    Image.fromarray(noise(200, 300)).save(path, suffix, **options)
    return path.read_bytes()


def one_sentence(error, start):
    message = str(error.value)
    assert message.startswith(start)
    assert "\n" not in message
    assert ". " not in message
    assert ";" in message  # what to do about it
    return message


HEIC = struct.pack(">I", 24) + b"ftypheic" + bytes(4) + b"mif1heic" + bytes(500)  # no picture
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n%%EndComments\nshowpage\n"
BOMB = png(100_000, 100_000, 8, 2, [bytes(10)])


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("text.jpg", b"This is no picture.\n" * 50, "damaged or of an unknown format"),
        ("empty.png", b"", "the file is empty"),
        ("IMG_0001.HEIC", HEIC, "damaged or incomplete; fetch it again, or convert it"),
        ("renamed.jpg", HEIC, "damaged or incomplete; fetch it again, or convert it"),
        ("bomb.png", BOMB, "more than 4295 megapixels; make it smaller"),
        ("drawing.eps", EPS, "unknown format; convert it to JPEG or PNG first"),
        ("movie.mp4", HEIC.replace(b"ftypheic", b"ftypisom"), "damaged or of an unknown format"),
    ],
)
@pytest.mark.parametrize("read", [images.load, images.image_size])
def test_bad_file(tmp_path, name, content, reason, read):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        read(tmp_path / name)
    assert reason in one_sentence(error, f"cannot read {tmp_path / name}: ")


@pytest.mark.parametrize("read", [images.load, images.image_size])
def test_missing_file_and_folder(tmp_path, monkeypatch, read):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        read("photo.jpg")
    assert f"looked in {tmp_path}" in one_sentence(error, "cannot read photo.jpg: no such file")
    with pytest.raises(UserError) as error:
        read(tmp_path)
    one_sentence(error, f"cannot read {tmp_path}: it is a folder")


def save_heic(path, picture, **options):
    """As a phone does, but with next to no loss."""
    pillow_heif.from_pillow(picture).save(path, quality=-1, chroma=444, **options)


@pytest.mark.parametrize("name", ["IMG_0001.HEIC", "DSC_0001.hif", "renamed.jpg"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_heic(tmp_path, orientation, name):
    exif = Image.Exif()
    exif[0x0112] = orientation
    save_heic(tmp_path / name, Image.fromarray(quadrants()), exif=exif.tobytes())
    expected = UPRIGHT[orientation](quadrants())
    assert images.image_size(tmp_path / name) == expected.shape[1::-1]
    assert np.abs(images.load(tmp_path / name) - expected).max() <= 3
    assert max(images.load(tmp_path / name, 20).shape) == 20


def test_heic_with_a_profile_and_with_transparency(tmp_path):
    stored = noise()
    profile = rgb_profile(P3_TO_XYZ, 2.2)
    picture = Image.fromarray(stored)
    picture.save(tmp_path / "x.png", icc_profile=profile)
    picture.info["icc_profile"] = profile
    save_heic(tmp_path / "x.heic", picture)
    difference = images.load(tmp_path / "x.heic") - images.load(tmp_path / "x.png")
    assert np.abs(difference).mean() < 1
    picture, expected = translucent("RGBA")
    save_heic(tmp_path / "y.heic", picture)
    assert np.abs(images.load(tmp_path / "y.heic") - expected).max() <= 3


@pytest.mark.parametrize("read", [images.load, images.image_size])
def test_heic_without_what_reads_it(tmp_path, monkeypatch, read):
    save_heic(tmp_path / "x.heic", Image.fromarray(noise()))
    monkeypatch.setitem(sys.modules, "pi_heif", None)
    with pytest.raises(UserError) as error:
        read(tmp_path / "x.heic")
    message = one_sentence(error, f"cannot read {tmp_path / 'x.heic'}: it is a HEIC image")
    assert "pip install pi-heif" in message


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_truncated_heic(tmp_path, share):
    path = tmp_path / "cut.heic"
    save_heic(path, Image.fromarray(noise()))
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(UserError) as error:
        images.load(path)
    one_sentence(error, f"cannot read {path}: it is damaged or incomplete")


@pytest.mark.parametrize("size", [None, 16])
@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        ("jpeg", {}),
        ("jpeg", {"progressive": True}),
        ("png", {}),
        ("webp", {}),
        ("tiff", {}),
        ("tiff", {"compression": "tiff_adobe_deflate"}),
        ("gif", {}),
    ],
)
def test_truncated_file(tmp_path, suffix, options, size):
    path = tmp_path / "cut"
    data = written(path, suffix, **options)
    for share in (0.5, 0.95):
        path.write_bytes(data[: int(share * len(data))])
        with pytest.raises(UserError) as error:
            images.load(path, size)
        one_sentence(error, f"cannot read {path}: it is ")


# Saving


@pytest.mark.parametrize("suffix", [*images.FORMATS, ".PNG", ".Jpg"])
def test_round_trip(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    ramp = np.linspace(0, 255, 64)
    image = np.stack(np.broadcast_arrays(ramp[:, None], ramp[None], 128.0), -1).astype(np.uint8)
    images.save(path, image)
    lossless = images.FORMATS[suffix.lower()]["format"] in {"PNG", "TIFF"}
    assert np.abs(images.load(path) - image).max() <= (0 if lossless else 6)
    with Image.open(path) as saved:
        assert saved.format == images.FORMATS[suffix.lower()]["format"]
        profile = saved.info["icc_profile"]
        if saved.format == "JPEG":
            assert {layer[1:3] for layer in saved.layer} == {(1, 1)}
    with tempfile.TemporaryFile() as file:
        file.write(profile)
        file.seek(0)
        assert "sRGB" in ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(file))
    assert list(tmp_path.iterdir()) == [path]


def test_tiff_is_compressed(tmp_path):
    images.save(tmp_path / "x.tif", np.zeros((100, 100, 3), np.uint8))
    assert (tmp_path / "x.tif").stat().st_size < 3000


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_floats_are_rounded_and_clipped(tmp_path, dtype):
    row = np.array([-20, 0.4, 0.6, 99.5 + 0.25, 254.7, 300], dtype)
    images.save(tmp_path / "x.png", np.tile(row[None, :, None], (2, 1, 3)))
    assert (images.load(tmp_path / "x.png")[0, :, 0] == [0, 0, 1, 100, 255, 255]).all()


def test_equal_images_make_equal_files(tmp_path):
    """In two processes, because a profile made afresh has the time in it."""
    save = "from nstlib import images; import numpy; images.save({!r}, numpy.ones((9, 9, 3)))"
    images.save(tmp_path / "a.png", np.ones((9, 9, 3)))
    time.sleep(1)
    command = [sys.executable, "-c", save.format(str(tmp_path / "b.png"))]
    subprocess.run(command, cwd=Path(images.__file__).parent.parent, check=True)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o027])
def test_permissions_follow_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        images.save(tmp_path / "x.png", noise())
    finally:
        os.umask(before)
    assert (tmp_path / "x.png").stat().st_mode & 0o777 == 0o666 & ~umask


def test_link_is_followed(tmp_path):
    (tmp_path / "real").mkdir()
    images.save(tmp_path / "real" / "x.png", noise())
    (tmp_path / "link.png").symlink_to(tmp_path / "real" / "x.png")
    images.save(tmp_path / "link.png", 255 - noise())
    assert (tmp_path / "link.png").is_symlink()
    assert (images.load(tmp_path / "real" / "x.png") == 255 - noise()).all()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with an earlier result, x.png; beside it others, for rescue, work and home."""
    for name in ("out", "rescue", "work", "home"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "rescue"))
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "out" / "x.png").write_bytes(b"the earlier file")
    return tmp_path / "out"


def fail_in(monkeypatch, step, error, *folders):
    """Make one step of saving fail for files in these folders."""
    owner, name = {"open": (Path, "open"), "replace": (Path, "replace"), "sync": (os, "fsync")}[
        step
    ]
    plain = getattr(owner, name)

    def failing(self, *args, **kwargs):
        path = Path(f"/proc/self/fd/{self}").readlink() if step == "sync" else self
        if path.parent in folders and path.suffix == ".tmp":
            raise error
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(owner, name, failing)


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("step", "error"),
    [
        ("open", FULL),
        ("sync", OSError(errno.EIO, os.strerror(errno.EIO))),
        ("replace", PermissionError(errno.EACCES, os.strerror(errno.EACCES))),
    ],
)
@pytest.mark.parametrize("full", [["out"], ["out", "rescue"], ["out", "rescue", "work"]])
def test_failed_save_rescues_the_image(folder, monkeypatch, step, error, full):
    """Into the first of these folders that takes it."""
    fail_in(monkeypatch, step, error, *(folder.parent / name for name in full))
    with pytest.raises(UserError) as raised:
        images.save(folder / "x.png", noise())
    message = one_sentence(raised, f"cannot write {folder / 'x.png'}: ")
    assert error.strerror in message
    assert [path.name for path in folder.iterdir()] == ["x.png"]
    assert (folder / "x.png").read_bytes() == b"the earlier file"
    (rescue,) = folder.parent.glob("*/x-*.png")
    assert rescue.parent.name == ["rescue", "work", "home"][len(full) - 1]
    assert str(rescue) in message
    assert (images.load(rescue) == noise()).all()


@pytest.mark.parametrize("suffix", [*images.FORMATS])
def test_no_cut_picture_on_a_full_disk(folder, suffix):
    """A limit on files stands for the disk: what is beyond is not written, at first silently."""
    path = folder / f"y{suffix}"
    path.write_bytes(b"the earlier file")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (32768, before[1]))
    try:
        with pytest.raises(UserError, match="File too large; nor anywhere else"):
            images.save(path, noise(300, 300))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_bytes() == b"the earlier file"
    assert sum(1 for x in folder.parent.rglob("*") if x.is_file()) == 2


def test_vanished_folder_rescues_the_image(folder):
    metadata = {"version": "1.2", "content": "a.jpg", "style": ["b.jpg"], "settings": {}}
    with pytest.raises(UserError, match="No such file or directory") as raised:
        images.save(folder / "gone" / "x.jpg", noise(), metadata)
    (rescue,) = (folder.parent / "rescue").iterdir()
    assert str(rescue) in str(raised.value)
    assert (images.load(rescue) == noise()).all()
    assert images.read_metadata(rescue) == metadata


def test_too_wide_for_webp_rescues_the_image(folder):
    with pytest.raises(UserError, match=r"cannot write .*x\.webp: .*16383.* is in "):
        images.save(folder / "x.webp", np.zeros((1, 16384, 3), np.uint8))
    (rescue,) = (folder.parent / "rescue").iterdir()
    assert images.image_size(rescue) == (16384, 1)


def test_too_long_a_name_rescues_the_image(folder):
    with pytest.raises(UserError, match="File name too long; the image is in "):
        images.save(folder / f"{'n' * 300}.png", noise())
    (rescue,) = (folder.parent / "rescue").iterdir()
    assert (images.load(rescue) == noise()).all()


def test_nowhere_to_write(folder, monkeypatch):
    places = [folder.parent / name for name in ("out", "rescue", "work", "home")]
    fail_in(monkeypatch, "open", FULL, *places)
    with pytest.raises(UserError) as raised:
        images.save(folder / "x.png", noise())
    assert "nor anywhere else" in one_sentence(raised, f"cannot write {folder / 'x.png'}: ")


def test_interrupted_save_leaves_nothing(folder, monkeypatch):
    fail_in(monkeypatch, "replace", KeyboardInterrupt(), folder)
    with pytest.raises(KeyboardInterrupt):
        images.save(folder / "x.png", noise())
    assert list(folder.iterdir()) == [folder / "x.png"]
    assert (folder / "x.png").read_bytes() == b"the earlier file"


# Checking the result's path before the run


@pytest.mark.parametrize(
    ("name", "size", "depth", "reason"),
    [
        ("x.jpg", 65501, 8, "a JPEG has at most 65500 pixels a side, not 65501"),
        ("x.WEBP", 16384, 8, "a WEBP has at most 16383 pixels a side, not 16384"),
        ("x.jpeg", 64, 16, "a JPEG has no 16 bits a channel"),
        ("x.webp", 64, 16, "a WEBP has no 16 bits a channel"),
    ],
)
def test_what_a_format_cannot_hold(name, size, depth, reason):
    with pytest.raises(UserError) as error:
        images.check_format(name, size, depth)
    message = one_sentence(error, f"cannot write {name}: ")
    assert message.endswith(f"{reason}; name a .png or .tif")
    images.check_format(name, size - 1, 8)
    images.check_format("x.png", images.MAX_SIZE)


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".png", ".tif"])
def test_what_a_format_can_hold(tmp_path, suffix):
    longest = images.LONGEST.get(images.FORMATS[suffix]["format"], images.MAX_SIZE)
    images.check_format(tmp_path / f"x{suffix}", min(longest, 30_000))
    images.save(tmp_path / f"x{suffix}", np.full((1, longest, 3), 99, np.uint8))
    assert images.image_size(tmp_path / f"x{suffix}") == (longest, 1)
    assert np.abs(images.load(tmp_path / f"x{suffix}") - 99).max() <= 1


@pytest.mark.parametrize("name", ["new.png", "x.png", "new.TIFF", "link.jpg"])
def test_good_result_path(folder, name):
    (folder / "link.jpg").symlink_to("elsewhere.jpg")
    before = sorted(folder.iterdir())
    images.check_result_path(folder / name)
    assert sorted(folder.iterdir()) == before
    assert (folder / "x.png").read_bytes() == b"the earlier file"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("x.bmp", "the ending .bmp is unknown; use one of .jpg, .jpeg, .png, .webp, .tif, .tiff"),
        ("x", "its name has no ending; use one of .jpg, .jpeg, .png, .webp, .tif, .tiff"),
        ("folder.png", "it is a folder"),
        ("gone/x.png", "create it first"),
        ("x.png/y.png", "there is no folder"),
        ("pipe.png", "not a regular file"),
        ("n" * 300 + ".png", "File name too long"),
    ],
)
def test_bad_result_path(folder, name, reason):
    (folder / "folder.png").mkdir()
    os.mkfifo(folder / "pipe.png")
    before = sorted(folder.iterdir())
    with pytest.raises(UserError) as error:
        images.check_result_path(folder / name)
    assert reason in one_sentence(error, f"cannot write {folder / name}: ")
    assert sorted(folder.iterdir()) == before


def test_unknown_ending_is_refused_before_anything_is_written(folder):
    with pytest.raises(UserError, match=r"the ending \.bmp is unknown"):
        images.save(folder / "x.bmp", noise())
    assert list(folder.iterdir()) == [folder / "x.png"]


# Numbers


@pytest.mark.parametrize("odd", [1.001, 40.0, np.inf, np.nan, -np.inf])
def test_one_odd_float_does_not_darken_the_others(tmp_path, odd):
    values = np.full((8, 8), 0.5, np.float32)
    values[0, 0] = odd
    Image.fromarray(values).save(tmp_path / "x.tif")
    loaded = images.load(tmp_path / "x.tif")
    assert (loaded[1:] == 128).all()
    assert loaded[0, 0, 0] == (255 if odd > 1 else 0)


@pytest.mark.parametrize(
    ("shape", "size", "scale", "advice"),
    [
        ((100, 100), 64, 0.1, "make --size at least 160"),
        ((100, 125), 64, 0.1, "make --size at least 200"),
        ((1, 300), 64, 1.0, "make --size at least 4800"),
        ((1, 5000), 64, 1.0, "crop it"),
    ],
)
def test_advice_for_thin_pictures_can_be_followed(shape, size, scale, advice):
    image = np.zeros((*shape, 3), np.uint8)

    def check(size):
        images.check_size(image, images.load(image, round(size * scale)), size, scale)

    with pytest.raises(UserError, match=rf"too thin: {advice}$"):
        check(size)
    if advice != "crop it":
        check(int(advice.split()[-1]))


@pytest.mark.parametrize(
    ("size", "scale", "said"),
    [
        (64, 2.0, ["x.png has only 90 x 120 pixels: it is enlarged to 96 x 128 (--style_scale)"]),
        (200, 2.0, ["x.png has only 90 x 120 pixels: it is enlarged to 300 x 400 (--size)"]),
        (120, 1.0, []),
        (64, 1.0, []),
    ],
)
def test_enlarging_and_its_cause_are_told(tmp_path, monkeypatch, caplog, size, scale, said):
    monkeypatch.chdir(tmp_path)
    images.save("x.png", noise(120, 90))
    images.check_size("x.png", images.load("x.png", round(size * scale)), size, scale)
    assert caplog.messages == said


@pytest.mark.parametrize("shape", [(1, 1), (40, 60), (1, 600_000), (600_000, 1), (700, 1000)])
def test_strips_are_all_of_the_rows_once(shape):
    rows = np.arange(shape[0])
    parts = [rows[part] for part in images.strips(*shape)]
    assert (np.concatenate(parts) == rows).all()
    assert max(map(len, parts)) * shape[1] <= max(2**18, shape[1])


def test_resize_to_the_same_size_changes_nothing():
    image = np.float32(noise()) + 0.25
    assert images.resize(image, *image.shape[:2]) is image
