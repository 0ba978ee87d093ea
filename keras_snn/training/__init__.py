"""Training methods: losses on every step, joint training with an ANN, tandem learning."""

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
from keras_snn.training.tandem import ProgressiveTandem, Tandem, tandem
from keras_snn.training.to_spiking import to_spiking

__all__ = [
    "FeatureDistance",
    "JointConv2D",
    "JointCrossentropy",
    "JointDense",
    "ProgressiveTandem",
    "Tandem",
    "ann_accuracy",
    "every_step",
    "joint_model",
    "snn_accuracy",
    "tandem",
    "to_spiking",
]
