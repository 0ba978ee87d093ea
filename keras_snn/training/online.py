"""Learning online: gradients taken at each step, in memory that does not grow with time.

Backpropagation through time keeps every step of a sequence until its end. `SLTT`, `OTTT` and
`EProp` take the gradient of each step as it is computed and add it up; of the past they keep the
neurons' states and, the last two, one trace of the inputs of each layer.
"""

import dataclasses
import inspect

import keras
from keras import layers, ops, tree

from keras_snn import dynamics, graph
from keras_snn import layers as snn
from keras_snn.analysis.probes import with_timesteps
from keras_snn.layers.connections import RecurrentCell
from keras_snn.training.every_step import READOUTS

__all__ = ["OTTT", "SLTT", "EProp"]

AFFINE = (layers.Dense, layers.Conv1D, layers.Conv2D, layers.Conv3D)
NOISE = (
    layers.Dropout,
    layers.SpatialDropout1D,
    layers.SpatialDropout2D,
    layers.SpatialDropout3D,
    layers.GaussianDropout,
)


@dataclasses.dataclass
class _Traced:
    """Spikes of a step and their trace, which flow through the layers behind a neuron."""

    value: object
    trace: object

    @property
    def shape(self):
        return self.value.shape


def _stop(values):
    return tree.map_structure(ops.stop_gradient, values)


def _with_trace(layer, call, x, trace, count=None):
    """The outputs of an affine layer for `x`, whose weights' gradient is that for the trace.

    Args:
        layer: The layer, which may have a bias.
        call: The function that applies it, or its wrapper.
        x: Its inputs; they get the gradient that they would get without a trace.
        trace: What the gradient of the kernel reads instead of them.
        count: What the gradient of the bias is multiplied by; `None` for 1.
    """
    x, trace = ops.cast(x, layer.compute_dtype), ops.cast(trace, layer.compute_dtype)
    learned = call(ops.stop_gradient(trace) + x - ops.stop_gradient(x))
    if count is not None and layer.use_bias:
        bias = ops.cast(layer.bias, learned.dtype)
        if getattr(layer, "data_format", None) == "channels_first":
            bias = ops.reshape(bias, (-1, *[1] * (len(layer.kernel_size))))
        learned = learned + ops.cast(count - 1, bias.dtype) * (bias - ops.stop_gradient(bias))
    return learned + ops.stop_gradient(call(x) - learned)


def _decay(name, cell, method):
    """Share of a neuron's potential that a step keeps."""
    charge = cell.linear_charge() if isinstance(cell, snn.NeuronCell) else None
    if charge is None:
        raise TypeError(
            f"{method} needs neurons with a linear leak, such as `IF`, `LIF` or `ParametricLIF`; "
            f"{name} has a {type(cell).__name__}. `SLTT` takes any neuron."
        )
    return charge.slopes(charge.rate)[0]


