"""Small networks, ours: for images that a CPU can train on in minutes, and for speech."""

import functools

from keras_snn.applications import builder, factory, inputs, spiking_vgg
from keras_snn.layers import MembraneReadout
from keras_snn.utils.arguments import check_choice, check_integer

__all__ = ["SpeechNet", "SpikingConvNet"]

decode_predictions = inputs.decode_predictions
preprocess_input = inputs.preprocess_input


def convolutions(net, x, *, filters=((32,), (64, 64), (128, 128))):
    """Blocks of 3x3 convolutions, each with a neuron; a 2x2 maximum ends a block.

    Args:
        filters: Channels of the convolutions of each block.

    Source: ours.
    """
    return spiking_vgg.vgg(net, x, blocks=filters, pools=len(filters), use_bias=False)


def hidden_top(net, x, classes, classifier_activation, *, dropout=0.25):
    """All features of a step, a hidden layer of 256 neurons, the classifier's mean over time.

    Args:
        dropout: Share of features that dropout leaves out, with one mask for all steps.
    """
    x = net.dropout(net.flatten(x), dropout, "dropout")
    x = net.norm(net.dense(x, 256, "hidden", use_bias=False), "hidden_bn")
    x = net.neuron(x, "hidden_neuron")
    return net.dense(net.readout(x), classes, "predictions", activation=classifier_activation)


SpikingConvNet = factory.application(
    "SpikingConvNet",
    "spiking_conv_net",
    convolutions,
    hidden_top,
    about="a small network of blocks of convolutions and a hidden layer",
    example="(input_shape=(28, 28, 1), classes=10, timesteps=2)",
    size=28,
    minimum=8,
    channels=1,
    dense_initializer=builder.GLOROT,
    defaults={"neuron": "lif"},
)


def speech(
    net,
    x,
    *,
    filters=(128, 128, 128),
    size=5,
    synapses="convolution",
    recurrent=False,
    dropout=0.1,
):
    """Synapses that see the present and the past, a norm and a neuron, for each layer.

    Args:
        filters: Neurons of each layer.
        size: Steps that a synapse sees.
        synapses: `"convolution"` over time, a weight for each of these steps; or `"delays"`, a
            weight and a learned delay (`keras_snn.layers.DelayedDense`). With `size=1` both are a
            dense layer.
        recurrent: Whether the neurons of a layer also get their last spikes, by a dense connection.
        dropout: Share of channels that dropout leaves out, with one mask for all steps.

    Source: ours; convolutions over time and learned delays are those of Hammouamri et al. (2024),
    recurrent layers those of Baronig et al. (2025).
    """
    check_choice("synapses", synapses, ("convolution", "delays"))
    check_integer("size", size)
    for index, channels in enumerate(filters, start=1):
        if synapses == "delays" and size > 1:
            x = net.delayed(x, channels, size - 1, f"delayed{index}")
        else:
            x = net.delays(x, channels, size, f"conv{index}")
        x = net.neuron(net.norm(x, f"bn{index}"), f"neuron{index}", recurrent=recurrent)
        x = net.dropout(x, dropout, f"dropout{index}")
    return x


def speech_top(
    net, x, classes, classifier_activation, *, size=5, synapses="convolution", readout_tau=None
):
    """The mean over time, the classifier.

    Args:
        size: That of the layers.
        synapses: Those of the layers; with `readout_tau` the classifier has learned delays too.
        readout_tau: Time constant in steps of leaky integrators behind the classifier, whose mean
            over time is the output; by default the classifier reads mean rates.
    """
    if readout_tau is None:
        return net.dense(net.readout(x), classes, "predictions", activation=classifier_activation)
    readout = functools.partial(MembraneReadout, "mean", readout_tau)
    if synapses == "delays" and size > 1:
        x = net.delayed(x, classes, size - 1, "predictions")
    else:
        x = net.dense(x, classes, "predictions")
    x = net.readout(x, readout, "membrane")
    return net.activation(x, classifier_activation, "activation")


SpeechNet = factory.application(
    "SpeechNet",
    "speech_net",
    speech,
    speech_top,
    about="layers with synapses over time, for sequences of spectra or spikes",
    example="(input_shape=(10, 40), classes=10)",
    channels=40,
    sequence=True,
    step="features",
    dense_initializer=builder.GLOROT,
    defaults={"neuron": "lif", "timesteps": 50},
)
