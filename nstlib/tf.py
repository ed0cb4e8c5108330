"""TensorFlow, imported at its first use and without its log lines.

`from nstlib import tf` costs nothing; `tf.anything` imports TensorFlow (seconds). So `-h` and bad
arguments answer at once. Its C++ part logs to the terminal before any Python setting can reach it,
so standard error is turned away at the level of the operating system while it loads.
"""

import contextlib
import functools
import gc
import logging
import os
import tempfile
import threading
from collections.abc import Iterator

from nstlib import UserError

# Whether this process is the program's own: then Python need not look through all that TensorFlow
# brings, 300,000 objects, whenever it looks for garbage. With `_without_collector` that saves a
# second of the 17 of a small picture.
own_process = False


def use_onednn() -> None:
    """Compute with oneDNN, for which TensorFlow has to be loaded after this.

    On CPUs without VNNI it is off by default. There it makes `small` half again as fast and more,
    and VGG slower, the larger the picture (benchmarks/README.md).
    """
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")


def has_onednn() -> bool:
    """Whether TensorFlow computes with oneDNN; True where that cannot be known."""
    _tensorflow()
    with contextlib.suppress(AttributeError, ImportError):
        from tensorflow.python.util import _pywrap_util_port  # there is no public way to ask

        return _pywrap_util_port.IsMklEnabled()
    return True


@functools.cache  # they cannot change once they are initialized, and sums ask for each block
def gpus() -> list:
    """Those that TensorFlow may use."""
    return _tensorflow().config.get_visible_devices("GPU")


_loading = threading.Lock()  # what is done to standard error must not be done twice at once


def _tensorflow():
    with _loading:
        return _loaded()


@functools.cache
def _loaded():
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # Keras may be set up for another library, or another version of it, elsewhere on this machine.
    os.environ.update(KERAS_BACKEND="tensorflow", TF_USE_LEGACY_KERAS="0")
    logging.getLogger("nst").info("loading TensorFlow")
    with _quiet_stderr(), _without_collector():
        import tensorflow

        tensorflow.get_logger().setLevel("ERROR")  # it warns of every function compiled often
        # GPUs would round what is multiplied to ten bits, and small covariances would be lost.
        tensorflow.config.experimental.enable_tensor_float_32_execution(False)
        tensorflow.config.list_logical_devices()  # initializes the devices, which logs too
        keras = tensorflow.keras.config
    if keras.backend() != "tensorflow":
        raise UserError(f"Keras already runs on {keras.backend()} here: import nst before Keras")
    keras.set_floatx("float32")
    keras.set_image_data_format("channels_last")
    if own_process:
        gc.freeze()
    return tensorflow


@contextlib.contextmanager
def _without_collector() -> Iterator[None]:
    """Python looks for no garbage meanwhile, which loading TensorFlow makes hardly any of."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[None]:
    """What is written to standard error is shown if an exception is raised, and else dropped."""
    with contextlib.ExitStack() as stack:
        try:
            log = stack.enter_context(tempfile.TemporaryFile())
            stderr = os.dup(2)
        except OSError:  # nowhere to keep it, or standard error is closed
            yield
            return
        seen = os.isatty(2)
        if seen:
            os.write(2, b"\rloading TensorFlow ...")
        os.dup2(log.fileno(), 2)
        try:
            yield
        except Exception:
            os.dup2(stderr, 2)
            log.seek(0)
            os.write(stderr, log.read())
            raise
        finally:
            os.dup2(stderr, 2)
            if seen:
                os.write(2, b"\r\x1b[K")
            os.close(stderr)


def __getattr__(name: str):
    return getattr(_tensorflow(), name)
