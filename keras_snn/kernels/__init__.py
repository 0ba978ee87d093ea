"""Kernels: the arithmetic of layers where a backend has a quicker form than Keras's operations.

Nothing here is a layer, and no layer needs one: each has its plain form beside. `spec.py` says what
a fused neuron is; `xla.py` (TensorFlow, JAX) and `torch.py` run whole sequences of it, `triton.py`
does so on CUDA devices. `torch_compile.py` is what PyTorch's compiler wants. `convolution.py` and
`normalization.py` stand in for Keras's layers within `FoldTime`. Every threshold that was measured
is in `tuning.py`.
"""

import keras


def run(neuron, sequences, tensors, training=False):
    """Spikes `(batch, time, ...)` and the last potential of a sequence of currents.

    Args:
        neuron: A `spec.Neuron`.
        sequences: Currents, `(batch, time, ...)`, with a known number of steps.
        tensors: Those of first potential, rate and threshold that are tensors, see `spec.split`.
        training: Whether a backward pass is expected. Gradients are correct either way; on
            TensorFlow `True` saves time and `False` memory.

    Returns:
        `(spikes, v)`; `v` is `None` unless `neuron.wants_last`.
    """
    if keras.backend.backend() == "torch":
        from keras_snn.kernels import torch

        return torch.run(neuron, sequences, tensors)
    from keras_snn.kernels import xla

    return xla.run(neuron, sequences, tensors, training)
