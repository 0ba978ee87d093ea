"""Data in any form that `predict` takes, batch by batch."""

import keras
import numpy as np
from keras import ops, tree


def batches_of(data, batch_size):
    """Pairs of inputs and labels (or `None`), from arrays or an iterable of batches."""
    if hasattr(data, "shape") and hasattr(data, "dtype"):
        data = (data, None)
    if isinstance(data, tuple) and len(data) == 2:
        inputs, labels = data
        size = len(tree.flatten(inputs)[0])
        for start in range(0, size, batch_size):
            part = slice(start, start + batch_size)
            chosen = tree.map_structure(lambda x, part=part: np.asarray(x)[part], inputs)
            yield chosen, None if labels is None else np.asarray(labels)[part]
        return
    if isinstance(data, keras.utils.PyDataset):
        data = map(data.__getitem__, range(len(data)))
    for batch in data:
        inputs, labels = batch[:2] if isinstance(batch, tuple) else (batch, None)
        yield tree.map_structure(_array, inputs), tree.map_structure(_array, labels)


def _array(x):
    return None if x is None else np.asarray(ops.convert_to_numpy(x))
