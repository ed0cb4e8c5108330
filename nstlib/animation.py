"""Animations in files: GIF and WebP by Pillow, MP4 by ffmpeg."""

import io
import math
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from nstlib import UserError

# How an animation is saved, by the ending of its name.
FORMATS = {
    ".gif": {"format": "GIF"},
    ".webp": {"format": "WEBP", "quality": 80},
    ".mp4": {},  # by ffmpeg
}


def check(path: str | os.PathLike) -> None:
    """Raise UserError where what an animation of this name needs is not installed."""
    if Path(path).suffix.lower() == ".mp4":
        _ffmpeg()


def write(
    file: BinaryIO, frames: Sequence[Image.Image], durations: Sequence[int], ending: str
) -> None:
    """Frames of one size, each seen for so many milliseconds, over and over.

    ending: one of FORMATS; of an MP4, which plays once, sizes must be even and `file` have a name.
    """
    if ending == ".mp4":
        _write_mp4(file.name, frames, durations)
        return
    first, *others = frames
    more = {"append_images": others, "duration": list(durations), "loop": 0}
    whole = io.BytesIO()  # Pillow ignores what a full disk does not take
    first.save(whole, save_all=True, **more, **FORMATS[ending])
    file.write(whole.getvalue())


def _ffmpeg() -> str:
    """The path of ffmpeg."""
    try:
        import imageio_ffmpeg

        return imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError) as error:
        raise UserError(
            "an .mp4 needs imageio-ffmpeg: pip install imageio-ffmpeg, or name a .gif or .webp"
        ) from error


def _write_mp4(path: str, frames: Sequence[Image.Image], durations: Sequence[int]) -> None:
    """An MP4 that plays everywhere: H.264, yuv420p, with its index at the front."""
    width, height = frames[0].size
    tick = math.gcd(100, *durations)  # milliseconds a frame
    command = (
        f"-y -loglevel error -f rawvideo -pix_fmt rgb24 -s {width}x{height} -r {1000 / tick} -i - "
        "-vf scale=out_color_matrix=bt709 -colorspace bt709 -c:v libx264 -crf 18 "
        "-pix_fmt yuv420p -movflags +faststart -f mp4"
    )
    pixels = b"".join(
        frame.tobytes() * (duration // tick)
        for frame, duration in zip(frames, durations, strict=True)
    )
    # In a session of its own, so that a Ctrl-C does not reach it.
    done = subprocess.run(
        [_ffmpeg(), *command.split(), path],
        input=pixels,
        capture_output=True,
        start_new_session=True,
        check=False,
    )
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise OSError(last or f"ffmpeg ended with status {done.returncode}")
