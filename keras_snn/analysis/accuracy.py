"""Accuracy at every number of steps, from one run that needs the memory of a few steps."""

import dataclasses
from typing import Any

import keras
import numpy as np

from keras_snn import graph
from keras_snn.analysis.rollout import Rollout
from keras_snn.utils.arguments import check_number
from keras_snn.utils.batches import batches_of

__all__ = ["AccuracyOverTime", "accuracy_over_time", "output_activation", "predicted_classes"]


@dataclasses.dataclass(frozen=True)
class AccuracyOverTime:
    """Accuracy after each number of steps.

    Attributes:
        accuracy: Share of right answers after 1, 2, ... steps, `(timesteps,)`; `None` without
            labels.
        firing_rates: Mean spikes per neuron and step by layer, over the whole run.
        examples: Number of examples.
        decided: Share of examples that had decided after 1, 2, ... steps, with early exit; else
            `None`.
        measure: What `accuracy` is, where the labels are no true ones: `convert` without labels
            compares with the ANN's answers.
        model_timesteps: Number of steps that the model was built for, if it knows it.
    """

    accuracy: np.ndarray | None
    firing_rates: dict[str, float]
    examples: int
    decided: np.ndarray | None = None
    measure: str = "accuracy"
    model_timesteps: int | None = None

    @property
    def timesteps(self) -> float:
        """Mean number of steps until an answer: all of them without early exit."""
        if self.decided is None:
            return float(len(self.accuracy))
        return float(1 + np.sum(1 - self.decided[:-1]))

    def to_dict(self) -> dict[str, Any]:
        """The result as plain data, for JSON."""

        def plain(values):
            return None if values is None else [float(v) for v in values]

        return {
            "accuracy": plain(self.accuracy),
            "firing_rates": self.firing_rates,
            "examples": self.examples,
            "decided": plain(self.decided),
            "measure": self.measure,
            "model_timesteps": self.model_timesteps,
        }

    def plot(self, ax=None):
        """Plots accuracy against steps.

        Args:
            ax: matplotlib axes; new ones by default.

        Returns:
            The axes.

        Raises:
            ImportError: If the extra `plot` is not installed.
        """
        from keras_snn.analysis import plots  # pictures are an extra

        return plots.plot_accuracy(self, ax)

    def __str__(self) -> str:
        if self.accuracy is None:
            return f"{self.examples} examples, no labels"
        last = len(self.accuracy)
        steps = [2**k for k in range(last.bit_length()) if 2**k < last] + [last]
        text = ", ".join(f"T={t}: {100 * self.accuracy[t - 1]:.1f} %" for t in steps)
        text = f"{self.measure[0].upper()}{self.measure[1:]} on {self.examples} examples: {text}"
        if self.decided is not None:
            text += f"; decided after {self.timesteps:.1f} steps in the mean"
        return text


