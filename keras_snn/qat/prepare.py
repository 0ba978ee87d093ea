"""From a trained float network to one with the arithmetic of its integer file, to be trained on."""

import math

import keras
import numpy as np
from keras import ops

from keras_snn import graph
from keras_snn import layers as snn
from keras_snn.qat.grids import Grid, decay_without_ties, near_power_of_two, weight_steps
from keras_snn.qat.layers import Quantize, QuantizedLIF, QuantizedWeights, check_state_bits
from keras_snn.utils.arguments import check_integer

__all__ = ["fold", "prepare"]

LAYERS = keras.layers
WEIGHTED = (
    LAYERS.Dense,
    LAYERS.Conv1D,
    LAYERS.Conv2D,
    LAYERS.DepthwiseConv1D,
    LAYERS.DepthwiseConv2D,
)
AVERAGES = (LAYERS.AveragePooling1D, LAYERS.AveragePooling2D)
# What moves numbers, or chooses among them, and computes no new ones.
MOVES = (
    *AVERAGES,  # of spikes, see `_Plan.average`
    *(
        getattr(LAYERS, f"{name}{n}D")
        for name in ("MaxPooling", "GlobalMaxPooling")
        for n in (1, 2)
    ),
    *(getattr(LAYERS, f"{name}{n}D") for name in ("ZeroPadding", "Cropping") for n in (1, 2)),
    LAYERS.Reshape,
    LAYERS.Flatten,
    LAYERS.Permute,
    LAYERS.RepeatVector,
    LAYERS.Concatenate,
    LAYERS.Identity,
    snn.RepeatTime,
)
MOVING_OPERATIONS = ("Reshape", "Transpose", "Concatenate", "GetItem", "Squeeze", "ExpandDims")
# Of a binary spike, and of what a sum of spikes may be.
SPIKE, LARGEST_COUNT = 4, 63
# What a threshold may be, in steps of the potential.
LEVELS = (24, 32, 40, 48, 56, 64, 80, 96)
# The same of int16, odd, so that half of one is no code.
FINE_LEVELS = (4095, 3583, 2047, 1791, 1023, 895, 511, 447, 255, 223)
# In int16: the largest code of an input; sums of products that float32 has exactly; how many steps
# of a current a step of a weight may be, in powers of two.
FINE_INPUTS, EXACT, LARGEST_SHIFT = (4080, 255), 1 << 24, 6


def prepare(model, data, bits=8, edge_bits=8, state_bits=8, samples=64):
    """A network with the arithmetic of its int8 or int16 file, to be trained on.

    Batch normalisations are folded into the weights in front of them, and weights, currents and
    potentials are brought to what int8 holds: weights with a step for each channel, currents and
    potentials with one scale a layer, all sums exact. Scales are taken from data; what is trained
    are the float weights, through the rounding. `export.to_tflite(prepared, path,
    quantize="int8")` then writes exactly these scales: the file has the same spikes, on any kernels
    of TensorFlow Lite.

    Args:
        model: A trained functional or Sequential model of dense layers and convolutions, batch
            normalisations, pooling, IF, LIF, DecayLIF, PLIF or ILIF neurons (soft or hard reset to
            0), sums and concatenations.
        data: Inputs as for `model.predict`, of which `samples` are looked at.
        bits: Bits of a weight: 3 to 8; 2 for the ternary -1, 0, 1, 1 for the binary -1, 1, each
            times a number of the channel's.
        edge_bits: Bits of the weights that read the inputs or give the outputs.
        state_bits: Bits of currents and potentials. 8, or 16 for files of int8 weights and int16
            between (`quantize="int16x8"`): a threshold has up to 4096 codes instead of up to 96,
            but XNNPACK has no such kernels.
        samples: Number of examples that scales are taken from.

    Returns:
        A Keras model with new weights; that it was given is as before.

    Raises:
        TypeError: If the model is no such one; the layer is named.
        ValueError: If an argument is invalid.

    Example:

    ```python
    quantized = qat.prepare(model, images, bits=8)
    quantized.compile("adam", "sparse_categorical_crossentropy")
    quantized.fit(images, labels, epochs=3)
    export.to_tflite(quantized, "model.tflite", quantize="int8")
    ```
    """
    for name, value in (("bits", bits), ("edge_bits", edge_bits)):
        if check_integer(name, value) > 8:
            raise ValueError(
                f"Received an invalid value for argument `{name}`, expected 1 to 8, got {value}."
            )
    check_integer("samples", samples)
    state_bits = check_state_bits(state_bits)
    graph.check_functional(model, "`prepare`")
    data = [np.asarray(x)[:samples] for x in graph.in_order(model, data)]
    return _Plan(fold(model), data, bits, edge_bits, state_bits).build()


