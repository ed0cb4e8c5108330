"""Images in and out of files: every conversion a photograph needs, and saving that loses nothing.

Inside the program an image is RGB in sRGB, [H, W, 3], 0..255. This module never imports TensorFlow.
"""

import contextlib
import io
import json
import logging
import math
import os
import tempfile
import threading
import uuid
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageFile, UnidentifiedImageError

from nstlib import UserError, fetch, paths, vips
from nstlib.paths import why

log = logging.getLogger("nst")

# How a result is saved, by the ending of its name.
FORMATS = {
    ".jpg": {"format": "JPEG", "quality": 95, "subsampling": 0},  # 0: full-resolution colour
    ".jpeg": {"format": "JPEG", "quality": 95, "subsampling": 0},
    ".png": {"format": "PNG"},
    ".webp": {"format": "WEBP", "quality": 95},
    ".tif": {"format": "TIFF", "compression": "tiff_adobe_deflate"},
    ".tiff": {"format": "TIFF", "compression": "tiff_adobe_deflate"},
}

Picture = str | os.PathLike | np.ndarray  # a file or its address, or uint8 [H, W, 3]
MAX_SIZE = 65_535  # pixels, of --size
LONGEST = {"JPEG": 65_500, "WEBP": 16_383}  # pixels a side, of formats that have less
DEPTHS = 8, 16  # bits a channel; PNG and TIFF alone have 16

# A fixed date (2000-01-01) in the profile's header, so that equal images make equal files.
_SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
_SRGB = _SRGB[:24] + np.array([2000, 1, 1, 0, 0, 0], ">u2").tobytes() + _SRGB[36:]

_ASCII = b"ASCII\0\0\0"  # the character code that a user comment begins with; JSON escapes the rest

# What brings an image upright, by its EXIF orientation.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def size_to_fit(width: int, height: int, size: int) -> tuple[int, int]:
    """(width, height) with the same aspect, whose longest side is `size`; each at least 1."""
    scale = size / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def load(path: Picture, size: int | None = None) -> np.ndarray:
    """Read an image as float32 RGB [H, W, 3] in 0..255, upright, in sRGB and without transparency.

    path: a file (of an animation, the first frame), or an array, uint8 [H, W, 3].
    size: the longest side of the result in pixels, None to keep it as it is.
    Colour profiles are converted to sRGB; what is transparent is laid over white. 16 bits a channel
    are read as such where libvips is installed, else 8 of them.
    Raises UserError where the file cannot be read or the array is none of these.
    """
    if isinstance(path, np.ndarray):
        picture = Image.fromarray(_checked(path))
        if size is not None:
            picture = picture.resize(size_to_fit(*picture.size, size), Image.Resampling.LANCZOS)
        return _to_float(picture)
    with _reading(path) as im:
        deep = vips.is_deep(im)
        if not deep or not vips.is_installed():
            if deep:
                log.info("%s has 16 bits a channel, of which 8 are read: %s", path, vips.INSTALL)
            return _to_float(_decode(im, size))
        _check_memory(im, 25)
        image = vips.read(im, _SRGB)
    if size is None:
        return image
    width, height = size_to_fit(image.shape[1], image.shape[0], size)
    return resize(image, height, width)


def image_size(path: Picture) -> tuple[int, int]:
    """(width, height) in pixels that `load(path)` will have; reads the file's header only.

    An orientation written after the pixels, as very few PNGs have it, is not seen.
    Raises UserError like `load`.
    """
    if isinstance(path, np.ndarray):
        height, width, _ = _checked(path).shape
        return width, height
    with _reading(path) as im:
        # Pillow gives a TIFF's size as it will be once upright.
        sideways = im.format != "TIFF" and _orientation(im) in range(5, 9)
        width, height = im.size
        return (height, width) if sideways else (width, height)


