"""Spike-timing-dependent plasticity: weights that learn from spikes alone, without a gradient.

A rule (`PairSTDP`, `TripletSTDP`) says which traces of the spikes before and behind a synapse are
multiplied; `correlate` sums their products over batch, time and places; `STDP` applies the change
to the kernels of a layer or of a whole model.
"""

import dataclasses
import itertools
from collections.abc import Callable

import keras
import numpy as np
from keras import layers, ops

from keras_snn import graph
from keras_snn.dynamics import Tensor
from keras_snn.utils.arguments import check_integer, check_number

__all__ = ["STDP", "PairSTDP", "TripletSTDP", "correlate", "spike_trace", "stdp_change"]

SYNAPSES = (layers.Dense, layers.Conv1D, layers.Conv2D, layers.Conv3D)
Amplitude = float | Callable[[Tensor], Tensor]


def spike_trace(spikes: Tensor, tau: float, before: Tensor | None = None) -> Tensor:
    """Decaying counts of spikes: `trace[t] = (1 - 1 / tau) trace[t - 1] + spikes[t]`.

    Args:
        spikes: `(batch, time, ...)`.
        tau: Time constant in steps, at least 1. (A decay of `exp(-1 / n)` a step is that of
            `tau = 1 / (1 - exp(-1 / n))`.)
        before: The trace before the first step, `(batch, ...)`; zeros by default.

    Returns:
        A tensor like `spikes`.

    Example:

    >>> trace = spike_trace(keras.ops.array([[1.0, 0.0, 1.0]]), tau=2.0)
    >>> print(keras.ops.convert_to_numpy(trace))
    [[1.   0.5  1.25]]
    """
    decay = 1 - 1 / check_number("tau", tau, minimum=1)
    trace = ops.zeros_like(spikes[:, 0]) if before is None else before
    if spikes.shape[1] == 1:
        return (decay * trace + spikes[:, 0])[:, None]

    def step(trace, x):
        trace = decay * trace + x
        return trace, trace

    return ops.moveaxis(ops.scan(step, trace, ops.moveaxis(spikes, 1, 0))[1], 0, 1)


@dataclasses.dataclass(frozen=True)
class PairSTDP:
    """Pairs of spikes: a synapse grows when its target fires after its source, else it shrinks.

    `dw = potentiation(w) trace(pre) post - depression(w) pre trace(post)`, where the traces include
    the spikes of the step itself, see `spike_trace`.

    Args:
        tau_pre: Time constant of the trace of the spikes in front of the synapse, in steps.
        tau_post: Time constant of the trace of those behind it.
        potentiation: A number, or a function from the kernel to one or to a tensor like it, such as
            `lambda w: 1 - w`, a soft upper bound.
        depression: The same for the second term.

    Source: Bi and Poo (1998); with traces Morrison et al. (2008); SpikingJelly's `STDPLearner`,
    whose default is `potentiation=depression=lambda w: w`.

    Example:

    >>> PairSTDP(tau_pre=10.0, potentiation=lambda w: 0.5 * (1 - w)).tau_post
    20.0
    """

    tau_pre: float = 20.0
    tau_post: float = 20.0
    potentiation: Amplitude = 1.0
    depression: Amplitude = 1.0

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name.startswith("tau"):
                check_number(field.name, value, minimum=1)
            elif not callable(value):
                check_number(field.name, value)

    def time_constants(self):
        """Those of the traces before and behind the synapse, `(pre, post)`, each a tuple."""
        return (self.tau_pre,), (self.tau_post,)

    def terms(self, pre, post, pre_traces, post_traces):
        """What is multiplied.

        Args:
            pre: Spikes in front of the synapse, `(batch, time, ...)`.
            post: Those behind it.
            pre_traces: Their traces, one for each of `time_constants()[0]`.
            post_traces: Those of `post`.

        Returns:
            A list of `(sign, amplitude, pre factor, post factor)`.
        """
        return [
            (1, self.potentiation, pre_traces[0], post),
            (-1, self.depression, pre, post_traces[0]),
        ]


