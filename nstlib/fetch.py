"""Files from the internet: pictures by their address, and weights.

Whatever a server does, it is not waited for without end: it is read by a thread of its own, and
given up when too little has come for too long. Such a thread ends with the program.
"""

import functools
import hashlib
import io
import logging
import queue
import re
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

from nstlib import UserError, __version__
from nstlib.paths import changed, replacing, why

log = logging.getLogger("nst")

PATIENCE, PACE = 20.0, 20_000  # seconds in which at least so many bytes are to come
PICTURE = 200_000_000  # bytes, at most


def is_address(path) -> bool:
    """Whether a picture is named by its http(s) address."""
    return isinstance(path, str) and bool(re.match("https?://", path, re.IGNORECASE))


@functools.lru_cache(maxsize=8)
def picture(address: str) -> bytes:
    """The file at an http(s) address, fetched once; raises UserError where it cannot be had."""
    file = io.BytesIO()
    try:
        download(address, file, PICTURE)
    except Exception as error:  # urllib raises almost anything for what is no address
        raise UserError(
            f"cannot read {address}: {why(error)}; check the address, or save the picture and "
            "name its file"
        ) from error
    return file.getvalue()


def cached(address: str, md5: str, folder: Path) -> Path:
    """The file at an address, of this hash, from the folder or else downloaded into it.

    Other processes may do the same meanwhile. Raises OSError and others where it cannot be had.
    """
    path = folder / address.rpartition("/")[2]
    if path.is_file() and _md5(path, changed(path)) == md5:
        return path
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        download(address, file)
        file.seek(0)
        if hashlib.md5(file.read(), usedforsecurity=False).hexdigest() != md5:
            raise OSError("what comes is not the file that was expected")
    return path


def download(address: str, file: BinaryIO, limit: float = float("inf")) -> None:
    """Write what is at an http(s) address to a file; a bar shows it on a terminal.

    Raises OSError (TimeoutError where fewer than PACE bytes come in PATIENCE seconds) and whatever
    urllib raises; also for more than `limit` bytes, and for fewer than announced.
    """
    log.info("downloading %s", address)
    came: queue.SimpleQueue = queue.SimpleQueue()
    given_up = threading.Event()
    threading.Thread(target=_read, args=(address, came, given_up), daemon=True).start()
    bar = tqdm(desc="downloading", unit="B", unit_scale=True, disable=None, leave=False)
    recent, deadline = 0, time.monotonic() + PATIENCE
    try:
        with bar:
            while True:
                try:
                    part = came.get(timeout=max(0, deadline - time.monotonic()))
                except queue.Empty:
                    raise TimeoutError(f"too little came in {PATIENCE:.0f} seconds") from None
                if isinstance(part, BaseException):
                    raise part
                if isinstance(part, int):
                    bar.total = part
                    continue
                if not part:
                    break
                file.write(part)
                bar.update(len(part))
                if file.tell() > limit:
                    raise OSError(f"it is larger than {limit / 1e6:.0f} MB")
                recent += len(part)
                if recent >= PACE:
                    recent, deadline = 0, time.monotonic() + PATIENCE
            if bar.total and file.tell() < bar.total:
                raise OSError("the connection broke off")
    finally:
        given_up.set()


def _read(address: str, came: queue.SimpleQueue, given_up: threading.Event) -> None:
    """Put the length if it is known, the parts and b"" for the end, or an exception."""
    try:
        # As browsers do with what was pasted; and some servers refuse Python's own name.
        address = urllib.parse.quote(address, safe="%:/?#[]@!$&'()*+,;=~")
        request = urllib.request.Request(address, headers={"User-Agent": f"nst/{__version__}"})
        with urllib.request.urlopen(request, timeout=PATIENCE) as response:
            if response.length is not None:
                came.put(response.length)
            while not given_up.is_set():
                part = response.read1(1 << 16)
                came.put(part)
                if not part:
                    return
    except urllib.error.HTTPError as error:
        came.put(OSError(f"the server answers {error.code} {error.reason}"))
    except urllib.error.URLError as error:
        came.put(
            OSError(why(error.reason) if isinstance(error.reason, Exception) else error.reason)
        )
    except BaseException as error:
        came.put(error)


@functools.lru_cache(maxsize=2)  # for all pictures of a gallery
def _md5(path: Path, changed: int | None) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