class _Online(keras.Model):
    """A model that is trained online; the base of `SLTT`, `OTTT` and `EProp`."""

    def __init__(self, model, targets_over_time=None, **kwargs):
        super().__init__(**kwargs)
        self.model = model
        self.targets_over_time = targets_over_time
        self._read(model)
        self.built = True

    def build(self, input_shape=None):
        self.built = True

    def call(self, inputs, training=None):
        return self.model(inputs, training=training)

    def get_config(self):
        own = {
            "model": keras.saving.serialize_keras_object(self.model),
            "targets_over_time": self.targets_over_time,
        }
        return {"name": self.name} | own

    @classmethod
    def from_config(cls, config, custom_objects=None):
        model = keras.saving.deserialize_keras_object(config["model"], custom_objects)
        return cls(**(config | {"model": model}))

    # Reading the model, once.

    def _read(self, model):
        method = type(self).__name__
        trace = graph.trace(model)
        self._calls = {call.name: call for call in trace.calls}
        self._timed = trace.timed
        if len(trace.outputs) != 1:
            raise ValueError(f"{method} needs a model with one output, got {len(trace.outputs)}.")
        self._timed_output = trace.timed_outputs[0]
        if self.targets_over_time is None:
            self.targets_over_time = self._timed_output
        steps = [call.output.shape[1] for call in trace.calls if call.time == "adds"]
        self._steps = next(iter(steps), None)
        if not any(trace.timed) and self._steps is None:
            raise ValueError(f"{method} needs a model over time; {model.name!r} has no time axis.")
        for layer in graph.flatten_layers(model):
            if getattr(layer, "activity_regularizer", None) is not None:
                raise ValueError(
                    f"{method} can't take the activity regularizer of {layer.name!r} into account."
                )
        for call in trace.calls:
            self._check(call, method)
        self._traces = {}  # of calls by name: what their traces are like, and how they decay
        self._plan_traces(trace, method)

    def _check(self, call, method):
        layer, time = call.layer, call.time
        reason = None
        if any(mask is not None for mask in call.masks):
            reason = "it takes a mask"
        elif time == "recurrent":
            flags = ("stateful", "go_backwards", "return_state")
            if any(getattr(layer, name) for name in flags):
                reason = "it is stateful, runs backwards or returns its state"
            elif call.argument("initial_state") is not None:
                reason = "it takes an initial state"
            elif not isinstance(layer.cell, snn.NeuronCell):
                reason = "its cell is none of keras_snn"
            elif None in call.input.shape[2:]:
                reason = f"its input has no known shape, {tuple(call.input.shape)}"
        elif time == "removes":
            if not isinstance(layer, (*READOUTS, snn.MembraneReadout)):
                reason = "it reads all steps at once"
        elif time == "adds":
            if call.memory != 0 or with_timesteps(call, 1) is call:
                reason = "it knows the number of steps"
        elif time == "unknown":
            reason = "nobody has said what it does to time; see `keras_snn.graph.register`"
        elif (time == "across" and call.reads_time) or isinstance(layer, snn.TimeConstantDropout):
            reason = "it looks at several steps"
        if reason:
            raise TypeError(
                f"{method} can't train through {call.name} ({type(layer).__name__}): {reason}."
            )

    def _plan_traces(self, trace, method):
        """Tells which calls have traces; a subclass says."""

    # One step.

    def _first_states(self, batch):
        """States and traces before the first step, by the names of calls."""
        states = {}
        for name, call in self._calls.items():
            layer = call.layer
            if isinstance(layer, snn.MembraneReadout):
                layer = layer.integrator
            elif call.time != "recurrent":
                continue
            like = ops.zeros((batch, *call.input.shape[2:]), layer.variable_dtype)
            states[name] = layer.cell.initial_states(like)
        traces = {
            name: [ops.zeros((batch, *shape), "float32"), ops.zeros((), "float32")]
            for name, (shape, _) in self._traces.items()
        }
        return {"states": states, "traces": traces}

    def _run_step(self, inputs, memory):
        """One step of the model: its outputs, and the states and traces behind it."""
        new = {"states": dict(memory["states"]), "traces": dict(memory["traces"])}

        def rule(call):
            return self._rule(call, self._calls[call.name], new)

        outputs = tree.flatten(graph.run(self.model, inputs, rule))[0]
        outputs = outputs.value if isinstance(outputs, _Traced) else outputs
        return outputs, tree.map_structure(ops.stop_gradient, new)

    def _rule(self, call, traced, memory):
        if traced.time == "adds":
            return self._apply(with_timesteps(call, 1))
        if traced.time == "recurrent":
            return self._neuron(call, call.layer, traced, memory)
        if traced.time == "removes":
            x = call.input
            if isinstance(call.layer, snn.MembraneReadout):
                x = self._neuron(call, call.layer.integrator, traced, memory)
            return tree.map_structure(lambda x: x[:, 0], x)
        return self._layer(call, traced, memory)

    def _neuron(self, call, layer, traced, memory):
        cell, name = layer.cell, call.name
        x = dynamics.saturate(ops.cast(call.input[:, 0], layer.variable_dtype))
        states = _stop(memory["states"][name])
        outputs, memory["states"][name] = self._cell_step(cell, x, states, traced, memory)
        outputs = ops.cast(outputs, layer.compute_dtype)
        if traced.time == "recurrent" and not layer.return_sequences:
            return outputs
        return outputs[:, None]

    def _cell_step(self, cell, x, states, traced, memory):
        return cell.step(x, states)

    def _layer(self, call, traced, memory):
        return self._apply(call)

    def _apply(self, call):
        """A call as it stands, in training mode."""
        timed = self._calls[call.name].reads_time and not call.each_step
        if timed and type(call.layer).__name__ == "Reshape":
            target = getattr(call.layer, "target_shape", None) or call.layer.newshape[1:]
            return ops.reshape(call.input, (-1, 1, *target[1:]))
        parameters = inspect.signature(call.operation.call).parameters
        if "training" in parameters:
            call = dataclasses.replace(call, kwargs={**call.kwargs, "training": True})
        return call()

    # Whole sequences.

    def _sequence(self, x, y, sample_weight):
        """Gradients, loss and outputs of a batch, step by step."""
        values = graph.in_order(self.model, x)
        sequences = [v for v, timed in zip(values, self._timed) if timed]
        steps = ops.shape(sequences[0])[1] if sequences else self._steps
        batch = ops.shape(values[0])[0]
        learned, others = self.trainable_variables, self.non_trainable_variables
        rest = [*self.optimizer.variables, *self.metrics_variables]
        fixed = [(v, v.value) for v in rest]

        def step(t, values_of, other_values, memory):
            inputs = [
                v if not timed else ops.take(v, ops.reshape(t, (1,)), axis=1)
                for v, timed in zip(values, self._timed)
            ]
            target = y
            if self.targets_over_time and y is not None:
                target = ops.take(y, ops.reshape(t, (1,)), axis=1)
                target = target if self._timed_output else target[:, 0]

            def loss_of(values_of):
                pairs = [*zip(learned, values_of), *zip(others, other_values), *fixed]
                with keras.StatelessScope(pairs) as scope:
                    outputs, after = self._run_step(inputs, memory)
                    loss = self.compute_loss(None, target, outputs, sample_weight, training=True)
                    scaled = self.optimizer.scale_loss(loss)
                now = [scope.get_current_value(v) for v in others]
                return scaled, _stop((loss, outputs, now, after))

            (loss, outputs, now, after), gradients = _value_and_grad(loss_of, values_of)
            return gradients, loss, outputs, now, after

        return self._loop(step, steps, batch, learned, others)

    def _loop(self, step, steps, batch, learned, others):
        current = [v.value for v in learned]
        spec = self.model.outputs[0]
        shape = (batch, steps, *spec.shape[2:]) if self._timed_output else (batch, *spec.shape[1:])
        carry = {
            "others": [_copy(v.value) for v in others],
            "memory": self._first_states(batch),
            "gradients": [ops.zeros_like(v) for v in current],
            "loss": ops.zeros((), "float32"),
            "outputs": ops.zeros(shape, "float32"),
        }

        def body(t, *flat):
            was = tree.pack_sequence_as(carry, list(flat))
            gradients, loss, outputs, now, after = step(t, current, was["others"], was["memory"])
            outputs = ops.cast(outputs, "float32")
            new = {
                "others": now,
                "memory": after,
                "gradients": [a + b for a, b in zip(was["gradients"], gradients)],
                "loss": was["loss"] + ops.cast(loss, "float32"),
                "outputs": _written(was["outputs"], t, outputs)
                if self._timed_output
                else was["outputs"] + outputs,
            }
            tree.assert_same_structure(new, carry)
            return (t + 1, *tree.flatten(new))

        first = (ops.convert_to_tensor(0, "int32"), *tree.flatten(carry))
        flat = ops.while_loop(lambda t, *_: t < steps, body, first)[1:]
        last = tree.pack_sequence_as(carry, list(flat))
        for variable, value in zip(others, last["others"]):
            variable.assign(value)
        count = ops.cast(steps, "float32")
        gradients = [g / ops.cast(count, g.dtype) for g in last["gradients"]]
        outputs = last["outputs"] if self._timed_output else last["outputs"] / count
        return gradients, last["loss"] / count, outputs

    def _train(self, data):
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        if sample_weight is not None and len(sample_weight.shape) > 1:
            raise ValueError(
                f"{type(self).__name__} takes one weight for each example, got sample weights of "
                f"the shape {tuple(sample_weight.shape)}."
            )
        gradients, loss, outputs = self._sequence(x, y, sample_weight)
        self._update(gradients)
        graph.track_loss(self, loss, ops.shape(tree.flatten(x)[0])[0])
        return self.compute_metrics(x, y, outputs, sample_weight)

    def _update(self, gradients):
        if keras.backend.backend() == "torch":
            import torch

            with torch.no_grad():
                self.optimizer.apply(gradients, self.trainable_variables)
        else:
            self.optimizer.apply(gradients, self.trainable_variables)

    def train_step(self, *args):
        """One batch, for `fit`; on JAX from and to values of all variables."""
        if keras.backend.backend() != "jax":
            return self._train(*args)
        state, data = args
        kinds = (
            self.trainable_variables,
            self.non_trainable_variables,
            self.optimizer.variables,
            self.metrics_variables,
        )
        pairs = [pair for kind, values in zip(kinds, state) for pair in zip(kind, values)]
        with keras.StatelessScope(pairs) as scope:
            logs = self._train(data)
        return logs, tuple([scope.get_current_value(v) for v in kind] for kind in kinds)