def check_size(source, image: np.ndarray, size: int, scale: float = 1.0) -> None:
    """Say how large a picture is used, and warn where that enlarges it; raise UserError where it
    would be too thin.

    image: as it was loaded, its longest side `size` (--size) times `scale` (--style_scale).
    """
    name = "an image" if isinstance(source, np.ndarray) else source
    before = image_size(source)
    sizes = (*before, *image.shape[1::-1])
    log.info("%s: %d x %d pixels, used at %d x %d", name, *sizes)
    if max(image.shape) > max(before):
        cause = "--size" if size > max(before) else "--style_scale"
        enlarged = "%s has only %d x %d pixels: it is enlarged to %d x %d (%s)"
        log.warning(enlarged, name, *sizes, cause)
    if min(image.shape[:2]) < 16:
        least = math.ceil(16 * max(before) / min(before) / scale)
        advice = f"make --size at least {least}" if least <= MAX_SIZE else "crop it"
        used = f"--size {size}" if scale == 1 else f"--size {size} and --style_scale {scale:g}"
        raise UserError(
            f"{name} at {used} would be {sizes[2]} x {sizes[3]} pixels, too thin: {advice}"
        )


def load_mask(path: str | os.PathLike, height: int, width: int) -> np.ndarray:
    """The brightness of an image as float32 [height, width, 1], 255 where it is white.

    Raises UserError like `load`, and where there is no white.
    """
    mask = resize(load(path).mean(axis=-1, keepdims=True), height, width)
    if mask.max() < 128:
        raise UserError(f"the mask {path} is nowhere white, so that its style would be nowhere")
    return mask


def rescale(image: np.ndarray, factor: float) -> np.ndarray:
    """[H, W, C] to `factor` times its size, as a smaller `size` would have loaded it."""
    return resize(image, *(max(1, round(side * factor)) for side in image.shape[:2]))


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """[H, W, C] in 0..255 to float32 [height, width, C], antialiased (Lanczos).

    An image that has this size already is returned itself.
    """
    if image.shape[:2] == (height, width):
        return image
    resized = np.empty((height, width, image.shape[2]), np.float32)
    for k in range(image.shape[2]):
        channel = Image.fromarray(np.float32(image[..., k]))
        channel = channel.resize((width, height), Image.Resampling.LANCZOS)
        resized[..., k] = np.asarray(channel)
    return resized.clip(0, 255, out=resized)


