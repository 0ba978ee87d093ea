"""Conversion of a trained ANN into a spiking network."""

import dataclasses
import itertools

import keras
import numpy as np

from keras_snn import layers as snn
from keras_snn.analysis.accuracy import (
    accuracy_over_time,
    output_activation,
    predicted_classes,
)
from keras_snn.conversion.balance import METHODS, Scales, after_first_fork, balance, first_potential
from keras_snn.conversion.build import Parts, build_ann, build_snn, predict
from keras_snn.conversion.reader import read
from keras_snn.conversion.report import ConversionReport, LayerReport
from keras_snn.layers.registry import get_neuron
from keras_snn.utils.arguments import check_choice, check_integer, check_number

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
    graph = read(model, max_pooling)
    batches, labels = calibration_batches(calibration_data, len(model.inputs), batch_size)
    ann, taps = build_ann(graph, model)
    fidelity = _fidelity(model, ann, batches[0])
    averaged = max_pooling == "average" and any("pooling" in e.note for e in graph.entries)
    if fidelity > 1e-3 and not averaged:
        raise RuntimeError(
            f"The ANN as it was read gives other outputs than {model.name!r} (difference "
            f"{fidelity:.2g} of the largest output). Please report this model."
        )

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
        "taps": taps,
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
        own = settings | ({"initial_potential": 0.5} if node.levels and reset == "soft" else {})
        return _neuron(neuron, node.name, threshold, reset, first_potential(own, threshold))

    spiking = build_snn(parts, model, make_neuron, timesteps, encoder(timesteps), READOUTS[readout])
    over_time = None
    # Several outputs have several readouts, and no one accuracy.
    if check_examples and len(graph.outputs) == 1:
        inputs, targets = _first(batches, labels, check_examples)
        if targets is None:
            found = [keras.tree.flatten(predict(ann, batch))[0] for batch in batches]
            targets = predicted_classes(ann, np.concatenate(found)[:check_examples])
        one = len(ann.outputs[0].shape) == 2
        over_time = accuracy_over_time(
            spiking, (inputs, targets if one else None), batch_size=batch_size
        )
        if labels is None:
            over_time = dataclasses.replace(over_time, measure="agreement with the ANN")
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


def calibration_batches(data, inputs, batch_size):
    """Data as batches of arrays, and labels: `(list of lists of arrays, labels or None)`."""
    check_integer("batch_size", batch_size)

    def array(x):
        return np.asarray(keras.ops.convert_to_numpy(x))

    def is_array(x):
        return hasattr(x, "shape") and hasattr(x, "dtype")

    def as_list(x):
        found = [array(part) for part in keras.tree.flatten(x)]
        if len(found) != inputs:
            raise ValueError(f"The model has {inputs} inputs, the calibration data {len(found)}.")
        return [part.astype("float32") if part.dtype.kind == "f" else part for part in found]

    labels = None
    if isinstance(data, tuple) and len(data) == 2 and not (inputs == 2 and is_array(data[0])):
        data, labels = data
    if is_array(data) or (isinstance(data, (list, tuple)) and all(map(is_array, data))):
        arrays = as_list(data)
        starts = range(0, len(arrays[0]), batch_size)
        batches = [[part[s : s + batch_size] for part in arrays] for s in starts]
        labels = None if labels is None else array(labels)
    elif isinstance(data, keras.utils.PyDataset):
        batches, labels = _iterated((data[i] for i in range(len(data))), as_list, array)
    elif hasattr(data, "__iter__"):
        batches, labels = _iterated(data, as_list, array)
    else:
        raise TypeError(
            "Received an invalid value for argument `calibration_data`, expected an array, a tuple "
            f"of inputs and labels, or an iterable of batches, got {type(data).__name__}."
        )
    if not batches or not len(batches[0][0]):
        raise ValueError("The calibration data are empty.")
    for part in itertools.chain(*batches):
        if not np.all(np.isfinite(part)):
            raise ValueError("The calibration data have values that are not finite.")
    if labels is not None:
        labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
        labels = labels.argmax(-1) if labels.ndim == 2 else labels
    return batches, labels


def _iterated(data, as_list, array):
    batches, labels = [], []
    for batch in data:
        if isinstance(batch, tuple):
            if len(batch) > 1:
                labels.append(array(batch[1]))
            batch = batch[0]
        batches.append(as_list(batch))
    return batches, np.concatenate(labels) if labels else None


def _first(batches, labels, count):
    """The first examples, as arrays."""
    arrays = [np.concatenate(parts)[:count] for parts in zip(*batches)]
    labels = None if labels is None else labels[:count]
    return (arrays if len(arrays) > 1 else arrays[0]), labels


def _fidelity(model, ann, batch):
    """Largest difference of two models' outputs, relative to the largest output.

    Of a softmax at the end, outputs are compared behind it.
    """
    outputs = [keras.tree.flatten(predict(m, batch)) for m in (model, ann)]
    difference = 0.0
    for tensor, theirs, ours in zip(model.outputs, *outputs):
        name = output_activation(tensor)
        if name in ("softmax", "sigmoid", "log_softmax"):
            ours = keras.ops.convert_to_numpy(getattr(keras.activations, name)(np.asarray(ours)))
        theirs, ours = np.asarray(theirs, "float64"), np.asarray(ours, "float64")
        scale = max(np.abs(theirs).max(), 1e-12)
        difference = max(difference, float(np.abs(theirs - ours).max() / scale))
    return difference


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