@dataclasses.dataclass(frozen=True)
class TripletSTDP(PairSTDP):
    """Triplets of spikes: pairs whose weight grows with slow traces of the spikes before.

    `dw = trace(pre) post (A2+ + A3+ slow(post)) - pre trace(post) (A2- + A3- slow(pre))`. The slow
    traces do not include the spikes of the step itself. The default values are those of visual
    cortex, all spikes interacting, for steps of 1 ms.

    Args:
        tau_pre: Time constant of the trace of the spikes in front of the synapse, in steps.
        tau_post: Time constant of the trace of those behind it.
        potentiation: `A2+`, a number or a function of the kernel.
        depression: `A2-`.
        tau_pre_slow: Time constant of the slow trace in front.
        tau_post_slow: Time constant of the slow trace behind.
        triplet_potentiation: `A3+`.
        triplet_depression: `A3-`.

    Source: Pfister and Gerstner (2006).

    Example:

    >>> TripletSTDP().triplet_potentiation
    0.0062
    """

    tau_pre: float = 16.8
    tau_post: float = 33.7
    potentiation: Amplitude = 5e-10
    depression: Amplitude = 7e-3
    tau_pre_slow: float = 101.0
    tau_post_slow: float = 125.0
    triplet_potentiation: Amplitude = 6.2e-3
    triplet_depression: Amplitude = 2.3e-4

    def time_constants(self):
        """Those of the traces before and behind the synapse, `(pre, post)`, each a tuple."""
        return (self.tau_pre, self.tau_pre_slow), (self.tau_post, self.tau_post_slow)

    def terms(self, pre, post, pre_traces, post_traces):
        """What is multiplied, see `PairSTDP.terms`."""
        (fast_pre, slow_pre), (fast_post, slow_post) = pre_traces, post_traces
        return [
            *super().terms(pre, post, pre_traces, post_traces),
            (1, self.triplet_potentiation, fast_pre, post * (slow_post - post)),
            (-1, self.triplet_depression, pre * (slow_pre - pre), fast_post),
        ]


def correlate(layer: layers.Layer, pre: Tensor, post: Tensor, per_example: bool = False) -> Tensor:
    """Products of what a weight reads and of what it drives, summed over time and places.

    Args:
        layer: A built `Dense` or a convolution of one, two or three axes, without groups.
        pre: Factors at the layer's inputs, `(batch, time, ...)`.
        post: Factors at its outputs, `(batch, time, ...)`.
        per_example: Whether there is one sum for each example; else they are summed too.

    Returns:
        A tensor like the layer's kernel, with `per_example` `(batch, *kernel shape)`.

    Raises:
        TypeError: If the layer is of another kind.
        ValueError: If the shapes do not fit the layer.

    Example:

    >>> layer = keras.layers.Dense(2)
    >>> layer.build((None, 3))
    >>> pre, post = keras.ops.ones((4, 5, 3)), keras.ops.ones((4, 5, 2))
    >>> float(correlate(layer, pre, post)[0, 0])
    20.0
    """
    _check_synapse(layer)
    expected = layer.compute_output_shape((pre.shape[0], *pre.shape[2:]))
    if tuple(pre.shape[:2]) != tuple(post.shape[:2]) or tuple(expected[1:]) != post.shape[2:]:
        raise ValueError(
            f"{layer.name} needs spikes (batch, time, ...) before and behind it, got the shapes "
            f"{tuple(pre.shape)} and {tuple(post.shape)}; behind it {tuple(expected[1:])} a step."
        )
    x, y, kernel_size = pre, post, ()
    if not isinstance(layer, layers.Dense):
        geometry = graph.Geometry.of(layer, (pre.shape[0], *pre.shape[2:]))
        kernel_size = geometry.kernel
        if geometry.channels_first:
            x, y = ops.moveaxis(x, 2, -1), ops.moveaxis(y, 2, -1)
        taps = _taps(x, geometry)
    else:
        taps = [x]
    axes = (x.shape[0], -1) if per_example else (-1,)
    y = ops.reshape(y, (*axes, y.shape[-1]))
    products = [
        ops.matmul(ops.swapaxes(ops.reshape(tap, (*axes, tap.shape[-1])), -1, -2), y)
        for tap in taps
    ]
    products = ops.stack(products, axis=1 if per_example else 0)
    batch = (x.shape[0],) if per_example else ()
    return ops.reshape(products, (*batch, *kernel_size, x.shape[-1], y.shape[-1]))


def _taps(x, geometry):
    """What each entry of a kernel reads: a list of tensors `(batch, time, ..., channels)`."""
    x = ops.pad(x, ((0, 0), (0, 0), *geometry.padding, (0, 0)))
    spans = [
        [slice(k * d, k * d + (o - 1) * s + 1, s) for k in range(size)]
        for size, d, o, s in zip(
            geometry.kernel, geometry.dilation, geometry.outputs, geometry.strides
        )
    ]
    return [x[(slice(None), slice(None), *places)] for places in itertools.product(*spans)]


