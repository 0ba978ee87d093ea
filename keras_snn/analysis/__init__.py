"""What a spiking network does: firing rates of its layers."""

from keras_snn.analysis.rates import firing_rates, is_spiking

__all__ = ["firing_rates", "is_spiking"]
