"""Small networks, ours: for images that a CPU can train on in minutes, and for speech."""

from keras_snn.applications import builder, factory, inputs, spiking_vgg

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


def speech(net, x, *, filters, size=5, dropout=0.1):
    """Convolutions over time that see the present and the past, each with a neuron.

    Args:
        size: Steps that a convolution sees: its weights are learned delays.
        dropout: Share of channels that dropout leaves out, with one mask for all steps.

    Source: ours; delays as convolutions over time are those of Hammouamri et al. (2024).
    """
    for index, channels in enumerate(filters, start=1):
        x = net.delays(x, channels, size, f"conv{index}")
        x = net.neuron(net.norm(x, f"bn{index}"), f"neuron{index}")
        x = net.dropout(x, dropout, f"dropout{index}")
    return x


def speech_top(net, x, classes, classifier_activation):
    """The mean over time, the classifier."""
    return net.dense(net.readout(x), classes, "predictions", activation=classifier_activation)


SpeechNet = factory.application(
    "SpeechNet",
    "speech_net",
    speech,
    speech_top,
    about="three convolutions over time, for sequences of spectra",
    example="(input_shape=(10, 40), classes=10)",
    channels=40,
    sequence=True,
    step="features",
    dense_initializer=builder.GLOROT,
    filters=(128, 128, 128),
    defaults={"neuron": "lif", "timesteps": 50},
)