def _copy(value):
    """PyTorch assigns in place."""
    return ops.copy(value) if keras.backend.backend() == "torch" else value


def _written(buffer, t, outputs):
    """A buffer `(batch, time, ...)` with the outputs of step `t`, `(batch, 1, ...)`."""
    if keras.backend.backend() == "torch":
        buffer[:, int(t)] = outputs[:, 0]
        return buffer
    zeros = [0] * (len(outputs.shape) - 2)
    return ops.slice_update(buffer, ops.stack([0, t, *zeros]) if zeros else (0, t), outputs)


def _value_and_grad(function, values):
    """What a function `(loss, others)` gives besides its loss, and the loss's gradients."""
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        gradients, others = jax.grad(function, has_aux=True)(values)
        return others, gradients
    if backend == "torch":
        import torch

        values = [v.detach().requires_grad_() for v in values]
        with torch.enable_grad():
            loss, others = function(values)
        gradients = torch.autograd.grad(loss, values, allow_unused=True, materialize_grads=True)
        return others, list(gradients)
    import tensorflow as tf

    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(values)
        loss, others = function(values)
    gradients = tape.gradient(loss, values, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    return others, [tf.convert_to_tensor(g) for g in gradients]


@keras.saving.register_keras_serializable(package="keras_snn")
class SLTT(_Online):
    """Trains a spiking model by the gradient of each step alone.

    What a step's loss owes to earlier steps through the neurons' states is left out. The loss is
    the mean over steps of the loss of each step's outputs (a readout over time gives the step
    itself), as with `losses.TET`; weights change once for each batch. Memory does not grow with the
    number of steps. `predict` and `evaluate` are those of the model, whose weights are trained in
    place.

    Args:
        model: A functional or Sequential model over time with one output, behind a readout
            (`MeanOverTime`, `SumOverTime`, `LastOverTime`, `MaxOverTime`, `MembraneReadout`) or of
            every step. Masks, stateful layers and layers that look at several steps are refused.
        targets_over_time: Whether targets have a time axis, `(batch, time, ...)`; by default if the
            outputs have one.
        **kwargs: Those of `keras.Model`.

    Raises:
        TypeError: If a layer can't be trained so; it is named.
        ValueError: If the model has no time axis, several outputs or an activity regularizer.

    Source: Meng et al. (2023), Towards Memory- and Time-Efficient Backpropagation for Training
    Spiking Neural Networks; SpikingJelly's `SLTTLIFNode`. Metrics in `fit` are of the mean of the
    steps' outputs.

    Example:

    >>> import numpy as np
    >>> from keras_snn import layers as snn
    >>> model = keras.Sequential([
    ...     keras.Input((6, 4)), keras.layers.Dense(8), snn.LIF(), keras.layers.Dense(3),
    ...     snn.MeanOverTime()])
    >>> online = SLTT(model)
    >>> loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    >>> online.compile("adam", loss, metrics=["accuracy"])
    >>> history = online.fit(np.ones((8, 6, 4)), np.arange(8) % 3, verbose=0)
    >>> model.predict(np.ones((8, 6, 4)), verbose=0).shape
    (8, 3)
    """


@keras.saving.register_keras_serializable(package="keras_snn")
class OTTT(_Online):
    """Trains a spiking model by each step's gradient, with traces of the spikes before.

    As `SLTT`, but what dense layers and convolutions read from a neuron is remembered: the gradient
    of their kernels is taken at the trace `a[t] = decay a[t - 1] + s[t]` of its spikes instead of
    the spikes, with the neuron's own decay. Layers without weights in between act on both. The
    layers in front of the first neurons have no trace, and other layers with weights use none.

    Args:
        model: See `SLTT`; its neurons have a linear leak (`IF`, `LIF`, `ParametricLIF`, ...), and
            dense layers and convolutions behind them no activation of their own.
        targets_over_time: See `SLTT`.
        **kwargs: Those of `keras.Model`.

    Raises:
        TypeError: If a layer can't be trained so; it is named.
        ValueError: See `SLTT`.

    Source: Xiao et al. (2022), Online Training Through Time for Spiking Neural Networks, with the
    gradients accumulated over a sequence; SpikingJelly's `OTTTSequential`, `OTTTLIFNode`.

    Example:

    >>> from keras_snn import layers as snn
    >>> model = keras.Sequential([
    ...     keras.Input((6, 4)), keras.layers.Dense(8), snn.LIF(), keras.layers.Dense(3),
    ...     snn.MeanOverTime()])
    >>> online = OTTT(model)
    >>> online.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    """

    def _plan_traces(self, trace, method):
        behind = set()  # tensors that have a trace
        for call in trace.calls:
            layer, inputs = call.layer, [id(x) for x in call.inputs]
            traced = [x in behind for x in inputs]
            if call.time == "recurrent":
                if isinstance(layer.cell, RecurrentCell):
                    raise TypeError(f"{method} has no recurrent connections: {call.name}.")
                decay = _decay(call.name, layer.cell, method)
                if call.spikes:
                    self._traces[call.name] = ((1, *call.input.shape[2:]), decay)
                    behind.add(id(call.output))
            elif not any(traced) or isinstance(layer, snn.MembraneReadout):
                continue
            elif isinstance(layer, AFFINE):
                _check_affine(call, method)
            elif layer_weights(layer):
                continue
            elif not all(traced):
                raise TypeError(f"{method} can't join spikes and currents, as {call.name} does.")
            else:
                behind |= {id(x) for x in call.outputs}

    def _neuron(self, call, layer, traced, memory):
        if isinstance(call.input, _Traced):  # spikes that reach a neuron
            call = dataclasses.replace(call, args=(call.input.value,), kwargs={})
        outputs = super()._neuron(call, layer, traced, memory)
        if call.name not in self._traces:
            return outputs
        trace, count = memory["traces"][call.name]
        decay = ops.stop_gradient(ops.cast(_decay("", layer.cell, ""), trace.dtype))
        new = ops.cast(ops.stop_gradient(outputs), trace.dtype)
        trace = decay * trace + (new if layer.return_sequences else new[:, None])
        memory["traces"][call.name] = [trace, count]
        trace = ops.cast(trace, outputs.dtype)
        return _Traced(outputs, trace if layer.return_sequences else trace[:, 0])

    def _rule(self, call, traced, memory):
        x, reads = call.input, not isinstance(call.layer, snn.MembraneReadout)
        if traced.time == "removes" and reads and isinstance(x, _Traced):
            return _Traced(x.value[:, 0], x.trace[:, 0])
        return super()._rule(call, traced, memory)

    def _layer(self, call, traced, memory):
        layer, found = call.layer, [x for x in call.inputs if isinstance(x, _Traced)]
        if not found:
            return self._apply(call)

        def part(name):
            given = tree.map_structure(
                lambda x: getattr(x, name) if isinstance(x, _Traced) else x,
                (call.args, call.kwargs),
            )
            return dataclasses.replace(call, args=given[0], kwargs=given[1])

        if isinstance(layer, AFFINE):
            x = found[0]
            apply = _apply_to(self, call)
            return _with_trace(layer, apply, x.value, x.trace)
        if layer_weights(layer):
            return self._apply(part("value"))
        if isinstance(layer, NOISE):
            mask = self._apply(dataclasses.replace(call, args=(ops.ones_like(found[0].value),)))
            return _Traced(found[0].value * mask, found[0].trace * mask)
        return _Traced(self._apply(part("value")), ops.stop_gradient(self._apply(part("trace"))))


@keras.saving.register_keras_serializable(package="keras_snn")
class EProp(_Online):
    """Trains a spiking model by e-prop: eligibility traces times each step's learning signals.

    As `SLTT`, but each dense layer and convolution in front of a neuron, and each recurrent
    connection (`Recurrent`), remembers what it read: its gradient is taken at the trace
    `e[t] = decay e[t - 1] + x[t]` of its inputs, with the decay of the neuron that it drives; that
    of its bias at the trace of ones. The learning signals are the gradients of the step's loss to
    the spikes, through the weights of the layers behind (symmetric e-prop). For one layer of
    neurons with `reset="none"`, or with a soft reset that is detached, this is the gradient of
    backpropagation through time; for deeper networks, recurrent ones, hard resets and readouts with
    a leak it leaves something out.

    Args:
        model: See `SLTT`; its neurons have a linear leak (`IF`, `LIF`, ...), the same one for all
            neurons of a layer, and the dense layers and convolutions in front of them no activation
            of their own. Other layers with weights are trained as by `SLTT`.
        targets_over_time: See `SLTT`.
        **kwargs: Those of `keras.Model`.

    Raises:
        TypeError: If a layer can't be trained so; it is named.
        ValueError: See `SLTT`.

    Source: Bellec et al. (2020), A solution to the learning dilemma for recurrent networks of
    spiking neurons. The trace through layers between weights and neuron is our reading.

    Example:

    >>> from keras_snn import layers as snn
    >>> model = keras.Sequential([
    ...     keras.Input((6, 4)), keras.layers.Dense(8),
    ...     snn.Recurrent(snn.LIFCell(tau=5.0), keras.layers.Dense(8)),
    ...     keras.layers.Dense(3), snn.MeanOverTime()])
    >>> online = EProp(model)
    >>> online.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    """

    def _plan_traces(self, trace, method):
        self._cells = {}
        readers = {}
        for call in trace.calls:
            for x in call.inputs:
                readers.setdefault(id(x), []).append(call)
        for call in trace.calls:
            if call.time == "recurrent":
                cell = call.layer.cell
                if isinstance(cell, RecurrentCell):
                    if not isinstance(cell.connection, AFFINE):
                        raise TypeError(
                            f"{method} needs a recurrent connection that is a dense layer or a "
                            f"convolution, got {cell.connection!r} in {call.name}."
                        )
                    _check_activation(call.name, cell.connection, method)
                    self._plan(call, f"{call.name}/recurrent", cell, call.input.shape[2:], method)
                else:
                    self._shared_decay(call.name, cell, method)
            elif isinstance(call.layer, AFFINE) and layer_weights(call.layer):
                cells = list(_cells_behind(call.output, readers))
                if len(cells) > 1:
                    raise TypeError(f"{method} needs one neuron behind {call.name}, got several.")
                if cells:
                    _check_affine(call, method)
                    shape = call.input.shape[1:]
                    if call.reads_time:
                        shape = (1, *shape[1:])
                    self._plan(call, call.name, cells[0], shape, method)

    def _plan(self, call, name, cell, shape, method):
        if None in shape:
            raise TypeError(f"{method} needs a known shape of the input of {call.name}: {shape}.")
        self._cells[name] = cell
        self._traces[name] = (tuple(shape), self._shared_decay(call.name, cell, method))

    def _shared_decay(self, name, cell, method):
        decay = _decay(name, getattr(cell, "neuron", cell), method)
        if len(getattr(decay, "shape", ())):
            raise TypeError(
                f"{method} needs one leak for all neurons of a layer, got {tuple(decay.shape)} of "
                f"them in {name}. `SLTT` and `OTTT` take it."
            )
        return decay

    def _traced_layer(self, name, layer, apply, x, memory):
        trace, count = memory["traces"][name]
        decay = self._shared_decay("", self._cells[name], "")
        decay = ops.stop_gradient(ops.cast(decay, trace.dtype))
        trace = decay * trace + ops.cast(ops.stop_gradient(x), trace.dtype)
        count = decay * count + 1
        memory["traces"][name] = [trace, count]
        return _with_trace(layer, apply, x, trace, count)

    def _layer(self, call, traced, memory):
        if call.name not in self._traces:
            return self._apply(call)
        apply = _apply_to(self, call)
        return self._traced_layer(call.name, call.layer, apply, call.input, memory)

    def _cell_step(self, cell, x, states, traced, memory):
        if not isinstance(cell, RecurrentCell):
            return cell.step(x, states)
        *states, spikes = states
        name, layer = f"{traced.name}/recurrent", cell.connection
        feedback = self._traced_layer(name, layer, layer, spikes, memory)
        spikes, states = cell.neuron.step(x + ops.cast(feedback, x.dtype), states)
        return spikes, [*states, spikes]


def layer_weights(layer):
    """Trainable weights of a layer; operations have none."""
    return getattr(layer, "trainable_variables", [])


def _apply_to(model, call):
    """A function that applies a call to another tensor."""

    def apply(x):
        return model._apply(dataclasses.replace(call, args=(x, *call.args[1:])))

    return apply


def _check_affine(call, method):
    _check_activation(call.name, call.layer, method)
    if not call.args:
        raise TypeError(f"{method} needs the input of {call.name} as its first argument.")


def _check_activation(name, layer, method):
    if layer.activation not in (None, keras.activations.linear):
        raise TypeError(
            f"{method} needs layers without an activation of their own, got "
            f"{layer.activation.__name__!r} in {name}: put it in a `keras.layers.Activation`."
        )


def _cells_behind(tensor, readers):
    """Cells that a current reaches through layers that keep steps apart."""
    for call in readers.get(id(tensor), []):
        if call.time == "recurrent":
            yield call.layer.cell
        elif isinstance(call.layer, snn.MembraneReadout):
            yield call.layer.integrator.cell
        elif not isinstance(call.layer, AFFINE) and call.time in ("pointwise", "per step", "adds"):
            yield from _cells_behind(call.output, readers)
