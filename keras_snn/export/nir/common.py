"""What reader and writer share: the package, the step, and the order of NIR's tensors."""

import numpy as np

__all__ = ["DT", "FIELDS", "SUFFIXES", "TIMES", "channels_first", "channels_last", "package"]

DT = 1e-4
SUFFIXES = (".nir", ".h5", ".hdf5")

# What NIR's neurons hold; of these, time constants.
_LEAK = ("tau", "r", "v_leak")
_CURRENT = ("tau_syn", "tau_mem", "r", "v_leak", "w_in")
_FIRE = ("v_threshold", "v_reset")
FIELDS = {
    "I": ("r",),
    "LI": _LEAK,
    "CubaLI": _CURRENT,
    "IF": ("r", *_FIRE),
    "LIF": (*_LEAK, *_FIRE),
    "CubaLIF": (*_CURRENT, *_FIRE),
    "Threshold": ("threshold",),
}
TIMES = ("tau", "tau_syn", "tau_mem")


def package():
    """The package `nir`, an extra."""
    try:
        import nir
    except ImportError as error:
        raise ImportError(
            'Exchange through NIR needs the extra `nir`: pip install "keras-snn[nir]"'
        ) from error
    return nir


def channels_first(shape):
    """NIR's shape of a Keras tensor without batch and time: channels in front."""
    return (*shape[-1:], *shape[:-1])


def channels_last(values):
    """An array of NIR as Keras has it: channels behind."""
    return np.moveaxis(values, 0, -1) if np.ndim(values) else values
