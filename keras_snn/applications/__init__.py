"""Spiking networks of the papers, with the contract of `keras.applications`."""

from keras_snn.applications import (
    danet,
    ms_resnet,
    s_resnet,
    sew_resnet,
    small,
    spiking_resnet,
    spiking_vgg,
    tdbn_resnet,
    weights,
    zoo,
)
from keras_snn.applications.danet import *
from keras_snn.applications.ms_resnet import *
from keras_snn.applications.s_resnet import *
from keras_snn.applications.sew_resnet import *
from keras_snn.applications.small import *
from keras_snn.applications.spiking_resnet import *
from keras_snn.applications.spiking_vgg import *
from keras_snn.applications.tdbn_resnet import *
from keras_snn.applications.weights import *
from keras_snn.applications.zoo import *

FAMILIES = (
    spiking_vgg,
    spiking_resnet,
    sew_resnet,
    tdbn_resnet,
    s_resnet,
    ms_resnet,
    danet,
    small,
)

__all__ = [
    *(name for family in FAMILIES for name in family.__all__),
    *weights.__all__,
    *zoo.__all__,
]
