"""What a spiking network does: firing rates of its layers, gradients of its weights."""

from keras_snn.analysis.gradients import gradient_norms
from keras_snn.analysis.rates import firing_rates, is_spiking

__all__ = ["firing_rates", "gradient_norms", "is_spiking"]
