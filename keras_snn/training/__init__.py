"""Training methods: every step, jointly with an ANN, tandem, pruning, online, STDP."""

from keras_snn.training.every_step import every_step
from keras_snn.training.joint import (
    FeatureDistance,
    JointConv2D,
    JointCrossentropy,
    JointDense,
    ann_accuracy,
    joint_model,
    snn_accuracy,
)
from keras_snn.training.online import OTTT, SLTT, EProp
from keras_snn.training.pruning import (
    GradR,
    KeepZeros,
    MaskedAdam,
    MaskedSGD,
    Prune,
    connectivity,
    grad_r_center,
    grad_r_step,
    magnitude_masks,
    n_of_m_mask,
)
from keras_snn.training.stdp import (
    STDP,
    PairSTDP,
    TripletSTDP,
    correlate,
    spike_trace,
    stdp_change,
)
from keras_snn.training.tandem import ProgressiveTandem, Tandem, tandem
from keras_snn.training.to_spiking import to_spiking

__all__ = [
    "OTTT",
    "SLTT",
    "STDP",
    "EProp",
    "FeatureDistance",
    "GradR",
    "JointConv2D",
    "JointCrossentropy",
    "JointDense",
    "KeepZeros",
    "MaskedAdam",
    "MaskedSGD",
    "PairSTDP",
    "ProgressiveTandem",
    "Prune",
    "Tandem",
    "TripletSTDP",
    "ann_accuracy",
    "connectivity",
    "correlate",
    "every_step",
    "grad_r_center",
    "grad_r_step",
    "joint_model",
    "magnitude_masks",
    "n_of_m_mask",
    "snn_accuracy",
    "spike_trace",
    "stdp_change",
    "tandem",
    "to_spiking",
]
