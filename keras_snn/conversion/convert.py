"""Conversion of a trained ANN into a spiking network."""

import dataclasses

import numpy as np
from keras import tree

from keras_snn import layers as snn
from keras_snn.analysis.accuracy import (
    accuracy_over_time,
    predicted_classes,
)
from keras_snn.conversion.balance import METHODS, Scales, after_first_fork, balance, first_potential
from keras_snn.conversion.build import Parts, build_ann, build_snn, predict
from keras_snn.conversion.fidelity import check_fidelity, difference
from keras_snn.conversion.reader import read
from keras_snn.conversion.report import ConversionReport, LayerReport
from keras_snn.graph import functional
from keras_snn.layers.registry import get_neuron
from keras_snn.utils.arguments import check_choice, check_integer, check_number
from keras_snn.utils.batches import batches_of, is_array

__all__ = ["convert"]

READOUTS = {"mean": snn.MeanOverTime, "accumulator": snn.SumOverTime}


def convert(
    model,
    calibration_data,
    method="spike_norm",
    timesteps=100,
    reset="soft",
    input_coding="direct",
    percentile=99.9,
    max_pooling="refuse",
    residual="balanced",
    initial_potential=0.0,
    neuron="if",
    threshold_scale=1.0,
    readout="mean",
    calibration_timesteps=100,
    check_examples=64,
    gain=1.0,
    seed=0,
    batch_size=32,
):
    """Converts a trained Keras ANN into a spiking network of keras_snn layers.

    Every ReLU becomes integrate-and-fire neurons whose firing rate stands for its value; batch
    normalisation is folded into the weights; biases become a current of every step; a softmax or
    sigmoid at the end leaves. A spike of a layer is worth `scale` in the ANN's units (see the
    report); the outputs are in the ANN's units, logits where there was a softmax. The result is an
    ordinary Keras model: fit it, save it, export it.

    Args:
        model: A functional or Sequential model, nested ones too; its weights are not changed.
            ReLUs may be layers, activations of layers, or operations, capped or not.
        calibration_data: Some hundred typical inputs: an array (a list of arrays for several
            inputs), a `(inputs, labels)` tuple, a `tf.data.Dataset`, a `PyDataset`, or an iterable
            of batches. With integer labels the report has accuracies.
        method: How thresholds are chosen. `"spike_norm"`: layer by layer, the largest input of one
            step that the spikes of the layers before it cause (Sengupta et al., 2019). `"max"`:
            from the ANN's largest activations (Diehl et al., 2015). `"percentile"`: from a
            percentile of them (Rueckauer et al., 2017). `"model"`: from the weights alone, the
            largest input that could be.
        timesteps: Number of steps of the spiking network.
        reset: `"soft"` subtracts the threshold; `"hard"` resets to 0, and loses what was above it.
        input_coding: `"direct"`: the input is a current of every step. `"poisson"`: it is encoded
            as signed random spikes, and must lie in [-1, 1] (values beyond saturate).
        percentile: For `method="percentile"`, in (0, 100].
        max_pooling: `"refuse"`, `"average"` (average pooling in its place: train with that
            instead), or `"spiking"` (`SpikingMaxPooling`).
        residual: `"balanced"`: the paths that meet in a sum carry spikes of the same worth.
            `"unit"`: all neurons behind the first fork have the threshold 1 (the rule of
            Sengupta et al.); sums are balanced all the same.
        initial_potential: First membrane potential in thresholds, with soft reset; 0.5 halves the
            error of few steps. Neurons of `ClipFloorShift` always start from 0.5.
        neuron: What neurons to build, as models take it: `"if"`; for fine-tuning `"stdblif"`, whose
            every layer delays by a step. Thresholds are those of IF neurons. Its threshold, reset
            and first potential are set; a neuron without these arguments is an error.
        threshold_scale: Factor on all thresholds in the end but those that `residual="unit"` sets
            to 1, as in the code of Rathi et al. (0.7). Below 1 every layer fires more, which serves
            few steps and fine-tuning, and rates overestimate the ANN.
        readout: `"mean"` over time, in the ANN's units, or `"accumulator"`, the sum over time of
            what the last weights make of spikes, as hybrid training takes it.
        calibration_timesteps: Steps that `"spike_norm"` simulates.
        check_examples: Number of calibration examples to run the result on, for firing rates and
            accuracy over time in the report (of models with one output); 0 for none.
        gain: For `input_coding="poisson"`, factor on firing probabilities.
        seed: Seed of Poisson coding.
        batch_size: Batch size for arrays.

    Returns:
        `(snn, report)`: a functional model from the ANN's inputs to its outputs, and a
        `ConversionReport`. Printing it shows what became of every layer.

    Raises:
        TypeError: If `model` is not functional or Sequential.
        ValueError: If a layer can't be converted; all such layers are named, before any work. Or
            if an argument is unknown, the data are empty, or neurons never get an input above 0.

    Example:

    >>> import keras
    >>> ann = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, activation="relu"),
    ...     keras.layers.Dense(2, activation="softmax")])
    >>> spiking, report = convert(ann, np.random.default_rng(0).random((16, 2)), timesteps=32)
    >>> [entry.action for entry in report.layers]
    ['converted', 'converted', 'converted', 'replaced']
    >>> spiking.predict_on_batch(np.ones((1, 2))).shape
    (1, 2)
    """
    check_choice("method", method, METHODS)
    check_choice("reset", reset, ("soft", "hard"))
    check_choice("input_coding", input_coding, ("direct", "poisson"))
    check_choice("max_pooling", max_pooling, ("refuse", "average", "spiking"))
    check_choice("residual", residual, ("balanced", "unit"))
    check_choice("readout", readout, READOUTS)
    check_integer("timesteps", timesteps)
    check_integer("calibration_timesteps", calibration_timesteps)
    check_integer("check_examples", check_examples, minimum=0)
    check_number("percentile", percentile, above=0, maximum=100)
    check_number("initial_potential", initial_potential, minimum=0, maximum=1)
    check_number("threshold_scale", threshold_scale, above=0)
    check_number("gain", gain, above=0)
    if initial_potential and reset == "hard":
        raise ValueError("`initial_potential` needs `reset='soft'`: a hard reset returns to it.")
    get_neuron(neuron)
    graph = read(model, max_pooling, input_coding)
    batches, labels = calibration_batches(calibration_data, model, batch_size)
    examples = _first(batches, batch_size)
    ann, tensors, fidelity = check_fidelity(graph, model, examples)
    if max_pooling == "average" and graph.average():
        ann, tensors = build_ann(graph, model)
        fidelity = difference(graph, model, ann, examples)

    def encoder(steps):
        if input_coding == "direct":
            return lambda name=None: snn.RepeatTime(steps, name=name)
        return lambda name=None: snn.PoissonEncoder(steps, gain=gain, seed=seed, name=name)

    scales = Scales(graph, None if input_coding == "direct" else 1 / gain)
    parts = Parts(graph, scales)
    settings = {
        "percentile": percentile,
        "reset": reset,
        "initial_potential": initial_potential,
        "calibration_timesteps": calibration_timesteps,
        "residual": residual,
        "ann": ann,
        "tensors": tensors,
        "scales": scales,
        "encoder": lambda steps: encoder(steps)(),
    }
    balance(graph, scales, parts, batches, method, settings)
    if readout == "mean":
        for index in graph.outputs:
            scales.want(index, 1.0)

    unit = after_first_fork(graph) if residual == "unit" else set()

    def final_threshold(index):
        return scales.thresholds[index] * (1.0 if index in unit else threshold_scale)

    def make_neuron(index):
        node = graph.nodes[index]
        threshold = final_threshold(index)
        potential = first_potential(settings, node, threshold)
        return _neuron(neuron, node.name, threshold, reset, potential)

    spiking = build_snn(parts, model, make_neuron, timesteps, encoder(timesteps), READOUTS[readout])
    over_time = None
    # Several outputs have several readouts, and no one accuracy.
    if check_examples and len(graph.outputs) == 1:
        targets, measure = labels, "accuracy"
        if labels is None and _classifies(graph, ann):
            found = np.concatenate([predict(ann, batch)[0] for batch in batches])
            targets, measure = predicted_classes(ann, found), "agreement with the ANN"
        inputs = tree.pack_sequence_as(functional(model).input, _first(batches, check_examples))
        classes = _as_classes(targets, ann)
        classes = None if classes is None else classes[:check_examples]
        over_time = accuracy_over_time(spiking, (inputs, classes), batch_size=batch_size)
        over_time = dataclasses.replace(over_time, measure=measure)
    return spiking, _report(method, graph, scales, final_threshold, ann, fidelity, over_time)


