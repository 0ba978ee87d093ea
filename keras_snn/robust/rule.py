"""What a rule is."""

__all__ = ["Rule"]


class Rule:
    """What is known of a kind of layers; the base class of all rules."""

    def refusal(self, call):
        """Why a call has no bounds, or `None`."""
        return None

    def linear(self, call):
        """Whether the output is a linear function of the inputs and a constant."""
        return False

    def forward(self, call, rounds):
        """Bounds of a call's output.

        Args:
            call: A `keras_snn.graph.Call`, with an `Interval` in the place of each tensor.
            rounds: Whether they have a margin for rounding in float32.

        Returns:
            An `Interval`.
        """
        raise NotImplementedError

    def backward(self, call, output, coefficients, lines):
        """A lower bound of a linear function of a call's output, by one of its inputs.

        Args:
            call: The call.
            output: What `forward` gave for it.
            coefficients: The function, `(rows, batch, ...)`.
            lines: Which lines bound neurons, a key of `neurons.LINES`.

        Returns:
            `([(input, coefficients), ...], terms)`: the intervals that it read with coefficients on
            them, and terms to add, a list of `(rows, batch, ...)`.
        """
        raise NotImplementedError
