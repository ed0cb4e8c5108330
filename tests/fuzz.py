"""Damaged files and odd options without end: each must be a picture, or one sentence.

    python tests/fuzz.py files 3000 7
    python tests/fuzz.py weights 100 7
    python tests/fuzz.py options 500 7

tries so many, from a seed, and says what came of them; what is neither is named, with its number,
and the status is 1. A try that takes 20 seconds ends the program, as does memory beyond 2 GB.
"""

import collections
import contextlib
import dataclasses
import faulthandler
import functools
import io
import logging
import os
import random
import re
import resource
import shlex
import shutil
import struct
import sys
import tempfile
import traceback
import warnings
import zlib
from pathlib import Path

import numpy as np
import pillow_heif
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))
from nstlib import UserError, images, memory, networks

SECONDS, MEMORY = 20, 2_000_000_000

# What files begin with in the formats that Pillow reads but does not write.
OPENINGS = {
    "CUR": struct.pack("<3H4B2H2I", 0, 2, 1, 16, 16, 0, 0, 1, 1, 872, 22)
    + struct.pack("<I2i2H6I", 40, 16, 32, 1, 24, 0, 0, 0, 0, 0, 0),
    "DCX": struct.pack("<3I", 0x3ADE68B1, 12, 0)
    + struct.pack("<4B6H", 10, 5, 1, 8, 0, 0, 15, 15, 72, 72).ljust(65, b"\0")
    + struct.pack("<BH", 1, 16).ljust(63, b"\0"),
    "FITS": b"".join(
        f"{card:80}".encode()
        for card in (
            "SIMPLE  = T",
            "BITPIX  = 8",
            "NAXIS   = 2",
            "NAXIS1  = 16",
            "NAXIS2  = 16",
            "END",
        )
    ).ljust(2880),
    "FLI": struct.pack("<I8H", 1000, 0xAF12, 1, 16, 16, 8, 3, 0, 0).ljust(128, b"\0"),
    "FTEX": b"FTEX" + struct.pack("<7I", 2, 16, 16, 1, 1, 0, 32),
    "GBR": struct.pack(">5I4sI", 30, 2, 16, 16, 1, b"GIMP", 10) + b"x\0",
    "IMT": b"width 16\nheight 16\npixel n8\n\x0c",
    "MCIDAS": struct.pack(">64i", 0, 4, *[1] * 6, 16, 16, 1, *[1] * 22, 256, *[1] * 30),
    "MPEG": b"\0\0\1\xb3\x01\x00\x10\x13",
    "PCD": bytes(2048) + b"PCD_" + bytes(4000),
    "PIXAR": b"\x80\xe8\0\0".ljust(416, b"\0")
    + struct.pack("<6H", 16, 16, 0, 0, 14, 2).ljust(608, b"\0"),
    "PSD": b"8BPS" + struct.pack(">H6xH2I2H3I", 1, 3, 16, 16, 8, 3, 0, 0, 0) + b"\0\0",
    "SUN": struct.pack(">8I", 0x59A66A95, 16, 16, 24, 768, 1, 0, 0),
    "XPM": b'/* XPM */\nstatic char *x[] = {\n"16 16 2 1",\n"a c #ff0000",\n"b c #0000ff",\n"aabb',
    "XVTHUMB": b"P7 332\n#END_OF_COMMENTS\n16 16 255\n",
}
# Formats that are known by name only, or would have to be run.
FOREIGN = {
    "BUFR": b"BUFR",
    "GRIB": b"GRIB\0\0\0\1",
    "HDF5": b"\x89HDF\r\n\x1a\n",
    "IPTC": b"\x1c\x03\x3c\0\2\1\0\x1c\x03\x14\0\1\x10\x1c\x03\x1e\0\1\x10"
    b"\x1c\x03\x78\0\1\1\x1c\x08\x0a\1\0",
    "WMF": b"\xd7\xcd\xc6\x9a\0\0"
    + struct.pack("<4hH", 0, 0, 99, 99, 96)
    + bytes(6)
    + b"\1\0\x09\0",
    "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n%%EndComments\n",
    "PDF": b"%PDF-1.4\n",
}
MODES = ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "I;16", "F"]


