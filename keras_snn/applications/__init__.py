"""Spiking networks of the papers, with the contract of `keras.applications`."""

from keras_snn.applications import sew_resnet
from keras_snn.applications.sew_resnet import (
    SEWResNet8,
    SEWResNet18,
    SEWResNet34,
    SEWResNet50,
    SEWResNet101,
    SEWResNet152,
)

__all__ = [
    "SEWResNet8",
    "SEWResNet18",
    "SEWResNet34",
    "SEWResNet50",
    "SEWResNet101",
    "SEWResNet152",
    "sew_resnet",
]
