"""Data in any form that `predict` takes, batch by batch."""

import itertools

import keras
import numpy as np
from keras import ops, tree

from keras_snn import graph


def batches_of(model, data, batch_size, steps=None):
    """Pairs of a model's inputs and labels (or `None`), from arrays or an iterable of batches.

    Args:
        model: A functional or Sequential model; if it has a fixed batch size, arrays are cut by it.
        data: What `predict` takes: an array; a list, tuple or dictionary of one for each input;
            a tuple of that and labels; or an iterable of such batches (`PyDataset`,
            `tf.data.Dataset`, PyTorch's `DataLoader`, ...).
        batch_size: Batch size for arrays.
        steps: Number of batches; all by default.

    Yields:
        `(inputs, labels)`: a list of arrays, in the order of `model.inputs`, and an array.

    Raises:
        TypeError: If the model is a subclassed one.
        ValueError: If inputs are missing, or there are too many.
    """
    count = len(graph.check_functional(model, "This").inputs)
    if is_array(data) or isinstance(data, (dict, tuple)) or _is_inputs(data, count):
        inputs, labels = _arrays(model, data, count)
        size = model.inputs[0].shape[0] or batch_size
        parts = [slice(start, start + size) for start in range(0, len(inputs[0]), size)]
        found = (([x[p] for x in inputs], _part(labels, p)) for p in parts)
    else:
        if isinstance(data, keras.utils.PyDataset):
            data = map(data.__getitem__, range(len(data)))
        found = (_arrays(model, batch, count) for batch in data)
    yield from itertools.islice(found, steps)


def _arrays(model, data, count):
    """Inputs in the order of the model's, and labels."""
    labels = None
    if isinstance(data, (tuple, list)) and len(data):
        named = isinstance(data[0], dict) or (len(data) == 2 and data[1] is None)
        if named or len(tree.flatten(data[0])) == count:
            data, labels = data[0], data[1] if len(data) > 1 else None
        elif len(data) == count + 1 and all(map(is_array, data)):
            *data, labels = data  # as PyTorch's loaders give them
    inputs = [_array(x) for x in graph.in_order(model, data)]
    return inputs, tree.map_structure(_array, labels)


def _part(labels, part):
    return tree.map_structure(lambda x: None if x is None else x[part], labels)


def _is_inputs(data, count):
    """Whether a list has one array for each input."""
    return isinstance(data, list) and len(data) == count and all(map(is_array, data))


def is_array(x):
    """Whether `x` is an array or tensor, of any library."""
    return hasattr(x, "shape") and hasattr(x, "dtype")


def _array(x):
    return None if x is None else np.asarray(ops.convert_to_numpy(x))
