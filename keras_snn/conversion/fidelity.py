"""Whether the ANN was read rightly: the original against the ANN as it was read."""

import keras
import numpy as np
from keras import ops

from keras_snn.conversion.build import build_ann, predict
from keras_snn.graph import flatten_layers

__all__ = ["check_fidelity", "difference"]

# Examples to compare on: of large networks all activations have to be kept.
EXAMPLES = 8
# Size of axes whose size is open, of random inputs.
OPEN_SIZE = 32


def check_fidelity(graph, model, batch=None):
    """Builds the ANN as it was read, and compares each ReLU and each output with the original's.

    Args:
        graph: A `Graph`, as it was read: with max pooling, where the ANN has it.
        model: The original.
        batch: Arrays, one for each input; random ones by default.

    Returns:
        `(ann, tensors, difference)`: see `build_ann`, and `difference`.

    Raises:
        RuntimeError: If the difference is more than rounding.
    """
    if batch is None:
        batch = [_random(x) for x in model.inputs]
    ann, tensors = build_ann(graph, model)
    neurons = graph.neurons()
    found = difference(
        graph,
        keras.Model(graph.source[0], [*graph.source[1], *(graph.nodes[i].tensor for i in neurons)]),
        keras.Model(ann.inputs, [*ann.outputs, *(tensors[i] for i in neurons)]),
        batch,
    )
    if not found <= _tolerance(model):
        raise RuntimeError(
            f"The ANN as it was read gives other outputs than {model.name!r} (difference "
            f"{found:.2g} of the largest value). Please report this model."
        )
    return ann, tensors, found


def difference(graph, original, ann, batch):
    """Largest difference of two models' outputs, each relative to its largest value.

    Args:
        graph: The `Graph` of the ANN; an activation that it left is applied first.
        original: A model.
        ann: A model.
        batch: Arrays, one for each input.

    Returns:
        A number, not a number if an output has such values.
    """
    batch = [part[:EXAMPLES] for part in batch]
    found = []
    for place, (theirs, ours) in enumerate(zip(predict(original, batch), predict(ann, batch))):
        if place in graph.left:
            ours = ops.convert_to_numpy(graph.left[place](ops.convert_to_tensor(ours)))
        theirs, ours = theirs.astype("float64"), ours.astype("float64")
        found.append(np.abs(theirs - ours).max() / np.maximum(np.abs(theirs).max(), 1e-12))
    return float(np.max(found))


def _tolerance(model):
    """What rounding may make of it: computed in half precision, much."""
    dtypes = {layer.compute_dtype for layer in flatten_layers(model)}
    return 0.1 if dtypes & {"float16", "bfloat16"} else 1e-3


def _random(tensor):
    shape = (EXAMPLES, *(n or OPEN_SIZE for n in tensor.shape[1:]))
    values = np.random.default_rng(0).uniform(-1, 1, shape)
    return values.astype(keras.backend.standardize_dtype(tensor.dtype))
