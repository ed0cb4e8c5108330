"""TensorFlow, imported at its first use and without its log lines.

`from nstlib import tf` costs nothing; `tf.anything` imports TensorFlow (seconds). So `-h` and bad
arguments answer at once. Its C++ part logs to the terminal before any Python setting can reach it,
so standard error is turned away at the level of the operating system while it loads.
"""

import contextlib
import functools
import os
import tempfile


@functools.cache
def _tensorflow():
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with _silent():
        import tensorflow

        tensorflow.get_logger().setLevel("ERROR")  # it warns of every function compiled often
        tensorflow.config.list_logical_devices()  # initializes the devices, which logs too
    return tensorflow


@contextlib.contextmanager
def _silent():
    """What is written to standard error meanwhile is written only if this ends by an exception."""
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as log:
        os.dup2(log.fileno(), 2)
        try:
            yield
        except BaseException:
            log.seek(0)
            os.write(stderr, log.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def __getattr__(name: str):
    return getattr(_tensorflow(), name)