def _check_synapse(layer):
    if not isinstance(layer, SYNAPSES) or getattr(layer, "groups", 1) != 1:
        raise TypeError(
            f"STDP changes the kernels of {[kind.__name__ for kind in SYNAPSES]} without groups, "
            f"got {layer!r}."
        )


def stdp_change(
    layer: layers.Layer,
    pre: Tensor,
    post: Tensor,
    rule: PairSTDP | None = None,
    traces: tuple | None = None,
    time_weights: Tensor | None = None,
    per_example: bool = False,
) -> tuple[Tensor, tuple]:
    """What a rule adds to the kernel of a layer for a sequence of spikes.

    The kernel stays as it is meanwhile, and so does the change's dependence on it.

    Args:
        layer: See `correlate`.
        pre: Spikes that the layer reads, `(batch, time, ...)`.
        post: Spikes of the neurons that it drives, `(batch, time, ...)`.
        rule: A `PairSTDP` or `TripletSTDP`; the first by default.
        traces: Those returned for the steps before; zeros by default.
        time_weights: Optional factor of each step's change, `(time,)`.
        per_example: Whether there is one change for each example; else their sum.

    Returns:
        `(change, traces)`: a tensor like the kernel, with `per_example` `(batch, *kernel shape)`,
        and the traces after the last step.

    Example:

    >>> layer = keras.layers.Dense(1)
    >>> layer.build((None, 1))
    >>> pre, post = keras.ops.array([[[1.0], [0.0]]]), keras.ops.array([[[0.0], [1.0]]])
    >>> change, _ = stdp_change(layer, pre, post, PairSTDP(tau_pre=2.0))
    >>> print(float(change[0, 0]))
    0.5
    """
    rule = PairSTDP() if rule is None else rule
    pre, post = (ops.cast(x, layer.variable_dtype) for x in (pre, post))
    constants = rule.time_constants()
    before = [[None] * len(taus) for taus in constants] if traces is None else traces
    sequences = [
        [spike_trace(x, tau, trace) for tau, trace in zip(taus, values)]
        for x, taus, values in zip((pre, post), constants, before)
    ]
    kernel, change = ops.stop_gradient(ops.convert_to_tensor(layer.kernel)), 0
    for sign, amplitude, x, y in rule.terms(pre, post, *sequences):
        if time_weights is not None:
            y = y * ops.reshape(time_weights, (-1, *[1] * (len(y.shape) - 2)))
        if callable(amplitude):
            amplitude = ops.convert_to_tensor(amplitude(kernel), kernel.dtype)
        change = change + sign * amplitude * correlate(layer, x, y, per_example)
    after = tuple([trace[:, -1] for trace in group] for group in sequences)
    return ops.stop_gradient(change), after


