"""The families of models: a new one is a file and its name here."""

# ruff: noqa: F403

from keras_snn.applications import (
    danet,
    e_spikeformer,
    max_former,
    max_resnet,
    ms_resnet,
    qkformer,
    s_resnet,
    segmentation,
    sew_resnet,
    small,
    spike_driven_transformer,
    spikformer,
    spiking_resformer,
    spiking_resnet,
    spiking_vgg,
    tdbn_resnet,
)
from keras_snn.applications.danet import *
from keras_snn.applications.e_spikeformer import *
from keras_snn.applications.max_former import *
from keras_snn.applications.max_resnet import *
from keras_snn.applications.ms_resnet import *
from keras_snn.applications.qkformer import *
from keras_snn.applications.s_resnet import *
from keras_snn.applications.segmentation import *
from keras_snn.applications.sew_resnet import *
from keras_snn.applications.small import *
from keras_snn.applications.spike_driven_transformer import *
from keras_snn.applications.spikformer import *
from keras_snn.applications.spiking_resformer import *
from keras_snn.applications.spiking_resnet import *
from keras_snn.applications.spiking_vgg import *
from keras_snn.applications.tdbn_resnet import *

FAMILIES = (
    spiking_vgg,
    spiking_resnet,
    sew_resnet,
    tdbn_resnet,
    s_resnet,
    ms_resnet,
    max_resnet,
    danet,
    spikformer,
    qkformer,
    spike_driven_transformer,
    e_spikeformer,
    max_former,
    spiking_resformer,
    segmentation,
    small,
)
__all__ = [name for family in FAMILIES for name in family.__all__]
