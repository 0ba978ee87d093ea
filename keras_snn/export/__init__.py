"""Export to LiteRT (TFLite), ONNX and NIR, with reports that compare results."""

from keras_snn.export.nir import from_nir, to_nir
from keras_snn.export.report import ExportReport
from keras_snn.export.streaming import StreamingInterpreter
from keras_snn.export.targets.onnx import OnnxRunner, to_onnx
from keras_snn.export.targets.tflite import to_tflite

__all__ = [
    "ExportReport",
    "OnnxRunner",
    "StreamingInterpreter",
    "from_nir",
    "to_nir",
    "to_onnx",
    "to_tflite",
]