class STDP:
    """Trains kernels by spike timing: those of a model, or of one layer.

    For a model, `fit` or `train_on_batch` runs it and changes the kernel of each dense layer and
    convolution that drives spiking neurons. For a layer, `step` takes the spikes before and behind
    it, one time step at a time. The change, summed over examples, time and places, goes to the
    optimizer as a gradient with its sign turned, so that learning rates, schedules and the
    kernels' constraints (`keras.constraints.NonNeg`) work as usual. Biases stay as they are.

    With `tau_eligibility` the change waits for a reward. Each example has an eligibility
    `z[t] = (1 - 1 / tau) z[t - 1] + change[t] / tau` of each weight, and a reward changes the
    kernels by the sum of `reward * z` over examples.

    Args:
        target: A functional or Sequential model, or a built layer, see `correlate`.
        rule: A `PairSTDP` or `TripletSTDP`; the first by default.
        optimizer: A Keras optimizer or its name; `"sgd"` adds 0.01 times the change.
        tau_eligibility: Time constant in steps, at least 1, of reward-modulated STDP. 1 rewards the
            last step alone.
        layers: Of a model: names of the layers to train; by default all that can be.

    Raises:
        TypeError: If the target is neither.
        ValueError: If no layer of the model drives neurons, or one that is named does not.

    Source: Morrison et al. (2008); reward: Florian (2007), MSTDP (`tau_eligibility=1`) and MSTDPET;
    SpikingJelly's `STDPLearner`, `MSTDPLearner`, `MSTDPETLearner`.

    Example:

    >>> from keras_snn.layers import LIF
    >>> model = keras.Sequential([keras.Input((10, 4)), keras.layers.Dense(3), LIF()])
    >>> stdp = STDP(model, PairSTDP(tau_pre=5.0), optimizer=keras.optimizers.SGD(1e-3))
    >>> history = stdp.fit(np.ones((8, 10, 4)), epochs=2, verbose=0)
    >>> len(history["change"])
    2
    """

    def __init__(self, target, rule=None, optimizer="sgd", tau_eligibility=None, layers=None):
        self.rule = PairSTDP() if rule is None else rule
        if not isinstance(self.rule, PairSTDP):
            raise TypeError(f"`rule` must be a `PairSTDP` or `TripletSTDP`, got {rule!r}.")
        self.optimizer = keras.optimizers.get(optimizer)
        self.tau_eligibility = tau_eligibility
        if tau_eligibility is not None:
            check_number("tau_eligibility", tau_eligibility, minimum=1)
        self._probe = None
        if isinstance(target, keras.Model):
            self._synapses, pairs, outputs = _synapses_of(target, layers)
            inputs, tensors = pairs
            self._probe = keras.Model(inputs, [outputs, tensors])
        else:
            _check_synapse(target)
            if not target.built:
                raise ValueError(f"{target.name} must be built before STDP can change its kernel.")
            self._synapses = [target]
        self._kernels = list({id(layer): layer.kernel for layer in self._synapses}.values())
        self.optimizer.build(self._kernels)
        self.reset()

    def reset(self):
        """Forgets traces and eligibilities; weights stay."""
        self._traces = [None] * len(self._synapses)
        self._eligibility = [0.0] * len(self._synapses)

    def step(self, pre, post):
        """One time step of a layer.

        Args:
            pre: Spikes that it reads, `(batch, ...)`.
            post: Spikes of the neurons that it drives, `(batch, ...)`.

        Returns:
            The change of the kernel, before the optimizer's learning rate; with `tau_eligibility`
            the eligibility, `(batch, *kernel shape)`, which waits for `reward`.

        Raises:
            TypeError: If this trains a model.
        """
        if self._probe is not None:
            raise TypeError("`step` is of a layer; for a model there are `train_on_batch`, `fit`.")
        pre, post = ops.convert_to_tensor(pre), ops.convert_to_tensor(post)
        changes = self._learn([(pre[:, None], post[:, None])])
        return changes[0]

    def reward(self, reward):
        """Changes the kernels by what is eligible.

        Args:
            reward: A number, or one for each example, `(batch,)`. Negative ones punish.

        Returns:
            The changes of the kernels, before the optimizer's learning rate: a list.

        Raises:
            ValueError: Without `tau_eligibility`, before the first step, or if the reward has
                another shape.
        """
        if self.tau_eligibility is None or isinstance(self._eligibility[0], float):
            raise ValueError("A reward needs `tau_eligibility`, and at least one step before it.")
        batch = self._eligibility[0].shape[0]
        reward = ops.cast(ops.convert_to_tensor(reward), self._kernels[0].dtype)
        if tuple(reward.shape) not in ((), (batch,)):
            raise ValueError(
                f"`reward` must be a number or one for each example, ({batch},), got the shape "
                f"{tuple(reward.shape)}."
            )
        changes = []
        for eligibility in self._eligibility:
            shape = (-1, *[1] * (len(eligibility.shape) - 1))
            changes.append(ops.sum(ops.reshape(reward, shape) * eligibility, axis=0))
        self._apply(changes)
        return changes

    def train_on_batch(self, x, reward=None):
        """Runs the model on a batch of sequences from fresh states and traces, and learns from it.

        The kernels change once, at the end.

        Args:
            x: What the model takes.
            reward: With `tau_eligibility`: a number, one for each example, or a function from the
                model's outputs, an array, to these.

        Returns:
            A dictionary: `"change"`, the mean absolute change of the weights before the optimizer's
            learning rate, and `"rate"`, the mean spikes a step of the neurons behind them.
        """
        if self._probe is None:
            raise TypeError("`train_on_batch` is of a model; for a layer there is `step`.")
        if (reward is None) != (self.tau_eligibility is None):
            raise ValueError(
                "A reward goes with `tau_eligibility`, got "
                f"`tau_eligibility={self.tau_eligibility}` and {'no' if reward is None else 'a'} "
                "reward."
            )
        self.reset()
        outputs, tensors = self._probe(x, training=False)
        pairs = list(zip(tensors[::2], tensors[1::2]))
        changes = self._learn(pairs)
        if reward is not None:
            if callable(reward):
                reward = reward(ops.convert_to_numpy(outputs))
            changes = self.reward(reward)
        sizes = [ops.size(change) for change in changes]
        return {
            "change": float(sum(ops.sum(ops.abs(change)) for change in changes)) / int(sum(sizes)),
            "rate": float(np.mean([float(ops.mean(ops.cast(y, "float32"))) for _, y in pairs])),
        }

    def fit(self, x, y=None, reward=None, epochs=1, batch_size=32, shuffle=True, verbose=1):
        """Learns from arrays, batch by batch.

        Args:
            x: Inputs, an array `(examples, ...)`.
            y: Optional targets, an array, for `reward`.
            reward: With `tau_eligibility`: a function from the model's outputs and the batch of
                `y`, arrays, to a reward for each example.
            epochs: How often to go through the data.
            batch_size: Examples in a batch.
            shuffle: Whether to shuffle, by NumPy's random state.
            verbose: Whether to print a line for each epoch.

        Returns:
            A dictionary of lists: means over batches of what `train_on_batch` returns, by epoch.
        """
        check_integer("epochs", epochs)
        check_integer("batch_size", batch_size)
        x, history = np.asarray(x), {"change": [], "rate": []}
        y = None if y is None else np.asarray(y)
        if y is not None and len(y) != len(x):
            raise ValueError(f"`x` has {len(x)} examples, `y` has {len(y)}.")
        for epoch in range(epochs):
            order = np.random.permutation(len(x)) if shuffle else np.arange(len(x))
            logs = []
            for start in range(0, len(x), batch_size):
                some = order[start : start + batch_size]
                given = {}
                if reward is not None:
                    targets = None if y is None else y[some]
                    given["reward"] = lambda out, targets=targets: reward(out, targets)
                logs.append(self.train_on_batch(x[some], **given))
            for name, values in history.items():
                values.append(float(np.mean([log[name] for log in logs])))
            if verbose:
                told = ", ".join(f"{name} {values[-1]:.4g}" for name, values in history.items())
                print(f"Epoch {epoch + 1}/{epochs}: {told}")
        return history

    def _learn(self, pairs):
        """Changes, or eligibilities, of sequences before and behind each synapse."""
        found = []
        for place, (layer, (pre, post)) in enumerate(zip(self._synapses, pairs)):
            weights, kept, traces = None, None, self._traces[place]
            if self.tau_eligibility is not None:
                decay, time = 1 - 1 / self.tau_eligibility, pre.shape[1]
                weights = decay ** np.arange(time - 1, -1, -1) / self.tau_eligibility
                weights, kept = ops.convert_to_tensor(weights, layer.variable_dtype), decay**time
            change, self._traces[place] = stdp_change(
                layer, pre, post, self.rule, traces, weights, per_example=kept is not None
            )
            if kept is not None:
                change = self._eligibility[place] = kept * self._eligibility[place] + change
            found.append(change)
        if self.tau_eligibility is None:
            self._apply(found)
        return found

    def _apply(self, changes):
        sums = {}
        for layer, change in zip(self._synapses, changes):
            sums[id(layer)] = sums.get(id(layer), 0) - change
        self.optimizer.apply(list(sums.values()), self._kernels)


