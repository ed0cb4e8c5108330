"""Files by name: whether they can be read or written, asked here alone, and writing them whole.

A folder that may not be entered, links in a circle, a name too long, a working folder that is gone:
whatever the system has against a path becomes one sentence, a UserError.
"""

import contextlib
import os
import re
import socket
import stat
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from nstlib import UserError

STRANDED = "the working folder is gone; change to another"


def why(error: BaseException) -> str:
    """What an error says, in one line."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())


def open_file(path: str | os.PathLike) -> BinaryIO:
    """A regular file, opened to be read; raises UserError for anything else."""
    try:
        # Without O_NONBLOCK, a pipe that nobody writes to would be waited for.
        nonblock = getattr(os, "O_NONBLOCK", 0)
        file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | nonblock))  # noqa: SIM115
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {_why_unreadable(path, error)}") from error
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    file.close()
    raise UserError(f"cannot read {path}: it is a pipe or a device; save it to a file first")


def check_result_path(
    path: str | os.PathLike,
    endings: Iterable[str],
    sources: Iterable[str | os.PathLike] = (),
) -> None:
    """Raise UserError unless a file can be expected to be written there, has one of the endings,
    and would replace none of the sources, under whatever name; changes nothing."""
    check_ending(path, endings)
    with _asking(path):
        if os.fspath(path).endswith(("/", os.sep)):
            raise UserError(f"cannot write {path}: it names a folder; name a file in it")
        for source in sources:
            if is_same(path, source):
                raise UserError(
                    f"cannot write {path}: it would replace {source}; choose another name"
                )
        mode = _mode(path)
        if stat.S_ISDIR(mode):
            raise UserError(f"cannot write {path}: it is a folder; name a file in it")
        if mode and not stat.S_ISREG(mode):
            raise UserError(f"cannot write {path}: it is not a regular file; choose another name")
        if mode and not os.access(path, os.W_OK):
            raise UserError(f"cannot write {path}: it is write-protected; choose another name")
        folder = Path(os.path.realpath(path)).parent
        if not stat.S_ISDIR(_mode(folder)):
            raise UserError(f"cannot write {path}: there is no folder {folder}; create it first")
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".nst-"):
            pass  # nothing less than writing shows that a folder can be written to


def check_folder(path: str | os.PathLike) -> bool:
    """Whether there is such a folder, to write into; raises UserError where there can be none."""
    with _asking(path):
        mode = _mode(path)
        if mode and not stat.S_ISDIR(mode):
            raise UserError(f"cannot make the folder {path}: it is a file; choose another -r")
    return bool(mode)


def make_folder(path: Path) -> None:
    """Make a folder unless it is there; raises UserError where that cannot be."""
    with _asking(path):
        path.mkdir(exist_ok=True)


def files_in(folder: str | os.PathLike) -> list[Path]:
    """What is in a folder, by name; raises UserError where it cannot be read."""
    try:
        return sorted(Path(folder).iterdir())
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {folder}: {_why_unreadable(folder, error)}") from error


def check_ending(path: str | os.PathLike, endings: Iterable[str]) -> None:
    """Raise UserError unless a name ends in one of these, in small letters or capitals."""
    suffix = Path(path).suffix
    if suffix.lower() not in endings:
        problem = f"the ending {suffix} is unknown" if suffix else "its name has no ending"
        raise UserError(f"cannot write {path}: {problem}; use one of {', '.join(endings)}")


def changed(path: str | os.PathLike | None) -> int | None:
    """When a file was changed, in nanoseconds; None where there is none, or none to be seen."""
    with contextlib.suppress(OSError, ValueError):
        return os.stat(path).st_mtime_ns if path else None  # noqa: PTH116
    return None


def is_same(path: str | os.PathLike, other: str | os.PathLike) -> bool:
    """Whether both are names of one file, which need not be there yet."""
    if os.path.realpath(path) == os.path.realpath(other):
        return True
    return exists(path) and exists(other) and os.path.samefile(path, other)  # noqa: PTH121


def is_folder(path: str | os.PathLike) -> bool:
    """Whether a folder is seen there; unlike Path's method, never raises, and "" is none."""
    return os.path.isdir(path)  # noqa: PTH112


def is_file(path: str | os.PathLike | None) -> bool:
    """Whether a regular file is seen there; unlike Path's method, never raises."""
    return bool(path) and os.path.isfile(path)  # noqa: PTH113


def exists(path: str | os.PathLike) -> bool:
    """Whether anything is seen there; unlike Path's method, never raises."""
    return os.path.exists(path)  # noqa: PTH110


def write(path: str | os.PathLike, data: bytes | memoryview) -> None:
    """Write a file, which is at `path` as a whole or, if OSError is raised, not at all.

    Full disks and failing ones do not always say so: what is there is read back.
    """
    with replacing(Path(os.path.realpath(path))) as file:
        file.write(data)
        file.seek(0)
        for start in range(0, len(data), 2**20):
            if file.read(2**20) != data[start : start + 2**20]:
                raise OSError("the disk does not keep what is written")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, which is at `path` as a whole once this context ends, or not at all."""
    _remove_leftovers(path.parent)
    # Not tempfile, which makes files that nobody but their owner can read.
    temporary = path.with_name(f".nst-{_host()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp")
    try:
        with temporary.open("x+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _remove_leftovers(folder: Path) -> None:
    """Of `replacing`, by processes of this machine that were killed."""
    with contextlib.suppress(OSError):
        for path in folder.glob(f".nst-{_host()}-*.tmp"):
            number = re.fullmatch(r".*-(\d+)-[0-9a-f]{8}\.tmp", path.name)
            if number and not _is_alive(int(number[1])):
                path.unlink(missing_ok=True)


def _host() -> str:
    return re.sub(r"[^\w.]", "", socket.gethostname())[:64]


def _is_alive(process: int) -> bool:
    if os.name != "posix":  # where os.kill would end it
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


@contextlib.contextmanager
def _asking(path: str | os.PathLike) -> Iterator[None]:
    """What the system has against writing to a path, as a UserError."""
    try:
        yield
    except (OSError, ValueError) as error:
        reason = STRANDED if _is_stranded(path) else f"{why(error)}; choose another place"
        raise UserError(f"cannot write {path}: {reason}") from error


def _mode(path: str | os.PathLike) -> int:
    """The type and permissions of what is at a path, 0 for nothing."""
    try:
        return os.stat(path).st_mode  # noqa: PTH116
    except (FileNotFoundError, NotADirectoryError):
        return 0


def _is_stranded(path: str | os.PathLike) -> bool:
    """Whether a name is relative to a working folder that is gone."""
    try:
        Path(path).absolute()
    except OSError:
        return True
    return False


def _why_unreadable(path: str | os.PathLike, error: Exception) -> str:
    if not os.fspath(path):
        return "its name is empty; name a file"
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        if _is_stranded(path):
            return STRANDED
        if os.path.islink(path):  # noqa: PTH114
            return f"it is a link to {os.readlink(path)}, which is not there; mend the link"  # noqa: PTH115
        return f"no such file (looked in {Path(path).absolute().parent}); check the name"
    if isinstance(error, IsADirectoryError):
        return "it is a folder; name a file in it"
    if isinstance(error, PermissionError):
        return "permission denied; change its permissions or copy it elsewhere"
    return f"{why(error)}; check the name"
