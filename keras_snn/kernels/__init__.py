"""Kernels: the arithmetic of layers where a backend has a quicker form than Keras's operations.

Nothing here is a layer, and no layer needs one: each has its plain form beside. `spec.py` says what
a fused neuron is; `xla.py` (TensorFlow, JAX) and `torch.py` run whole sequences of it, `triton.py`
does so on CUDA devices; `steps.py` (TensorFlow, JAX) and `torch_steps.py` run any other neuron by
its `step`.
`torch_compile.py` is what PyTorch's compiler wants. `convolution.py` and `normalization.py` stand
in for Keras's layers within `FoldTime`. Every threshold that was measured is in `tuning.py`.
"""

import keras


def implementation(cell):
    """What runs whole sequences of a neuron on this backend, for a layer that is built.

    Args:
        cell: A `SpikingCell` that has a `fused_spec()`.

    Returns:
        A function `run(cell, sequences, v, wants_last, training, mask)` of the cell, currents
        `(batch, time, ...)` with a known number of steps, the first potential (the cell's
        `v_reset`, or a tensor `(batch, ...)`) and an optional mask `(batch, time)`, false for steps
        that leave the potential alone and have no spikes. It returns `(spikes, v)`, `v` being the
        last potential, or `None` unless `wants_last`; or `None` where another loop is the better
        one. Gradients are correct whatever `training` is; on TensorFlow `True` saves time and
        `False` memory.
    """
    if keras.backend.backend() == "torch":
        from keras_snn.kernels import torch

        torch.make_known(cell)
        return torch.run
    from keras_snn.kernels import xla

    return xla.run


def run_steps(cell, sequences, states, mask, training):
    """Runs a cell by its own `step`; see `keras_snn.kernels.steps.run`."""
    if keras.backend.backend() == "torch":
        from keras_snn.kernels import torch_steps

        return torch_steps.run(cell, sequences, states, mask, training)
    from keras_snn.kernels import steps

    return steps.run(cell, sequences, states, mask, training)
