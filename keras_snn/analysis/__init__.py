"""What a spiking network does: firing rates of its layers, gradients of its weights."""

from keras_snn.analysis.gradients import gradient_norms
from keras_snn.analysis.over_time import AccuracyOverTime, Rollout, accuracy_over_time
from keras_snn.analysis.profiling import ENERGY, LayerProfile, Profile, profile, sparsity
from keras_snn.analysis.rates import firing_rates, is_spiking

__all__ = [
    "ENERGY",
    "AccuracyOverTime",
    "LayerProfile",
    "Profile",
    "Rollout",
    "accuracy_over_time",
    "firing_rates",
    "gradient_norms",
    "is_spiking",
    "profile",
    "sparsity",
]
