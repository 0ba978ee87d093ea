"""DANet: networks with densely additive connections (Li, Lei and Yang, 2023).

Neither code nor the full text is public. What the abstract tells is the name, densely additive (DA)
connections, ResNet depths and T = 4. Everything else is our reading: that DA means a path of sums
that no neuron, normalisation or convolution interrupts, so that each unit's input is the sum of all
earlier units' outputs; the four orders of layers and their names (the name "PA-B" and its order are
those of an unofficial re-implementation); `span`; stems, heads, shortcuts and neurons.
"""

from keras_snn.applications import factory, inputs, residual
from keras_snn.utils.arguments import check_choice

__all__ = ["DANet18", "DANet34", "DANet50", "DANet101", "DANet152"]

decode_predictions = inputs.decode_predictions
preprocess_input = inputs.preprocess_input

ORDERS = {
    "A-A": ("conv", "norm", "neuron"),
    "A-B": ("norm", "conv", "neuron"),
    "PA-A": ("neuron", "conv", "norm"),
    "PA-B": ("norm", "neuron", "conv"),
}
SPANS = ("block", "stage", "all")


def danet(
    net,
    x,
    *,
    plan,
    blocks,
    filters,
    variant="PA-B",
    span="block",
    zero_init_residual=False,
    small_images=False,
):
    """A network of units that add what they find to the sum of all earlier ones.

    With `variant="A-..."` (post-activation) units add spikes, the sums are integers; with
    `"PA-..."` (pre-activation) they add currents, the sums are real numbers and each unit's
    convolutions see spikes.

    Args:
        variant: Order of the layers of a unit, each our reading: `"A-A"` (convolution,
            normalisation, neuron), `"A-B"` (normalisation, convolution, neuron), `"PA-A"` (neuron,
            convolution, normalisation) or `"PA-B"` (normalisation, neuron, convolution).
        span: How far sums reach, our reading: `"block"`, over the units of a stage; `"stage"`, to
            each stage's output the outputs of the stem and of all earlier stages are added too,
            each through its own strided 1x1 convolution, normalisation and neuron; `"all"`, the
            first unit of a stage adds to the outputs of all earlier units of all stages, each
            through its own strided 1x1 convolution and normalisation (and neuron, if spikes are
            added).
        zero_init_residual: Whether every fresh unit that keeps the shape is the identity.
        small_images: Whether the stem is a 3x3 convolution without pooling, for images up to
            32x32.

    Source: Li et al., "Rethinking Residual Connection in Training Large-Scale Spiking Neural
    Networks", 2023; see the module's text for what is our reading.
    """
    order = ORDERS[check_choice("variant", variant, ORDERS)]
    check_choice("span", span, SPANS)
    spikes = variant.startswith("A")
    zeros = {}
    if zero_init_residual:  # the last weights decide
        zeros = {"last_conv": {"kernel_initializer": "zeros"}}
        if variant.endswith("A"):
            zeros = {"last_norm": {"gamma": "zeros"}}

    def transitions(width, stage, name, neuron):
        """Earlier outputs, each brought to the shape of this stage's."""
        return [
            residual.transition(
                net, y, width, 2 ** (stage - earlier), f"{name}_from_{source}", neuron
            )
            for source, earlier, y in outputs
        ]

    x = residual.stem(net, x, filters[0], small_images, neuron=spikes)
    outputs = [("stem", 1, x)]  # name, stage and output of what sums reach back to

    def unit(x, channels, strides, stage, name):
        convolutions = plan(channels, strides)
        y = residual.branch(net, x, convolutions, order, name, **zeros)
        width = convolutions[-1][0]
        changes = strides > 1 or net.channels(x) != width
        if changes and span == "all":
            x = net.sum(transitions(width, stage, name, spikes), name + "_shortcut")
        else:
            x = residual.projection(net, x, width, strides, name + "_shortcut", neuron=spikes)
        if span == "all":
            outputs.append((name, stage, y))
        return net.join(y, x, name + "_add")

    for stage, (count, channels) in enumerate(zip(blocks, filters), start=1):
        for index in range(1, count + 1):
            strides = 2 if stage > 1 and index == 1 else 1
            x = unit(x, channels, strides, stage, f"stack{stage}_block{index}")
        if span == "stage":
            name = f"stack{stage}"
            sources = transitions(net.channels(x), stage, name, neuron=True)
            x = net.join(x, net.sum(sources, name + "_sources"), name + "_add")
            outputs.append((name, stage, x))
    return x if spikes else net.neuron(x, "head_neuron")


def _danet(depth):
    return factory.application(
        f"DANet{depth}",
        f"danet{depth}",
        danet,
        about=residual.about(depth, "a residual network with densely additive connections"),
        **residual.LAYOUTS[depth],
    )


DANet18 = _danet(18)
DANet34 = _danet(34)
DANet50 = _danet(50)
DANet101 = _danet(101)
DANet152 = _danet(152)