def formats() -> list[str]:
    """All that Pillow reads, and some that it pretends to."""
    Image.init()
    pillow_heif.register_heif_opener()  # which writes it; the program reads by its own
    return sorted({*Image.OPEN, *FOREIGN})


@functools.cache
def sound_file(format: str, mode: str, width: int, height: int) -> bytes:
    """An image in a format, as far as Pillow writes it, or else what such files begin with."""
    if format in OPENINGS or format in FOREIGN:
        opening = (OPENINGS | FOREIGN)[format]
        return opening + np.random.default_rng(0).bytes(width * height)
    values = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    picture, file = Image.fromarray(values), io.BytesIO()
    for other in (mode, "RGB", "L", "1", "F", "P"):
        with contextlib.suppress(Exception):  # not every format has every mode
            picture.convert(other).save(file, format, save_all=format in ("MPO", "GIF"))
            return file.getvalue()
    return sound_file(format, "RGB", 16, 16)  # an icon has no other size


def chunk_of_png(kind: bytes, data: bytes) -> bytes:
    body = kind + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


def damaged(rng: random.Random, data: bytes) -> bytes:
    """Cut, overwritten, lengthened or otherwise changed, most often near the start."""
    data = bytearray(data)

    def place():  # seldom in the first bytes, by which a format is known
        start = rng.choice([0, 8, 8, 8, 8, 8, 8, 8])
        far = rng.expovariate(1 / 50) if rng.random() < 0.6 else rng.uniform(0, len(data))
        return min(start + int(far), len(data))

    for _ in range(rng.choice([0, 1, 1, 2, 5, 30])):
        start = place()
        length = rng.choice([1, 1, 2, 4, 4, 8, 64])
        change = rng.choice(["flip", "random", "ones", "zeros", "number", "cut", "drop", "double"])
        if change == "flip" and start < len(data):
            data[start] ^= 1 << rng.randrange(8)
        elif change == "random":
            data[start : start + length] = rng.randbytes(length)
        elif change == "ones":
            data[start : start + length] = b"\xff" * length
        elif change == "zeros":
            data[start : start + length] = bytes(length)
        elif change == "number":  # such as a size
            number = rng.choice([0, 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 20_000])
            data[start : start + 4] = struct.pack(rng.choice("<>") + "I", number)
        elif change == "cut":
            del data[rng.randrange(len(data) + 1) :]
        elif change == "drop":
            del data[start : start + length]
        elif change == "double":
            data[start:start] = data[start : start + rng.choice([4, 100, 5000])]
    return bytes(data)


def odd_file(rng: random.Random) -> bytes:
    """Of any format, mode and size; damaged, or with what a good one should not have."""
    format = rng.choice(formats())
    size = rng.choice([(16, 16), (33, 21), (1, 1), (1, 300), (64, 64)])
    data = sound_file(format, rng.choice(MODES), *size)
    oddity = rng.random()
    if oddity < 0.05:
        return rng.randbytes(rng.choice([0, 1, 10, 1000]))
    if oddity < 0.1:
        return data[: rng.randrange(len(data) + 1)] + sound_file(
            rng.choice(formats()), "RGB", 16, 16
        )
    if oddity < 0.15 and format == "PNG":
        kind = rng.choice([b"iCCP", b"eXIf", b"tEXt", b"iTXt", b"zTXt", b"tRNS", b"PLTE", b"acTL"])
        bomb = rng.choice([b"x\0\0" + zlib.compress(bytes(10**7)), rng.randbytes(50), b""])
        return data[:33] + chunk_of_png(kind, bomb) + data[33:]
    return damaged(rng, data)


