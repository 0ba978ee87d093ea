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
    initializers,
    joint,
    layers,
    losses,
    memory,
    metrics,
    optimizers,
    surrogates,
)

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
    "initializers",
    "joint",
    "layers",
    "losses",
    "memory",
    "metrics",
    "optimizers",
    "surrogates",
]
__version__ = "0.1.0"