def accuracy_over_time(
    model,
    data,
    timesteps=None,
    batch_size=32,
    chunk=16,
    confidence=None,
    steps=None,
    verbose=0,
) -> AccuracyOverTime:
    """Accuracy of a spiking model after every number of steps, from one run.

    Memory does not grow with the number of steps: the model runs `chunk` steps at a time.

    Args:
        model: A model with one output and one readout over time, see `Rollout`. A single unit
            decides between two classes, see `predicted_classes`.
        data: `(inputs, labels)`, arrays, labels integers or one-hot (or `None`: firing rates
            only); or an iterable of such batches.
        timesteps: Number of steps; by default those that the model was built for.
        batch_size: Batch size for arrays.
        chunk: Steps at a time.
        confidence: Early exit: an example's answer is final once the probability of one class
            reaches this value (softmax of the output, unless it is probabilities already), and a
            batch ends when all its examples have decided.
        steps: Number of batches to use; all by default.
        verbose: 1 to show a progress bar over batches.

    Returns:
        `AccuracyOverTime`.

    Raises:
        TypeError: If the model can't be rolled out.
        ValueError: If there are no data.

    Example:

    >>> from keras_snn import layers as snn
    >>> model = keras.Sequential([keras.Input((3,)), snn.RepeatTime(4), snn.IF(),
    ...     snn.MeanOverTime()])
    >>> accuracy_over_time(model, (0.3 * np.eye(3) + 0.2, np.arange(3))).accuracy
    array([0.33333333, 1.        , 1.        , 1.        ])
    """
    if confidence is not None:
        check_number("confidence", confidence, above=0, maximum=1)
    rollout = Rollout(model, chunk)
    if len(model.outputs) > 1:
        raise ValueError(
            f"The accuracy of one output can be told, the model {model.name!r} has "
            f"{len(model.outputs)}: give a `keras.Model` of one of them."
        )
    if timesteps is None and rollout.static:
        timesteps = rollout.timesteps
        if timesteps is None:
            raise TypeError(f"The model {model.name!r} has no encoder to tell the number of steps.")
    right, decided, rates, examples, labelled = 0, 0, {}, 0, True
    bar = keras.utils.Progbar(steps, verbose=verbose, unit_name="batch")
    for inputs, labels in batches_of(model, data, batch_size, steps):
        answers, finals, found, final = [], [], {}, None
        for outputs, chunk_rates in rollout.run(inputs, timesteps):
            output = _scores(model, outputs[0])
            for name, rate in chunk_rates.items():
                found.setdefault(name, []).append(rate)
            answer = output.argmax(-1)
            if confidence is not None:
                answer, final = _held(output, answer, final, confidence)
                finals.append(final >= 0)
                final = final[:, -1]
            answers.append(answer)
            if confidence is not None and np.all(final >= 0):
                break
        answers = np.concatenate(answers, 1)
        lengths = [x.shape[1] for x, timed in zip(inputs, rollout.timed) if timed]
        total = min([*lengths, *([] if timesteps is None else [timesteps])])
        missing = total - answers.shape[1]
        kept = [(0, 0)] * (answers.ndim - 2)  # the places of a map of answers
        answers = np.pad(answers, [(0, 0), (0, missing), *kept], mode="edge")
        size = len(answers)
        examples += size
        for name, parts in found.items():
            rate = np.concatenate(parts, 1).mean(1).sum()
            rates[name] = rates.get(name, 0.0) + float(rate)
        if labels is None:
            labelled = False
        else:
            labels = np.asarray(labels)
            labels = labels.argmax(-1) if labels.ndim == 2 and labels.shape[1] > 1 else labels
            right = right + (answers == labels.reshape(-1, 1)).sum(0)
        if confidence is not None:
            finals = np.pad(np.concatenate(finals, 1), [(0, 0), (0, missing)], mode="edge")
            decided = decided + finals.sum(0)
        bar.add(1)
    if not examples:
        raise ValueError("There are no data.")
    return AccuracyOverTime(
        right / examples if labelled else None,
        {name: rate / examples for name, rate in rates.items()},
        examples,
        None if confidence is None else decided / examples,
        model_timesteps=rollout.timesteps,
    )


def predicted_classes(model, outputs) -> np.ndarray:
    """The classes that a model's outputs stand for.

    Args:
        model: The model with one output.
        outputs: Its outputs, an array `(..., classes)`. A single unit stands for two classes: the
            second is taken where its probability is above 1/2 (`sigmoid` at the end of the model),
            or its logit above 0 (any other end).

    Returns:
        Integers `(...)`.
    """
    return _scores(model, np.asarray(outputs)).argmax(-1)


def _scores(model, outputs):
    """One number a class: of a single unit `(1 - p, p)`, or `(-z / 2, z / 2)` of its logit."""
    if outputs.shape[-1] != 1:
        return outputs
    if output_activation(model.outputs[0]) == "sigmoid":
        return np.concatenate([1 - outputs, outputs], -1)
    return np.concatenate([-outputs, outputs], -1) / 2


def output_activation(tensor):
    """Name of the activation, or of the operation, that a model's output comes from."""
    layer, _ = graph.producer(tensor)
    while isinstance(layer, keras.Model):
        layer, _ = graph.producer(layer.outputs[0])
    function = getattr(layer, "activation", None) or layer
    return getattr(function, "__name__", type(function).__name__).lower()


def _held(output, answer, final, confidence):
    """Answers of a chunk, those of earlier decisions held; and the decisions (-1 for none)."""
    total = output.sum(-1)
    if not (output.min() >= 0 and np.allclose(total, 1, atol=1e-3)):
        shifted = np.exp(output - output.max(-1, keepdims=True))
        output = shifted / shifted.sum(-1, keepdims=True)
    sure = np.where(output.max(-1) >= confidence, answer, -1)
    final = np.full(len(answer), -1) if final is None else final
    decisions = np.empty_like(sure)
    for t in range(sure.shape[1]):
        final = np.where(final >= 0, final, sure[:, t])
        decisions[:, t] = final
    return np.where(decisions >= 0, decisions, answer), decisions
