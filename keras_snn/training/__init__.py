"""Training methods: losses on every step, joint training with an ANN, tandem, pruning."""

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
from keras_snn.training.tandem import ProgressiveTandem, Tandem, tandem
from keras_snn.training.to_spiking import to_spiking

__all__ = [
    "FeatureDistance",
    "GradR",
    "JointConv2D",
    "JointCrossentropy",
    "JointDense",
    "KeepZeros",
    "MaskedAdam",
    "MaskedSGD",
    "ProgressiveTandem",
    "Prune",
    "Tandem",
    "ann_accuracy",
    "connectivity",
    "every_step",
    "grad_r_center",
    "grad_r_step",
    "joint_model",
    "magnitude_masks",
    "n_of_m_mask",
    "snn_accuracy",
    "tandem",
    "to_spiking",
]
