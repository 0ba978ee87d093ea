"""Hides what TensorFlow's libraries print when they are loaded, where a user has asked for that.

From TensorFlow 2.21 on `TF_CPP_MIN_LOG_LEVEL` comes too late for the first of these lines.
"""

import contextlib
import os


@contextlib.contextmanager
def hidden():
    """Within this block what is written to standard error is lost, if there is a log level."""
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL", "0") == "0":
        yield
        return
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


with hidden():
    import keras  # noqa: F401
