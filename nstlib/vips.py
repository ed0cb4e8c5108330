"""Image files by libvips, which can do what Pillow cannot: 16 bits a channel, TIFFs above 4 GB.

Its package, pyvips, is imported only where it is needed.
"""

import contextlib
import os
import re
from types import ModuleType

import numpy as np
from PIL import ExifTags, Image, ImageFile

from nstlib import UserError

INSTALL = "pip install 'pyvips[binary]'"
BIG = 4e9  # bytes of pixels, from which on a TIFF is a BigTIFF: offsets of 32 bits end at 4.29e9


def is_installed() -> bool:
    try:
        _library()
    except (ImportError, OSError):  # the latter for a pyvips without libvips
        return False
    return True


def check(option: str) -> None:
    """Raise UserError where libvips is missing; `option` is what needs it."""
    if not is_installed():
        raise UserError(f"{option} needs pyvips: {INSTALL}")


def is_deep(im: ImageFile.ImageFile) -> bool:
    """Whether an opened file is a PNG or TIFF, grey or RGB, of which Pillow drops 8 bits of 16."""
    if im.format not in ("PNG", "TIFF") or not im.tile:
        return False
    arguments = im.tile[0].args  # the raw mode, alone or first among others
    mode = arguments[0] if isinstance(arguments, tuple) else arguments
    return bool(re.fullmatch("(I|LA|RGB|RGBA);16[BLN]?", str(mode)))


def read(im: ImageFile.ImageFile, srgb: bytes) -> np.ndarray:
    """A file that `is_deep` as float32 RGB [H, W, 3] in 0..255: upright, over white, in sRGB.

    srgb: the profile of pictures that are sRGB already. Raises pyvips.Error for damaged files.
    """
    pyvips = _library()
    assert im.fp is not None  # it is open
    im.fp.seek(0)
    data = im.fp.read()
    image = pyvips.Image.new_from_buffer(data, "", access="sequential", fail_on="error")
    if image.hasalpha():
        image = image.flatten(background=65535)
    profile = "icc-profile-data"
    if image.get_typeof(profile) and image.get(profile) != srgb:
        with contextlib.suppress(pyvips.Error):  # broken, or for other channels
            image = image.icc_transform("srgb", embedded=True, depth=16)
    upright = image.copy_memory().autorot()  # in memory, where rows come in any order
    # Grey comes with fewer axes, and so does a single pixel.
    values = upright.numpy().reshape(upright.height, upright.width, upright.bands)
    return np.broadcast_to(values, (*values.shape[:2], 3)) / np.float32(257)


def encode(values: np.ndarray, format: str, profile: bytes, exif: Image.Exif | None) -> bytes:
    """An image, uint8 or uint16 [H, W, 3], as a "PNG" or "TIFF" with this colour profile.

    Of EXIF data, a TIFF keeps the description alone.
    """
    pyvips = _library()
    height, width, channels = values.shape
    deep = values.dtype == np.uint16
    kind, space = ("ushort", "rgb16") if deep else ("uchar", "srgb")
    image = pyvips.Image.new_from_memory(
        np.ascontiguousarray(values).data, width, height, channels, kind
    )
    image = image.copy(interpretation=space, xres=72 / 25.4, yres=72 / 25.4)  # pixels a millimetre
    image.set_type(pyvips.GValue.blob_type, "icc-profile-data", profile)
    if format == "PNG":
        if exif:
            image.set_type(pyvips.GValue.blob_type, "exif-data", exif.tobytes())
        return image.pngsave_buffer(filter="paeth")
    if exif and (text := exif.get(ExifTags.Base.ImageDescription)):
        image.set_type(pyvips.GValue.gstr_type, "image-description", text)
    big = values.nbytes > BIG
    return image.tiffsave_buffer(compression="deflate", predictor="horizontal", bigtiff=big)


def _library() -> ModuleType:
    os.environ.setdefault("VIPS_WARNING", "0")  # or it would write of every oddity to stderr
    import pyvips

    pyvips.cache_set_max(0)  # of results, which would keep images in memory
    return pyvips
