"""From a model to a project of hls4ml, and its C simulation."""

import pathlib

import numpy as np

from keras_snn import graph
from keras_snn.export import job
from keras_snn.export.hls4ml import step
from keras_snn.utils.arguments import check_integer

__all__ = ["convert", "simulate"]


def _library():
    try:
        import hls4ml
    except ImportError as error:
        raise ImportError(
            'Projects for FPGAs need the extra `hls4ml`: pip install "keras-snn[hls4ml]"'
        ) from error
    return hls4ml


def convert(
    model,
    output_dir,
    precision="ap_fixed<40,12>",
    timesteps=None,
    backend="Vitis",
    reuse_factor=1,
    **options,
):
    """Makes a project of hls4ml from a model: one step a call, with the states kept inside.

    Dense layers, convolutions, pooling, flatten, sums, batch normalisation, neurons with a linear
    charge (`IF`, `LIF` in both input forms, `ParametricLIF`, `DecayLIF`, ...), integrators, and
    readouts over time (`MeanOverTime`, `SumOverTime`, `MaxOverTime`, `LastOverTime`,
    `MembraneReadout`, `Voting`). After the steps of a clip the states start anew. The output is the
    readout so far; a mean is divided by the steps of a whole clip. Spikes have one bit.

    Args:
        model: A functional or Sequential model with one input; on images, each step is given the
            image.
        output_dir: Folder of the project, which is written when it is compiled or built.
        precision: Fixed-point type of weights, currents and states. Spikes are those of the model
            but where a potential is within its rounding of the threshold; the default is as fine as
            float32. It is for you to find how narrow it may be.
        timesteps: Steps of a clip, where the model does not tell.
        backend: `"Vitis"` or `"Vivado"`.
        reuse_factor: How often a multiplier is used in each call.
        **options: Others of `hls4ml.converters.convert_from_keras_model`, such as `part`.

    Returns:
        hls4ml's `ModelGraph`: give it to `simulate`, or `build()` it where Vitis is installed.

    Raises:
        TypeError: If a layer can't be written; it is named.
        ValueError: If the model does not tell its number of steps, or an argument is invalid.
        ImportError: If the extra `hls4ml` is not installed.

    Source: hls4ml (Duarte et al., 2018), by its interface for extensions.

    Example:

    ```python
    from keras_snn.export import hls4ml

    project = hls4ml.convert(model, "fpga", precision="ap_fixed<16,6>")
    outputs, spikes = hls4ml.simulate(project, images)  # compiled by g++
    ```
    """
    library = _library()
    if backend not in ("Vitis", "Vivado"):
        raise ValueError(
            "Received an invalid value for argument `backend`, expected 'Vitis' or 'Vivado', got "
            f"{backend!r}."
        )
    check_integer("reuse_factor", reuse_factor)
    graph.check_functional(model, "hls4ml")
    timesteps = job.clip_timesteps(model, timesteps)
    from keras_snn.export.hls4ml import extension

    extension.use(backend)
    network = step.step_model(model, timesteps)
    ours = [x for x in network.layers if isinstance(x, (step.Membrane, step.Reduction))]
    config = {
        "Model": {"Precision": precision, "ReuseFactor": reuse_factor, "Strategy": "Latency"},
        "LayerName": {layer.name: {"Trace": True} for layer in ours},
    }
    project = library.converters.convert_from_keras_model(
        network,
        output_dir=str(pathlib.Path(output_dir).expanduser()),
        backend=backend,
        hls_config=config,
        io_type="io_parallel",
        allow_da_fallback=False,
        **options,
    )
    return project


def simulate(project, inputs):
    """Runs the C simulation of a project, after compiling it with g++.

    Args:
        project: What `convert` gave.
        inputs: Images `(batch, ...)`, or clips `(batch, time, ...)` of as many steps as the model
            has.

    Returns:
        `(outputs, spikes)`: the readout after every step, `(batch, time, ...)`, and by layer the
        spikes of each step, `(batch, time, ...)`, potentials of integrators among them.

    Raises:
        ValueError: If the inputs have another shape.
    """
    shape = tuple(project.get_input_variables()[0].shape)
    windows = [
        layer.attributes["constants"]["window"]
        for layer in project.get_layers()
        if "constants" in layer.attributes
    ]
    timesteps = windows[0] if windows else 1
    inputs = np.asarray(inputs, "float32")
    if inputs.shape[1:] == shape:
        inputs = np.repeat(inputs[:, None], timesteps, axis=1)
    if inputs.shape[1:] != (timesteps, *shape):
        raise ValueError(
            f"The project takes images {shape} or clips {(timesteps, *shape)}, got inputs of the "
            f"shape {inputs.shape}."
        )
    flat = np.ascontiguousarray(inputs.reshape(-1, *shape))
    outputs, traced = project.trace(flat)

    def clips(x):
        return np.asarray(x).reshape(*inputs.shape[:2], *np.shape(x)[1:])

    return clips(outputs), {name: clips(x) for name, x in traced.items()}
