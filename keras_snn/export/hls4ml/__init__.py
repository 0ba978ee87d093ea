"""Networks for FPGAs, by hls4ml (extra `hls4ml`): one step in C++ for high-level synthesis.

`convert` gives hls4ml the network of one step (`step.py`); neurons and readouts are layers of its
extension interface (`extension.py`) with their own template (`neurons.h`). `simulate` runs the C
simulation, which needs a C++ compiler only; `resources` counts what the project takes.
"""

from keras_snn.export.hls4ml.project import convert, simulate
from keras_snn.export.hls4ml.resources import resources

__all__ = ["convert", "resources", "simulate"]