def fold(model):
    """The same network with normalisations folded into weights, each with a bias and no activation.

    Args:
        model: A functional or Sequential model.

    Returns:
        A Keras model with new weights.

    Raises:
        TypeError: If a normalisation does not follow weights that nobody else reads.
    """
    found = graph.trace(model)
    readers = _readers(found)
    layers, folded = {}, set()
    for call in found.calls:
        if isinstance(call.layer, WEIGHTED):
            if call.index:
                raise _refused(call, "its weights are shared; give each call a layer of its own")
            if call.time == "across" and call.reads_time:
                raise _refused(call, "it mixes steps")
            scale, shift = 1.0, 0.0
            after = readers.get(id(call.output), [])
            if len(after) == 1 and _is_linear(call.layer) and _can_fold(after[0]):
                folded.add(after[0].name)
                scale, shift = graph.normalization(after[0].layer)
            layers[call.name] = (call.layer, scale, shift)
    for call in found.calls:
        if call.role.folds and call.name not in folded:
            raise _refused(call, "it does not follow a layer of weights that it could be folded in")

    def rule(call):
        if call.name in folded:
            return call.input
        if call.name not in layers:
            return call()
        layer, scale, shift = layers[call.name]
        config = {"use_bias": True, "activation": "linear", "name": _name(call)}
        new = type(layer).from_config(layer.get_config() | config)
        y = (snn.FoldTime(new) if call.each_step or _has_steps(layer, call) else new)(call.input)
        kernel, bias = ops.convert_to_numpy(layer.kernel), 0.0
        if layer.use_bias:
            bias = ops.convert_to_numpy(layer.bias)
        depthwise = "Depthwise" in type(layer).__name__ and np.ndim(scale)
        factor = np.reshape(scale, kernel.shape[-2:]) if depthwise else scale
        new.set_weights([kernel * factor, np.zeros(new.bias.shape) + bias * scale + shift])
        return y if _is_linear(layer) else LAYERS.Activation(layer.activation)(y)

    inputs = [_input(x) for x in found.inputs]
    outputs = graph.run(model, inputs, rule)
    return keras.Model(_structure(inputs), outputs, name=model.name)


def _structure(inputs):
    return inputs if len(inputs) > 1 else inputs[0]


def _has_steps(layer, call):
    return isinstance(layer, LAYERS.Dense) and len(call.input.shape) > 2


def _input(x):
    return keras.Input(batch_shape=x.shape, dtype=x.dtype, name=x.name)


def _is_linear(layer):
    return layer.activation is keras.activations.linear


def _can_fold(call):
    """Whether a call normalises the last axis, that of the channels, alike at each step."""
    if call is None or not call.role.folds:
        return False
    rank = len(call.input.shape) - (1 if call.each_step else 0)
    return call.layer.axis in (-1, rank - 1)


def _readers(found):
    """By the identity of a tensor, the calls that read it; `None` for each output that it is."""
    readers = {}
    for call in found.calls:
        for x in call.inputs:
            readers.setdefault(id(x), []).append(call)
    for x in found.outputs:
        readers.setdefault(id(x), []).append(None)
    return readers


def _refused(call, why):
    return TypeError(
        f"The layer {call.name} ({type(call.layer).__name__}) can't be quantised: {why}."
    )


class _Tensors:
    """Tensors of one grid.

    Attributes:
        made: Calls that compute them, `None` for an input.
        read: Calls that read them, `None` for an output.
        windows: How many spikes an average pooling among them takes.
        values: What they hold in the data, an array for each tensor by its identity.
    """

    def __init__(self):
        self.made, self.read, self.windows, self.values = [], [], 1, {}
        self.grid, self.unit = None, 1


