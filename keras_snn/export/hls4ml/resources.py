"""What a project takes on an FPGA, by counting; hls4ml itself asks Vitis."""

import math

import numpy as np

__all__ = ["resources"]

COUNTS = (
    *("multiplications", "multipliers", "selections", "additions", "comparisons"),
    *("weight_bits", "state_bits", "interval"),
)


def resources(project):
    """An estimate, by counting, of what each layer of a project takes.

    Not what synthesis gives: there multiplications by some constants become additions, and logic,
    lookup tables and latency are known. Where Vitis is installed, `project.build()` synthesises,
    and `hls4ml.report.read_vivado_report(output_dir)` prints its report.

    Args:
        project: What `convert` gave.

    Returns:
        A list of dictionaries, one for each layer and `"total"` at the end, with

        * `"name"` and `"kind"`;
        * `"multiplications"`, `"additions"`, `"comparisons"` of one step, without those by weights
          that are 0, and by powers of two in neurons and readouts, which are shifts;
        * `"multipliers"`, hls4ml's limit of multipliers at the reuse factor; `"selections"` in
          their place where the inputs are spikes of one bit, which let a weight pass or not;
        * `"weight_bits"` and `"state_bits"`; by hls4ml's strategy `Latency`, which `convert` takes,
          all are in registers and logic, none in block RAM;
        * `"interval"`, the clock cycles after which a layer takes its next input; in the total the
          largest.

        `None` stands for what is not counted, and is left out of the total.

    Example:

    ```python
    project = hls4ml.convert(model, "fpga", reuse_factor=4)
    for row in hls4ml.resources(project):
        print(row["name"], row["multipliers"], row["state_bits"])
    ```
    """
    rows = []
    for layer in project.get_layers():
        counts = next((count for kinds, count in KINDS if layer.class_name in kinds), None)
        known = dict.fromkeys(COUNTS, 0) | {"interval": 1} | counts(layer) if counts else {}
        row = {"name": layer.name, "kind": layer.class_name}
        rows.append(row | {name: known.get(name) for name in COUNTS})
    total = {name: [row[name] for row in rows if row[name] is not None] for name in COUNTS}
    total = {name: (max if name == "interval" else sum)(found) for name, found in total.items()}
    return [*rows, {"name": "total", "kind": None} | total]


def _bits(layer):
    return sum(int(w.data.size) * w.type.precision.width for w in layer.weights.values())


def _weighed(layer):
    """A dense layer or convolution: `multiplier_limit` of hls4ml's templates."""
    weights, reuse = layer.weights["weight"], layer.get_attr("reuse_factor")
    size, zeros = int(weights.data.size), int(weights.nzeros)
    places = math.prod(layer.get_attr(name, 1) for name in ("out_height", "out_width"))
    parallel = layer.get_attr("parallelization_factor", 1)
    limit = (-(-size // reuse) - zeros // reuse) * parallel
    spikes = layer.get_input_variable().type.precision.width == 1
    return {
        "multiplications": 0 if spikes else (size - zeros) * places,
        "selections" if spikes else "multipliers": limit,
        "additions": (size - zeros) * places,
        "weight_bits": _bits(layer),
        "interval": reuse * -(-places // parallel),
    }


def _normalized(layer):
    size, reuse = layer.get_attr("n_in"), layer.get_attr("reuse_factor")
    return {
        "multiplications": size,
        "multipliers": -(-size // reuse),
        "additions": size,
        "weight_bits": _bits(layer),
        "interval": reuse,
    }


def _products(factors):
    """How many of the factors are neither 0 nor powers of two."""
    share, _ = np.frexp(np.abs(np.asarray(factors, "float64")))
    return int(np.sum((share != 0) & (share != 0.5)))


def _neurons(layer):
    c, size = layer.attributes["constants"], layer.get_attr("n_in")
    products = _products(c["decay"]) + _products(c["gain"])
    subtracts = c["fires"] and c["reset"] == "soft"
    return {
        "multiplications": products,
        "multipliers": products,
        "additions": size * (1 + subtracts) + int(np.count_nonzero(c["shift"])),
        "comparisons": size * c["fires"],
        "state_bits": size * layer.get_attr("state_t").precision.width,
    }


def _readout(layer):
    c, size = layer.attributes["constants"], layer.get_attr("n_in")
    products = 0 if c["largest"] else size * _products(c["scale"])
    return {
        "multiplications": products,
        "multipliers": products,
        "comparisons" if c["largest"] else "additions": size,
        "state_bits": size * layer.get_attr("state_t").precision.width,
    }


def _size(layer):
    return math.prod(layer.get_output_variable().shape)


KINDS = (
    (("Dense", "Conv1D", "Conv2D", "DepthwiseConv1D", "DepthwiseConv2D"), _weighed),
    (("BatchNormalization",), _normalized),
    (("SNNMembrane",), _neurons),
    (("SNNReduction",), _readout),
    (("Merge",), lambda layer: {"additions": _size(layer)}),
    (("Input", "Reshape", "Concatenate", "ZeroPadding1D", "ZeroPadding2D"), lambda layer: {}),
)
