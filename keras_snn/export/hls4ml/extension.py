"""hls4ml's layers, handlers and templates for `Membrane`, `Reduction` and `Affine`."""

import math
import pathlib

import numpy as np
from hls4ml.backends import get_backend
from hls4ml.backends.template import FunctionCallTemplate, LayerConfigTemplate
from hls4ml.converters.keras_v3._base import KerasV3LayerHandler
from hls4ml.model.attributes import Attribute, TypeAttribute
from hls4ml.model.layers import Layer, register_layer
from hls4ml.model.types import IntegerPrecisionType

from keras_snn.export.hls4ml import step

__all__ = ["use"]

_FILE = "nnet_utils/neurons.h"
_USED = set()


def use(backend):
    """Makes a backend of hls4ml know our layers; once for each backend."""
    if backend in _USED:
        return
    for kind in (SNNMembrane, SNNReduction):
        register_layer(kind.__name__, kind)
    known = get_backend(backend)
    for template in (MembraneConfig, ReductionConfig, Call):
        known.register_template(template)
    known.register_source(pathlib.Path(__file__).with_name("neurons.h").resolve())
    _USED.add(backend)


class _Step(Layer):
    _expected_attributes = [
        Attribute("n_in"),
        Attribute("constants", value_type=dict),
        TypeAttribute("state"),
    ]
    spikes = False

    def initialize(self):
        """Declares the output; that of a neuron that fires has one bit."""
        fires = self.attributes["constants"].get("fires", False)
        spike = IntegerPrecisionType(1, signed=False) if fires else None
        self.add_output_variable(self.get_input_variable().shape, precision=spike)
        self._set_type_t("state")


class SNNMembrane(_Step):
    """A layer of neurons."""


class SNNReduction(_Step):
    """A readout."""


class _Handler(KerasV3LayerHandler):
    def handle(self, layer, in_tensors, out_tensors):
        """What hls4ml's layer is given."""
        size = math.prod(in_tensors[0].shape[1:])
        return {"n_in": size} | self.attributes(layer, in_tensors[0].shape)


class MembraneHandler(_Handler):
    """Of neurons and readouts."""

    handles = tuple(f"{step.__name__}.{kind.__name__}" for kind in (step.Membrane, step.Reduction))

    def attributes(self, layer, shape):
        kind = SNNMembrane if isinstance(layer, step.Membrane) else SNNReduction
        return {
            "class_name": kind.__name__,
            "constants": layer.constants,
        }


class AffineHandler(_Handler):
    """Of batch normalisation: hls4ml's own layer, which folds into the layer in front."""

    handles = (f"{step.__name__}.{step.Affine.__name__}",)

    def attributes(self, layer, shape):
        scale, shift = layer.constants["scale"], layer.constants["shift"]
        return {
            "class_name": "BatchNormalization",
            "n_filt": shape[-1] if len(shape) > 2 else -1,
            "scale_data": scale.astype("float32"),
            "bias_data": shift.astype("float32"),
            "use_gamma": True,
            "use_beta": True,
        }


def _lookup(name, values):
    """A function of the neuron's place; of one number, if all have the same."""
    if (values == values[0]).all():
        body = f"return {_decimal(values[0])};"
    else:
        listed = ", ".join(map(_decimal, values))
        body = f"static const state_t all[] = {{{listed}}}; return all[i];"
    return f"    static state_t {name}(unsigned i) {{ {body} }}\n"


def _decimal(value):
    return repr(float(value))


class MembraneConfig(LayerConfigTemplate):
    """Constants of a layer of neurons."""

    def __init__(self):
        super().__init__(SNNMembrane)

    def format(self, node):
        constants = node.attributes["constants"]
        decay, gain, shift = (constants[name] for name in ("decay", "gain", "shift"))
        terms = ["v" if np.all(decay == 1) else "decay(i) * v"]
        terms.append("x" if np.all(gain == 1) else "gain(i) * x")
        terms += ["shift(i)"] if np.any(shift) else []
        after = {
            "soft": "h - threshold(i)",
            "hard": _decimal(constants["first"]),
            "none": "h",
        }[constants["reset"]]
        return (
            _head(node)
            + "".join(_lookup(name, constants[name]) for name in ("decay", "gain", "shift"))
            + _lookup("threshold", constants["threshold"])
            + f"    static const bool fires = {str(constants['fires']).lower()};\n"
            + f"    static const bool strict = {str(constants['strict']).lower()};\n"
            + f"    static state_t first() {{ return {_decimal(constants['first'])}; }}\n"
            + f"    static state_t after(state_t h, unsigned i) {{ return {after}; }}\n"
            + "    template <class data_T>\n"
            + "    static state_t charge(state_t v, data_T x, unsigned i) "
            + f"{{ return {' + '.join(terms)}; }}\n}};\n"
        )


class ReductionConfig(LayerConfigTemplate):
    """Constants of a readout."""

    def __init__(self):
        super().__init__(SNNReduction)

    def format(self, node):
        constants = node.attributes["constants"]
        return (
            _head(node)
            + f"    static const bool largest = {str(constants['largest']).lower()};\n"
            + f"    static state_t scale() {{ return {_decimal(constants['scale'])}; }}\n}};\n"
        )


def _head(node):
    window, size = node.attributes["constants"]["window"], node.attributes["n_in"]
    return (
        f"struct config{node.index} : nnet::membrane_config {{\n"
        f"    static const unsigned n_in = {size};\n"
        f"    static const unsigned window = {window};\n"
        f"    typedef {node.attributes['state_t'].name} state_t;\n"
    )


class Call(FunctionCallTemplate):
    """The call of either."""

    def __init__(self):
        super().__init__([SNNMembrane, SNNReduction], include_header=[_FILE])

    def format(self, node):
        params = self._default_function_params(node)
        function = "membrane" if node.class_name == SNNMembrane.__name__ else "reduction"
        return (
            f"nnet::{function}<{params['input_t']}, {params['output_t']}, {params['config']}>"
            f"({params['input']}, {params['output']});"
        )
