"""Export to LiteRT (TFLite), ONNX and NIR, with reports that compare results.

`to_NAME` is the function of `targets/NAME.py`: a file there is all that a further format takes.
"""

import importlib
import importlib.util

from keras_snn.export.nir import from_nir, to_nir
from keras_snn.export.report import ExportReport
from keras_snn.export.streaming import StreamingInterpreter
from keras_snn.export.targets.c import CRunner, to_c
from keras_snn.export.targets.onnx import OnnxRunner, to_onnx
from keras_snn.export.targets.tflite import to_tflite

__all__ = [
    "CRunner",
    "ExportReport",
    "OnnxRunner",
    "StreamingInterpreter",
    "from_nir",
    "to_c",
    "to_nir",
    "to_onnx",
    "to_tflite",
]


def __getattr__(name):
    module = f"{__name__}.targets.{name.removeprefix('to_')}"
    if name.startswith("to_") and importlib.util.find_spec(module):
        return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
