"""Exchange with other simulators and chips through NIR, an intermediate representation of SNNs."""

from keras_snn.export.nir.cells import NIRIntegrator, NIRNeuron
from keras_snn.export.nir.reader import from_nir
from keras_snn.export.nir.writer import to_nir

__all__ = ["NIRIntegrator", "NIRNeuron", "from_nir", "to_nir"]