def _neuron(identifier, name, threshold, reset, potential):
    """A neuron layer of the wanted kind."""
    layer = get_neuron(identifier, name)
    config = layer.get_config()
    wanted = {"threshold": threshold, "reset": reset, "v_reset": potential}
    missing = sorted(set(wanted) - set(config))
    if missing:
        raise ValueError(f"The neuron {type(layer).__name__} has no {missing}.")
    return type(layer).from_config(config | wanted)


def calibration_batches(data, model, batch_size):
    """Data as batches of arrays, and labels: `(list of lists of arrays, labels or None)`."""
    check_integer("batch_size", batch_size)
    count = len(model.inputs)
    if isinstance(data, tuple) and 2 <= len(data) <= 3:
        # Of a model with as many inputs they could be a tuple of these.
        if len(data) != count or not all(map(is_array, data)):
            data = data[0], data[1]
        else:
            data = data, None
    elif isinstance(data, dict) or (isinstance(data, list) and data and all(map(is_array, data))):
        data = data, None
    elif not is_array(data) and not hasattr(data, "__iter__") and not hasattr(data, "__getitem__"):
        raise TypeError(
            "Received an invalid value for argument `calibration_data`, expected an array, a tuple "
            f"of inputs and labels, or an iterable of batches, got {type(data).__name__}."
        )
    if isinstance(data, tuple) and not (data[1] is None or is_array(data[1])):
        # Labels of several outputs have no one accuracy.
        several = isinstance(data[1], (dict, list, tuple)) and not np.isscalar(
            next(iter(data[1].values() if isinstance(data[1], dict) else data[1]), None)
        )
        data = data[0], None if several else np.asarray(data[1])
    batches, labels = [], []
    for inputs, targets in batches_of(model, data, batch_size):
        batches.append([_checked(x, part) for x, part in zip(model.inputs, inputs)])
        if is_array(targets):
            labels.append(targets)
    if not batches or not len(batches[0][0]):
        raise ValueError("The calibration data are empty.")
    return batches, np.concatenate(labels) if labels else None


