"""How far a run is, on standard error."""

import contextlib
import sys
from collections.abc import Iterator

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm


@contextlib.contextmanager
def progress_bar(total: float = 1.0, initial: float = 0.0) -> Iterator[tqdm]:
    """A bar from 0 to `total` where standard error is a terminal.

    What is logged appears above it while this context lasts.
    """
    quiet = not sys.stderr.isatty()
    form = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"
    with (
        tqdm(total=total, initial=initial, disable=quiet, bar_format=form) as bar,
        logging_redirect_tqdm(),
    ):
        yield bar
