"""keras_snn: spiking neural networks for Keras 3, on TensorFlow, JAX and PyTorch."""

from keras_snn import (
    analysis,
    applications,
    callbacks,
    conversion,
    datasets,
    distribution,
    dynamics,
    events,
    export,
    graph,
    initializers,
    layers,
    losses,
    memory,
    metrics,
    optimizers,
    qat,
    regularizers,
    robust,
    surrogates,
    testing,
    training,
)
from keras_snn.utils.deprecation import renamed

__all__ = [
    "analysis",
    "applications",
    "callbacks",
    "conversion",
    "datasets",
    "distribution",
    "dynamics",
    "events",
    "export",
    "graph",
    "initializers",
    "layers",
    "losses",
    "memory",
    "metrics",
    "optimizers",
    "qat",
    "regularizers",
    "robust",
    "surrogates",
    "testing",
    "training",
]
__version__ = "0.1.0"
__getattr__ = renamed(__name__)