def try_file(path: Path, rng: random.Random) -> str:
    """What becomes of one file: a UserError's words without the names in it, or "a picture"."""
    path.write_bytes(odd_file(rng))
    try:
        images.image_size(path)
        images.read_metadata(path)
        images.load_mask(path, 8, 8) if rng.random() < 0.1 else None
        picture = images.load(path, rng.choice([None, 32, 64]))
        images.check_size(path, picture, 64)
    except UserError as error:
        return sentence(str(error), path)
    assert picture.ndim == 3
    assert picture.shape[2] == 3
    assert picture.dtype == np.float32
    assert np.isfinite(picture).all()
    assert picture.min() >= 0
    assert picture.max() <= 255
    return "a picture"


def try_weights(path: Path, rng: random.Random) -> str:
    """The same, of a file of weights."""
    sound = Path(networks.__file__).with_name("small.h5").read_bytes()
    path.write_bytes(damaged(rng, sound))
    try:
        weights = networks.read_weights(path, "small")
    except UserError as error:
        return sentence(str(error), path)
    shapes = networks.NETWORKS["small"].shapes
    assert {name: kernel.shape for name, (kernel, _) in weights.items()} == shapes
    return "a network"


NUMBERS = [
    "0",
    "1",
    "2",
    "3",
    "-1",
    "0.5",
    "1e-50",
    "1e38",
    "1e400",
    "nan",
    "inf",
    "-0",
    "",
    "x",
    "9" * 40,
]
VALUES = {
    "content": [
        "photo.png",
        "gone.png",
        "",
        ".",
        "loop.png",
        "pipe.png",
        "http://127.0.0.1:9/x.png",
    ],
    "style": [
        "style.png",
        "style.png",
        "photo.png",
        "thin.png",
        "text.png",
        "n" * 300,
        "\udcff.png",
    ],
    "result": [
        "out.png",
        "out.jpg",
        "out.png/",
        "gone/out.png",
        "photo.png",
        "pipe.png",
        "x",
        "é.webp",
    ],
    "init": ["content", "style", "noise", "photo.png", "gone.png", "loop.png", ""],
    "mask": ["photo.png", "black.png", "gone.png", "pipe.png"],
    "weights": ["gone.h5", "text.png", "pipe.png", ".", ""],
    "timelapse": ["run.gif", "run.webp", "out.png", "gone/x.gif", "x"],
    "plot": ["plot.png", "out.png", "photo.png", "gone/x.png", "loop.png"],
    "content_layers": [
        "level1_conv1",
        "level2_conv1=2",
        "conv1_1",
        "=",
        "level1_conv1=nan",
        "level3_conv2 level1_conv2",
    ],
    "style_layers": [
        "level1_conv1",
        "level1_conv1 level2_conv1=0.5",
        "level1_conv1=-1",
        "é",
        "level1_conv1=1e38",
    ],
    "style_blend": ["1", "1,1", "3,7,", "0,0", "1e-50", "1e308,1e308", "nan", "-1,2", ",", ""],
    "size": ["32", "48", "64", "31", "16384", "99999", "-1", "x", "64.0"],
    "dask": ["tcp://127.0.0.1:9", "x"],
}


@contextlib.contextmanager
def quick_program():
    """The program without TensorFlow's graphs, which take longer than pictures of this size,
    without a way to the outside, and on a machine that has as much memory as a try may take."""
    import nst

    def unavailable(network):
        if network == "small":
            return plain(network)
        raise networks.WeightsUnavailable("there is no network")

    plain = networks.find_weights
    networks.find_weights, networks.compiled = unavailable, lambda function: function
    memory.available = lambda: MEMORY
    for name, shape in {"photo": (40, 64), "style": (48, 48), "thin": (1, 300)}.items():
        values = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
        images.save(f"{name}.png", values)
    images.save("black.png", np.zeros((40, 64, 3)))
    Path("text.png").write_text("no picture")
    Path("loop.png").symlink_to("loop.png")
    os.mkfifo("pipe.png")
    nst.tf.constant(0)  # its import takes longer than any try
    yield