def _checked(tensor, part):
    """An array, if it is what an input of the model takes."""
    part = np.asarray(part)
    if len(part.shape) != len(tensor.shape) or any(
        wanted not in (None, size) for wanted, size in zip(tensor.shape[1:], part.shape[1:])
    ):
        raise ValueError(
            f"The input {tensor.name!r} of the model takes batches of the shape {tensor.shape}, "
            f"got calibration data of the shape {part.shape}."
        )
    if not np.all(np.isfinite(part)):
        raise ValueError("The calibration data have values that are not finite.")
    return part.astype("float32") if part.dtype.kind == "f" else part


def _first(batches, count):
    """The first examples: an array for each input."""
    chosen, found = [], 0
    for batch in batches:
        chosen.append(batch)
        found += len(batch[0])
        if found >= count:
            break
    return [np.concatenate(parts)[:count] for parts in zip(*chosen)]


def _classifies(graph, ann):
    """Whether outputs are of classes: one unit without a sigmoid may be a number as well."""
    return ann.output_shape[-1] != 1 or bool(graph.left)


def _as_classes(labels, ann):
    """Labels as integers, one an example; `None` if they are no classes of this output."""
    if labels is None or len(ann.outputs[0].shape) != 2:
        return None
    units = ann.outputs[0].shape[-1]
    labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if labels.ndim == 2 and np.allclose(labels.sum(-1), 1) and labels.min() >= 0:
        labels = labels.argmax(-1)
    if labels.ndim != 1 or not np.array_equal(labels, labels.astype(int)):
        return None
    return labels if labels.min() >= 0 and labels.max() < max(units, 2) else None


def _report(method, graph, scales, final_threshold, ann, fidelity, over_time):
    rates = {} if over_time is None else over_time.firing_rates
    layers = []
    for entry in graph.entries:
        node = None if entry.node is None else graph.nodes[entry.node]
        fields = {}
        if node is not None and node.kind == "neuron":
            fields = {
                "neuron": node.name,
                "threshold": final_threshold(entry.node),
                "scale": scales.of(entry.node),
                "firing_rate": rates.get(node.name),
            }
        layers.append(LayerReport(entry.layer, entry.kind, entry.action, entry.note, **fields))
    return ConversionReport(method, tuple(layers), ann, fidelity, over_time)