def strips(height: int, width: int) -> Iterator[slice]:
    """The rows of an image, some at a time: what is done pixel by pixel needs no other arrays of
    the whole image's size then."""
    rows = max(1, 2**18 // max(1, width))
    return (slice(top, top + rows) for top in range(0, height, rows))


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Rounded, not cut off, to the nearest of 0..255."""
    return _to_integers(image, np.uint8)


def to_uint16(image: np.ndarray) -> np.ndarray:
    """From 0..255 to the nearest of 0..65535, which stands for 255."""
    return _to_integers(image, np.uint16)


def _to_integers(image: np.ndarray, dtype: type) -> np.ndarray:
    image = np.asarray(image)
    rounded = np.empty(image.shape, dtype)
    for rows in strips(image.shape[0], image.shape[1]):
        levels = np.float32(image[rows]).clip(0, 255) * np.float32(np.iinfo(dtype).max / 255)
        rounded[rows] = np.rint(levels, out=levels)
    return rounded


def check_result_path(
    path: str | os.PathLike,
    sources: Iterable[str | os.PathLike] = (),
    endings: Iterable[str] = FORMATS,
) -> None:
    """See paths.check_result_path."""
    paths.check_result_path(path, endings, sources)


def check_format(path: str | os.PathLike, size: int, depth: int = 8) -> None:
    """Raise UserError unless `save` can write an image there, of `size` pixels a side and so many
    bits a channel."""
    paths.check_ending(path, FORMATS)
    if depth not in DEPTHS:
        raise UserError(f"--depth must be one of {', '.join(map(str, DEPTHS))}, not {depth}")
    format = FORMATS[Path(path).suffix.lower()]["format"]
    if size > (most := LONGEST.get(format, MAX_SIZE)):
        raise UserError(
            f"cannot write {path}: a {format} has at most {most} pixels a side, not {size}; "
            "name a .png or .tif"
        )
    if depth > 8 and format not in ("PNG", "TIFF"):
        raise UserError(
            f"cannot write {path}: a {format} has no {depth} bits a channel; name a .png or .tif"
        )
    if _needs_vips(format, 3 * size**2, depth):
        vips.check(f"--depth {depth}" if depth > 8 else f"a TIFF of {size} pixels")


def save(
    path: str | os.PathLike, image: np.ndarray, metadata: dict | None = None, depth: int = 8
) -> None:
    """Write an image, in the format that the ending of `path` names; see FORMATS.

    image: [H, W, 3], uint8 or float in 0..255, which is clipped and rounded.
    metadata: what `read_metadata` gives back, of JSON's types; has "version" and "settings".
    depth: bits a channel, one of DEPTHS; `check_format` tells what can be written.
    An earlier file at `path` is replaced once the new one is whole, and untouched if that fails.
    Then UserError says why, and in which PNG the image is instead: in the folder of temporary
    files, the working folder or the home folder, wherever there is room.
    """
    check_format(path, 0, depth)
    picture = to_uint8(image) if depth == 8 else to_uint16(image)
    try:
        paths.write(path, _encode(picture, FORMATS[Path(path).suffix.lower()], metadata))
    except Exception as error:  # Pillow raises ValueError and others besides OSError
        rescue = _rescue(Path(path).stem[:40], picture, metadata)
        end = f"the image is in {rescue} instead" if rescue else "nor anywhere else; it is lost"
        raise UserError(f"cannot write {path}: {why(error)}; {end}") from error


def read_metadata(path: str | os.PathLike) -> dict | None:
    """The metadata that `save` was given, None for an image without, or with another program's.

    Raises UserError where the file cannot be read as an image.
    """
    with _reading(path) as im:
        try:
            exif = im.getexif()
            if im.format == "TIFF":
                text = exif[ExifTags.Base.ImageDescription]
            else:
                text = exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment]
                text = text.removeprefix(_ASCII)
            metadata = json.loads(text)
        except Exception:  # damaged or foreign data makes Pillow and json raise almost anything
            return None
    return metadata if _is_ours(metadata) else None


def is_foreign(path: str | os.PathLike) -> bool:
    """Whether there is a picture that this program did not make, as far as can be seen."""
    try:
        return read_metadata(path) is None
    except UserError:  # none, or it is damaged
        return False


def _is_ours(metadata) -> bool:
    """Whether this is of the form that metadata have, for none of their readers to stumble."""
    if not isinstance(metadata, dict) or not isinstance(metadata.get("settings"), dict):
        return False
    styles = metadata.get("style")
    files = [metadata.get("content"), *(styles if isinstance(styles, list) else [None])]
    return all(isinstance(name, str) for name in files)


def _needs_vips(format: str, size: int, depth: int) -> bool:
    """Whether Pillow cannot write an image: of this depth, or of so many bytes."""
    return depth > 8 or (format == "TIFF" and size > vips.BIG)


def _encode(image: np.ndarray, options: dict, metadata: dict | None) -> memoryview:
    """An image, uint8 or uint16 [H, W, 3], as a file: made in memory, for Pillow ignores what a
    full disk does not take."""
    format = options["format"]
    if metadata:
        options = {**options, "exif": _exif(metadata, format)}
    if _needs_vips(format, image.nbytes, 8 * image.itemsize):
        return memoryview(vips.encode(image, format, _SRGB, options.get("exif")))
    file = io.BytesIO()
    Image.fromarray(image).save(file, icc_profile=_SRGB, **options)
    return file.getbuffer()


def _rescue(stem: str, picture: np.ndarray, metadata: dict | None) -> Path | None:
    """Where a PNG of an image that could be written elsewhere is now; None for nowhere."""
    with contextlib.suppress(Exception):
        data = _encode(picture, FORMATS[".png"], metadata)
        for place in (tempfile.gettempdir, Path.cwd, Path.home):
            with contextlib.suppress(OSError, RuntimeError):  # no such place, or no room in it
                path = Path(place(), f"{stem}-{uuid.uuid4().hex[:8]}.png")
                paths.write(path, data)
                return path
    return None


def _exif(metadata: dict, format: str) -> Image.Exif:
    """The metadata as JSON in the user comment; in the description of a TIFF, for Pillow cannot
    write a compressed one with the directory that user comments belong into."""
    exif = Image.Exif()
    exif[ExifTags.Base.Software] = f"nst {metadata['version']}"
    text = json.dumps(metadata, separators=(",", ":"), default=int)
    if len(text) > 60_000:  # a JPEG has room for 64 KB
        log.warning("there are too many settings to keep in the picture's metadata")
    elif format == "TIFF":
        exif[ExifTags.Base.ImageDescription] = text
    else:
        exif[ExifTags.IFD.Exif] = {ExifTags.Base.UserComment: _ASCII + text.encode()}
    return exif


def _checked(image: np.ndarray) -> np.ndarray:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise UserError(
            "an image given as an array must be uint8 of shape [height, width, 3], "
            f"not {image.dtype} of shape {list(image.shape)}"
        )
    return image


@contextlib.contextmanager
def _reading(path: str | os.PathLike) -> Iterator[ImageFile.ImageFile]:
    """Open an image file or address; whatever goes wrong before it is closed is a UserError."""
    if not isinstance(path, Picture):
        kind = type(path).__name__
        raise UserError(f"a picture is given by its path or as an array, not as {kind}")
    source = io.BytesIO(fetch.picture(path)) if fetch.is_address(path) else paths.open_file(path)
    with source as file:
        start = file.read(12)
        file.seek(0)
        try:
            if _is_heic(start):
                import pi_heif  # seldom needed

                pi_heif.register_heif_opener()
            with _patient(), Image.open(file) as im:
                # Pillow knows some formats by name only, and has Ghostscript run what is EPS, alone
                # or wrapped in IPTC.
                if isinstance(im, ImageFile.StubImageFile) or im.format in ("EPS", "IPTC"):
                    raise UnidentifiedImageError
                yield im
        except Exception as error:  # a damaged file makes Pillow raise almost anything
            raise UserError(f"cannot read {path}: {_why_undecodable(start, error)}") from error


_patience = threading.RLock()


@contextlib.contextmanager
def _patient() -> Iterator[None]:
    """While this lasts, Pillow reads images as large as they can be made here.

    It warns from 89 megapixels on, and of every oddity in a file's metadata; it refuses twice that.
    Limit and warnings are those of all threads, of which one at a time may change them.
    """
    with _patience:
        limit = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = (MAX_SIZE**2 + 1) // 2
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _check_memory(im: Image.Image, pixel: int) -> None:
    """Raise MemoryError where there is none for an opened image, at so many bytes a pixel."""
    from nstlib.memory import available  # which imports this module

    if im.width * im.height * pixel > available():
        raise MemoryError


def _why_undecodable(start: bytes, error: Exception) -> str:
    if isinstance(error, Image.DecompressionBombError):
        return f"it has more than {MAX_SIZE**2 / 1e6:.0f} megapixels; make it smaller first"
    if isinstance(error, MemoryError):
        return "there is not enough memory for it; make it smaller first"
    if not start:
        return "the file is empty; fetch it again"
    if isinstance(error, ModuleNotFoundError):
        return f"it is a HEIC image ({error}); pip install pi-heif"
    if _is_heic(start) or not isinstance(error, UnidentifiedImageError):
        return "it is damaged or incomplete; fetch it again, or convert it to JPEG or PNG"
    return "it is damaged or of an unknown format; convert it to JPEG or PNG first"


def _is_heic(start: bytes) -> bool:
    """Whether a file that begins like this is one of HEIF's kinds, as phones take photographs."""
    return start[4:8] == b"ftyp" and start[8:11] in {b"hei", b"hev", b"mif", b"msf"}


def _decode(im: Image.Image, size: int | None) -> Image.Image:
    """An opened image as RGB in sRGB; see `load`."""
    target = im.size
    if size is not None:
        target = size_to_fit(*im.size, size)
        # Have a large JPEG decoded at 1/2, 1/4 or 1/8, which leaves the filter twice the target.
        im.draft(None, (2 * target[0], 2 * target[1]))
    _check_memory(im, 8)
    im.load()
    profile = im.info.get("icc_profile")
    upright = _UPRIGHT.get(_orientation(im))  # after load(), which turns TIFFs and resets theirs
    im = _opaque(im)
    if profile and im.width < target[0]:  # colours are converted where there are fewer pixels
        im, profile = _in_srgb(im, profile), None
    if im.size != target:
        im = im.resize(target, Image.Resampling.LANCZOS)
    if upright is not None:
        im = im.transpose(upright)
    return _in_srgb(im, profile)


def _in_srgb(im: Image.Image, profile: bytes | None) -> Image.Image:
    """As RGB; a profile that is broken, or for other channels than the image has, is ignored."""
    if profile:
        with contextlib.suppress(ImageCms.PyCMSError):
            profiles = io.BytesIO(profile), io.BytesIO(_SRGB)
            in_place = im.mode == "RGB"  # which returns None
            im = ImageCms.profileToProfile(im, *profiles, outputMode="RGB", inPlace=in_place) or im
    return _converted(im, "RGB")


def _converted(im: Image.Image, mode: str) -> Image.Image:
    """An image in this mode; unlike Pillow's, no copy of one that has it already."""
    return im if im.mode == mode else im.convert(mode)


def _to_float(picture: Image.Image) -> np.ndarray:
    """RGB as float32 [H, W, 3] in 0..255."""
    width, height = picture.size
    image = np.empty((height, width, 3), np.float32)
    for rows in strips(height, width):
        part = picture.crop((0, rows.start, width, min(rows.stop, height)))
        image[rows] = np.asarray(part)
    return image


def _orientation(im: Image.Image) -> int:
    """The EXIF orientation; 1, upright, where there is none or the EXIF data is broken."""
    try:  # the method of the base class: a PNG's own decodes the whole image
        return int(Image.Image.getexif(im).get(ExifTags.Base.Orientation, 1))
    except Exception:
        return 1


def _opaque(im: Image.Image) -> Image.Image:
    """An image of any mode in 8 bits as L, RGB or CMYK, laid over white if it is transparent."""
    if im.mode == "F" or im.mode.startswith("I"):
        values = np.array(im, np.float32)  # changed in place: there may be 179 million of them
        np.nan_to_num(values, copy=False)
        some = values[:: 1 + im.height // 1000, :: 1 + im.width // 1000]
        if im.mode != "F":
            values /= 65535
        elif np.median(some[some > 0]) > 1:  # in 0..1, too, a few may be brighter than white
            values /= 255
        values *= 255
        return Image.fromarray(
            np.rint(values.clip(0, 255, out=values), out=values).astype(np.uint8)
        )
    if im.mode == "CMYK":
        return im
    mode = "L" if im.mode in {"1", "L", "LA", "La"} else "RGB"  # grey, for grey profiles to fit
    if not im.has_transparency_data:
        return _converted(im, mode)
    im = _converted(im, "RGBA")
    white = Image.new(mode, im.size, "white")
    white.paste(im, mask=im.getchannel("A"))
    return white