def odd_options(rng: random.Random) -> list[str]:
    """A command line that is good but for a few options."""
    import nst

    fields = [*dataclasses.fields(nst.Settings), *dataclasses.fields(nst.Outputs)]
    names = [x.name for x in fields if x.name not in ("size", "result")]
    given = {"content": "photo.png", "style": "style.png", "result": "out.png"}
    given |= {"network": "small", "size": "32", "num_iter": "2", "style_layers": "level1_conv1"}
    for name in rng.sample(names, rng.choice([0, 1, 1, 2, 3])):
        choices = next(x.metadata.get("one_of") for x in fields if x.name == name)
        given[name] = rng.choice(VALUES.get(name) or [*(choices or ()), *NUMBERS])
    if rng.random() < 0.5:
        name = rng.choice(["content", "style", "result", "size", "dask"])
        given[name] = rng.choice(VALUES[name])
    argv = []
    for name, value in given.items():
        words = value.split(" ") if name.endswith("layers") else [value]
        argv += [f"--{name}={value}"] if rng.random() < 0.3 else [f"--{name}", *words]
    if rng.random() < 0.3:  # several styles, things given twice, nonsense
        more = [["-s", "photo.png"], ["-c", "style.png"], ["--mask", "photo.png"], ["-v"], ["-h"]]
        more += [["--nonsense"], ["stray"], ["--show", "photo.png"], ["--", "-x"], ["--version"]]
        argv += rng.choice(more)
    if rng.random() < 0.1:
        del argv[rng.randrange(len(argv))]
    return [*map(str, argv)]


def try_options(path: Path, rng: random.Random) -> str:
    """The same, of a command line."""
    argv, said, shown = odd_options(rng), io.StringIO(), io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(shown):
        try:
            status = sys.modules["nst"].main(argv)
        except SystemExit as done:  # of argparse, for -h and --version
            status = done.code
    for made in Path().glob("out*"):
        shutil.rmtree(made) if made.is_dir() else made.unlink()
    try:
        if status == 0:
            return "a picture, or what was asked for"
        assert status == 2, (status, said.getvalue())
        assert shown.getvalue() == ""
        message = said.getvalue()
        if "-v" in argv:  # which tells what is done first
            message = message.splitlines(keepends=True)[-1]
        assert re.fullmatch(r"nst: [^\n\r\0\x1b]{15,900}\n", message), repr(message)
        return re.sub(r"\d+", "", message.strip())[:60]
    except AssertionError:
        print(shlex.join(argv).encode(errors="replace").decode())
        raise


def sentence(message: str, path: Path) -> str:
    """The kind of a message, which must be one line that names the file and says what to do."""
    assert re.fullmatch(r"[^\n\r\0\x1b]{20,600}", message), repr(message)
    assert str(path) in message
    assert re.search(r"; \w+ |: (make|crop) |nowhere white", message), message
    return re.sub(r"\(.*?\)|\d+", "", message.replace(str(path), "FILE"))


def main(kind: str, count: str, seed: str) -> int:
    attempt = {"files": try_file, "weights": try_weights, "options": try_options}[kind]
    warnings.simplefilter("ignore")
    logging.getLogger("nst").setLevel(logging.CRITICAL)
    outcomes, failures = collections.Counter(), 0
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        os.chdir(folder)
        if kind == "options":
            stack.enter_context(quick_program())
        else:  # which is less than TensorFlow reserves
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY + 500_000_000, resource.RLIM_INFINITY))
        for number in range(int(count)):
            faulthandler.dump_traceback_later(SECONDS, exit=True)
            try:
                outcomes[attempt(Path(f"{number}.x"), random.Random(f"{seed} {number}"))] += 1
            except Exception:
                print(f"{kind} {number} of seed {seed}:\n{traceback.format_exc()}")
                failures += 1
            Path(f"{number}.x").unlink(missing_ok=True)
        faulthandler.cancel_dump_traceback_later()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )
    failures += peak > MEMORY
    for outcome, times in outcomes.most_common():
        print(f"{times:6}  {outcome}".encode(errors="replace").decode())
    print(f"{peak / 1e6:.0f} MB at most")
    print(f"{count} {kind}, {failures} failures")
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
