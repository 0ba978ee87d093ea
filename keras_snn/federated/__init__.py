"""Federated training: clients train on their own data, a server averages their weights.

The pieces are functions of arrays: how data are divided among clients, how weights are averaged,
which clients are late, what noise does. Flower (the extra `federated`) runs them: `client_app` and
`UnweightedMean` are what its apps take, `LocalGrid` runs all clients in one process.

Source: Venkatesha et al., "Federated learning with spiking neural networks", IEEE TSP 69 (2021),
and the authors' public code.
"""

import importlib

from keras_snn.federated.functions import (
    add_noise,
    dirichlet_split,
    iid_split,
    in_time,
    mean_weights,
    round_rate,
    train_client,
)

__all__ = [
    "add_noise",
    "dirichlet_split",
    "iid_split",
    "in_time",
    "mean_weights",
    "round_rate",
    "train_client",
]
FLOWER = ("LocalGrid", "UnweightedMean", "client_app")  # imported when they are first needed


def __getattr__(name):
    if name in FLOWER:
        return getattr(importlib.import_module("keras_snn.federated.flower"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