def _synapses_of(model, names):
    """Layers that drive neurons; the inputs, and what is before and behind each; the outputs."""
    trace = graph.trace(model)
    makers = {id(x): call for call in trace.calls for x in call.outputs}
    synapses, tensors = [], []
    for neuron in trace.calls:
        if not neuron.spikes or neuron.time != "recurrent":
            continue
        call = makers.get(id(neuron.input))
        while call is not None and not isinstance(call.layer, SYNAPSES):
            same = len(call.inputs) == 1 and call.input.shape == call.output.shape
            call = makers.get(id(call.input)) if same else None
        if call is None or (names is not None and call.name not in names):
            continue
        if not call.reads_time or tuple(call.output.shape) != tuple(neuron.output.shape):
            continue
        _check_synapse(call.layer)
        synapses.append((call.name, call.layer))
        tensors += [call.input, neuron.output]
    found = [name for name, _ in synapses]
    if not synapses or not set(names or ()) <= set(found):
        raise ValueError(
            f"STDP needs dense layers or convolutions on sequences that drive spiking neurons; "
            f"the model {model.name!r} has {found}, wanted are {names or 'any'}."
        )
    outputs = trace.outputs[0] if len(trace.outputs) == 1 else trace.outputs
    return [layer for _, layer in synapses], (trace.inputs, tensors), outputs