class _Plan:
    """Which grid each tensor of a folded network has, and the network that computes with them."""

    def __init__(self, model, data, bits, edge_bits, state_bits):
        self.model, self.bits, self.edge_bits = model, bits, edge_bits
        self.fine = state_bits == 16
        self.trace = graph.trace(model)
        self.tensors = {}
        readers = _readers(self.trace)
        self.fires = self.before_neurons()
        for x in self.trace.inputs:
            self.add(x, None)
        for call in self.trace.calls:
            if len(call.outputs) != 1:
                raise _refused(call, "it has several outputs")
            self.add(call.output, call)
            same = self.keeps_grid(call)
            for x in call.inputs if same else ():
                self.unite(x, call.output)
            if same and isinstance(call.layer, AVERAGES):
                if call.layer.padding != "valid":
                    raise _refused(call, "its windows differ at the borders; pad with 'valid'")
                self.tensors[id(call.output)].windows *= int(np.prod(call.layer.pool_size))
        for key, calls in readers.items():
            self.tensors[key].read += calls
        self.record(data)
        for group in {id(g): g for g in self.tensors.values()}.values():
            self.choose(group)

    def add(self, tensor, call):
        self.tensors[id(tensor)] = group = _Tensors()
        group.made.append(call)

    def unite(self, a, b):
        a, b = self.tensors[id(a)], self.tensors[id(b)]
        if a is not b:
            a.made += b.made
            a.windows = max(a.windows, b.windows)
            for key, group in self.tensors.items():
                if group is b:
                    self.tensors[key] = a

    def before_neurons(self):
        """Names of the calls behind which there is a neuron."""
        fires, found = set(), set()
        for call in reversed(self.trace.calls):
            if isinstance(call.layer, snn.SpikingRNN) or any(id(y) in fires for y in call.outputs):
                fires |= {id(x) for x in call.inputs}
                if any(id(y) in fires for y in call.outputs):
                    found.add(call.name)
        return found

    def keeps_grid(self, call):
        """Whether outputs of a call are numbers of the grid of its inputs."""
        layer = call.layer
        if isinstance(layer, (*WEIGHTED, snn.SpikingRNN)):
            return False
        name = type(layer).__name__
        sums = isinstance(layer, LAYERS.Add) or name == "Add"
        sums = sums or (isinstance(layer, snn.SpikeConnection) and layer.mode == "add")
        if sums and len(call.inputs) > 1:
            return True
        moves = isinstance(layer, MOVES) if isinstance(layer, LAYERS.Layer) else False
        if moves or call.role.idle or name in MOVING_OPERATIONS:
            return call.name in self.fires or not isinstance(layer, AVERAGES)
        if call.name in self.fires:
            raise _refused(call, "its outputs are no numbers of the grid of its inputs")
        return False

    def record(self, data):
        """Gives each group what its tensors are in the data."""
        tensors = {id(x): x for x in self.trace.inputs}
        tensors |= {id(call.output): call.output for call in self.trace.calls}
        recorder = keras.Model(self.trace.inputs, list(tensors.values()))
        parts = []
        for start in range(0, len(data[0]), 16):
            outputs = recorder([x[start : start + 16] for x in data], training=False)
            parts.append([ops.convert_to_numpy(y) for y in outputs])
        for key, values in zip(tensors, zip(*parts)):
            self.tensors[key].values[key] = np.concatenate(values)

    def choose(self, group):
        """Chooses the grid of a group of tensors."""
        neurons = [c for c in group.made if c is not None and isinstance(c.layer, snn.SpikingRNN)]
        weighted = [c for c in group.made if c is not None and isinstance(c.layer, WEIGHTED)]
        read = [c for c in group.read if c is not None and isinstance(c.layer, snn.SpikingRNN)]
        largest = max(float(np.max(x)) for x in group.values.values())
        smallest = min(0.0, *(float(np.min(x)) for x in group.values.values()))
        counts = all(np.all(x == np.round(x)) for x in group.values.values()) and not smallest
        if neurons and weighted:
            raise _refused(weighted[0], f"its currents are added to spikes of {neurons[0].name}")
        if neurons and read:
            raise _refused(read[0], f"it reads spikes of {neurons[0].name} without weights between")
        pools = [c for c in group.made if c is not None and isinstance(c.layer, AVERAGES)]
        integers = any(_cell(c, "max_spikes") for c in neurons)
        if pools and (integers or not neurons):
            raise _refused(pools[0], "means are rounded but for those of binary spikes; use maxima")
        if not read and not weighted and (neurons or (None in group.made and counts)):
            group.unit = 1 if integers or self.fine else SPIKE
            codes = group.unit * group.windows
            most = FINE_INPUTS[0] if self.fine else 255
            if largest * codes <= most:
                group.grid = self.grid(1 / codes, 0)
                return
            if neurons:
                raise _refused(
                    neurons[0],
                    f"sums of its spikes, up to {largest:g}, do not fit in {most} codes",
                )
        group.unit = 1
        if read:
            currents = group.values[id(read[0].input)]
            if self.fine:
                reach = max(_largest_weight(c) for c in weighted)
                scale = _fine_scale_of_currents(read[0], currents, reach)
            else:
                scale = _scale_of_currents(read[0], currents)
            group.grid = self.grid(scale)
            return
        span = (max(largest, 0.0) - smallest) or 1.0
        codes = self.input_codes(group) if self.fine else 255
        scale = float(np.float32(span / codes))
        group.grid = self.grid(scale, math.floor(smallest / scale + 0.5))

    def grid(self, scale, low=-128):
        return Grid.of(scale, low, 16 if self.fine else 8)

    def input_codes(self, group):
        """How many codes values may have, so that sums of their products are exact."""
        sizes = [
            c.layer.kernel.shape
            for c in group.read
            if c is not None and isinstance(c.layer, WEIGHTED)
        ]
        terms = max((int(np.prod(shape[:-1])) for shape in sizes), default=1)
        return next((n for n in FINE_INPUTS if 127 * n * terms <= EXACT), FINE_INPUTS[-1])

    def build(self):
        """The network on these grids."""
        calls, weights = iter(self.trace.calls), []

        def rule(call):
            known = next(calls)
            group = self.tensors[id(known.output)]
            x = call.input
            if isinstance(known.layer, WEIGHTED):
                return self.weighted(known, x, group, weights)
            if isinstance(known.layer, snn.SpikingRNN):
                return _neuron(known, self.tensors[id(known.input)].grid, group.grid)(x)
            y = call()
            moves = group is self.tensors[id(known.input)] and len(known.inputs) == 1
            return y if moves else _quantize(group.grid, y)

        inputs = [_input(x) for x in self.trace.inputs]
        grids = [self.tensors[id(x)].grid for x in self.trace.inputs]
        outputs = graph.run(self.model, list(map(_quantize, grids, inputs)), rule)
        model = keras.Model(_structure(inputs), outputs, name=self.model.name)
        for layer, arrays, step, shift in weights:
            layer.layer.set_weights(arrays)
            layer.step.assign(step)
            layer.shift.assign(shift)
        return model

    def weighted(self, call, x, group, weights):
        """The call of a layer with weights, with int8 ones."""
        layer, before = call.layer, self.tensors[id(call.input)]
        first = None in before.made
        last = call.name not in self.fires
        new = QuantizedWeights(
            type(layer).from_config(layer.get_config()),
            before.grid.scale,
            group.grid.scale,
            _low(group.grid),
            before.unit,
            self.edge_bits if first or last else self.bits,
            16 if self.fine else 8,
            name=_name(call),
            dtype="float32",
        )
        y = (snn.FoldTime(new) if call.each_step else new)(x)
        kernel, bias = map(ops.convert_to_numpy, layer.get_weights())
        ratio = group.grid.scale / before.grid.scale
        # Beyond that shift kernels have no factor.
        shifts = (-LARGEST_SHIFT, 20) if self.fine else (-8, 20)
        steps = weight_steps(kernel, new.bits, new.unit_step, ratio, new.channel_axis, shifts)
        steps = [s if new.channel_axis is not None else s[0] for s in steps]
        weights.append((new, [kernel, bias], *steps))
        return y


