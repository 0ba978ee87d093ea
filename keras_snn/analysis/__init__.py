"""What a spiking network does: rates, operations, energy, recordings, gradients, pictures."""

from keras_snn.analysis.accuracy import AccuracyOverTime, accuracy_over_time
from keras_snn.analysis.benchmark import neurobench
from keras_snn.analysis.counting import profile, sparsity
from keras_snn.analysis.device import profile_file
from keras_snn.analysis.energy import ENERGY, MEMORY, Work
from keras_snn.analysis.gradients import gradient_norms
from keras_snn.analysis.page import report
from keras_snn.analysis.plots import (
    plot_accuracy,
    plot_energy,
    plot_feature_maps,
    plot_membrane,
    plot_raster,
    plot_rates,
    plot_segmentation,
    save_event_animation,
)
from keras_snn.analysis.profiles import LayerProfile, Profile
from keras_snn.analysis.rates import firing_rates, is_spiking
from keras_snn.analysis.recording import Recording, record
from keras_snn.analysis.rollout import Rollout

__all__ = [
    "ENERGY",
    "MEMORY",
    "AccuracyOverTime",
    "LayerProfile",
    "Profile",
    "Recording",
    "Rollout",
    "Work",
    "accuracy_over_time",
    "firing_rates",
    "gradient_norms",
    "is_spiking",
    "neurobench",
    "plot_accuracy",
    "plot_energy",
    "plot_feature_maps",
    "plot_membrane",
    "plot_raster",
    "plot_rates",
    "plot_segmentation",
    "profile",
    "profile_file",
    "record",
    "report",
    "save_event_animation",
    "sparsity",
]
