"""Certified robustness: bounds of a spiking network over all inputs near to one, and attacks."""

from keras_snn.robust.attacks import fgsm, pgd
from keras_snn.robust.bounds import bounds, certify, layer_bounds, margins
from keras_snn.robust.boxes import Box, box, poisson_box, unknown_spikes
from keras_snn.robust.rule import Rule
from keras_snn.robust.rules import Monotone, register
from keras_snn.robust.training import Rise, RobustModel

__all__ = [
    "Box",
    "Monotone",
    "Rise",
    "RobustModel",
    "Rule",
    "bounds",
    "box",
    "certify",
    "fgsm",
    "layer_bounds",
    "margins",
    "pgd",
    "poisson_box",
    "register",
    "unknown_spikes",
]