def _name(call):
    """The name of a call, for a layer of its own."""
    return call.name.replace("/", "_").replace(":", "_")


def _quantize(grid, x):
    return Quantize(grid.scale, _low(grid), grid.bits, dtype="float32")(x)


def _low(grid):
    """The smallest code, as layers take it."""
    return grid.low if grid.bits == 8 else -128


def _cell(call, name):
    return getattr(call.layer.cell, name, 0)


def _numbers(call):
    """Decay, gain and threshold of a neuron.

    Raises:
        TypeError: If the neuron is none with integer potentials.
    """
    cell, layer = call.layer.cell, call.layer
    integer = isinstance(cell, snn.ILIFCell)
    spec = cell.fused_spec() if isinstance(cell, snn.SpikingCell) else None
    charge = cell.linear_charge() if integer else spec and spec[0]
    if charge is None:
        raise _refused(call, "its potential is no sum of a share of itself and the input")
    if layer.go_backwards or layer.return_state or not layer.return_sequences:
        raise _refused(call, "`go_backwards`, `return_state` and last spikes alone are not known")
    if cell.v_reset or charge.v_rest:
        raise _refused(call, f"its potential rests at {cell.v_reset}, not at 0")
    if integer and cell.normalize:
        raise _refused(call, "`normalize` makes its spikes fractions")
    rate = None if charge.rate is None else ops.convert_to_numpy(charge.rate)
    decay, gain = charge.slopes(rate)
    numbers = [decay, gain, ops.convert_to_numpy(cell.current_threshold)]
    if any(np.size(x) > 1 for x in numbers):
        raise _refused(call, "its neurons differ; one time constant and one threshold are known")
    return [float(x) for x in map(np.squeeze, numbers)]


def _scale_of_currents(call, currents):
    """The scale of currents with which most spikes of the neuron that reads them are right."""
    decay, gain, threshold = _numbers(call)
    cell, most = call.layer.cell, _cell(call, "max_spikes")
    currents = currents.reshape(*currents.shape[:2], -1)
    currents = gain * currents[:, :, _sample(currents.shape[2])]
    best, found = None, None
    for level in [math.floor(127 / (most + 0.5)) | 1] if most else LEVELS:
        # Spikes are where codes are at `level` or above, potentials at the threshold or above.
        scale = threshold / (level if cell.reset == "soft" else level - 0.5)
        wrong = (
            0
            if most
            else np.mean(
                _spikes(currents, decay, threshold, cell.reset)
                != _spikes(currents, decay, level * scale, cell.reset, scale)
            )
        )
        if best is None or wrong < best:
            best, found = wrong, scale
    return float(np.float32(found / gain))


def _largest_weight(call):
    return float(np.max(np.abs(ops.convert_to_numpy(call.layer.kernel)))) * 1.5  # may grow


def _fine_scale_of_currents(call, currents, weight):
    """The same of int16 currents, which have room for twice the currents and all weights."""
    _, gain, threshold = _numbers(call)
    largest = 2 * float(np.max(np.abs(currents)))
    for level in FINE_LEVELS:
        scale = threshold / level / gain
        if near_power_of_two(scale * gain):
            continue
        if largest < 32767 * scale and weight < (127 << LARGEST_SHIFT) * scale:
            break
    return float(np.float32(scale))


def _sample(count, most=4096):
    return np.random.default_rng(0).permutation(count)[:most]


def _spikes(currents, decay, threshold, reset, scale=None):
    """Spikes of a neuron without or, with `scale`, with integer potentials."""
    v, spikes = 0.0, []
    decay = decay if scale is None else decay_without_ties(decay)
    for x in np.moveaxis(currents, 1, 0):
        if scale is not None:
            x = np.clip(np.round(x / scale), -128, 127) * scale
        h = decay * v + x
        if scale is not None:
            h = np.clip(np.round(h / scale), -128, 127) * scale
        fired = h >= threshold - (scale / 2 if scale else 0)
        v = np.where(fired, {"hard": 0.0, "soft": h - threshold, "none": h}[reset], h)
        spikes.append(fired)
    return np.stack(spikes)


def _neuron(call, currents, spikes):
    """The neuron with integer potentials."""
    layer, cell = call.layer, call.layer.cell
    decay, gain, threshold = _numbers(call)
    return QuantizedLIF(
        currents.scale,
        _low(currents),
        decay,
        gain,
        _cell(call, "max_spikes"),
        spikes.scale,
        currents.bits,
        threshold=threshold,
        reset=cell.reset,
        detach_reset=cell.detach_reset,
        surrogate=cell.surrogate,
        stateful=layer.stateful,
        name=_name(call),
        dtype="float32",
    )
