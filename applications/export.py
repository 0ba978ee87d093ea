"""Exports a saved model to a file for devices, compares both, and has the file predict.

    python applications/export.py --model_file=results/demo/SEWResNet8_digits.keras
    python applications/export.py --model_file=model.keras --mode=step --quantize=int8 --target=tflm
    python applications/export.py --model_file=model.keras --quantize=int8 --target=c
    python applications/export.py --model_file=model.keras --target=hls4ml

The report goes beside the file, `.json`; `--tensors` adds the scale and zero point of every
tensor, and the multipliers and shifts of every operation, for those who write their own hardware.
For TensorFlow Lite Micro the folder `NAME_tflm` gets a C++ program: `TFLM=path make` there.
With `--target=hls4ml` the folder `NAME_hls4ml` gets a project for FPGAs, which g++ simulates.
Inputs to compare with, and to take the ranges of quantised files from, are those of a data set.
"""

import contextlib
import io
import json
import pathlib
import shutil

import chatter
import common
import numpy as np
from absl import flags

from keras_snn import export
from keras_snn.export import hls4ml
from keras_snn.export.micro import write_project
from keras_snn.export.targets.tflite import MODES, QUANTIZATIONS, STATES, TARGETS
from keras_snn.utils import files

FLAGS = flags.FLAGS
flags.adopt_module_key_flags(common)
flags.DEFINE_string("model_file", None, "A `.keras` file.", required=True)
flags.DEFINE_string("output", None, "Where to write (default: beside the model's file).")
flags.DEFINE_integer("examples", 32, "Examples to compare, and as many for ranges.", lower_bound=1)
flags.DEFINE_integer("test_examples", 0, "Examples to measure the accuracy of the file on.", 0)
flags.DEFINE_enum("mode", "sequence", MODES, "Whole clips, or steps with states.")
flags.DEFINE_enum("quantize", None, QUANTIZATIONS[1:], "Quantisation (default: float32).")
flags.DEFINE_enum(
    "target",
    "litert",
    (*TARGETS, "c", "hls4ml"),
    "LiteRT, TensorFlow Lite Micro, C, or an hls4ml project for FPGAs.",
)
flags.DEFINE_string("precision", "ap_fixed<40,12>", "Fixed-point type of an hls4ml project.")
flags.DEFINE_enum("state", "explicit", STATES, "Where a step's states are.")
flags.DEFINE_bool("tensors", False, "Scales, multipliers and shifts in the report.")
flags.DEFINE_integer("timesteps", None, "Steps, where the model does not tell.", lower_bound=1)


def main(argv):
    """Exports, prints the report, predicts with the file."""
    common.refuse(["augmentation", "batch_size"], "nothing is trained, files take one example")
    common.check_needs({"precision": ("target", ["hls4ml"])})
    if FLAGS.target == "hls4ml":
        return write_fpga()
    source = FLAGS.target == "c"
    if source:
        common.refuse(["mode", "state"], "C source computes single steps and keeps their states")
    suffix = ".c" if source else ".tflite"
    path = pathlib.Path(FLAGS.output or pathlib.Path(FLAGS.model_file).with_suffix(suffix))
    files.check_path(path, [suffix])
    model, data = load()
    shape = model.input_shape
    kinds = {"mode": FLAGS.mode, "target": FLAGS.target, "state": FLAGS.state}
    try:
        with chatter.hidden():
            report = (export.to_c if source else export.to_tflite)(
                model,
                path,
                **({} if source else kinds),
                quantize=FLAGS.quantize,
                timesteps=FLAGS.timesteps,
                representative_data=common.collect(data.train, FLAGS.examples)[0],
                verify_data=common.collect(data.test, FLAGS.examples)[0],
            )
    except (TypeError, RuntimeError) as error:  # what can't be exported
        raise ValueError(str(error)) from error
    print(report)
    files.write(path.with_suffix(".json"), report.to_json(FLAGS.tensors))
    if FLAGS.target == "tflm":
        print(f"A C++ program: TFLM=path make -C {write_project(path, report)}")

    images, labels = common.collect(data.test, max(1, FLAGS.test_examples))
    with chatter.hidden():
        stream = (export.CRunner if source else export.StreamingInterpreter)(path)

    def predict(image):
        if report.mode == "sequence":
            outputs = stream.step(image[None])
        else:
            clip = image if len(shape) == 5 else np.repeat(image[None], report.timesteps, axis=0)
            outputs = stream.run(clip)
        return next(iter(outputs.values()))[0].argmax()

    tell(model, images, labels, np.array([predict(image) for image in images]))


def load():
    """The model, and data like its inputs."""
    model = common.load_model(FLAGS.model_file)
    if len(model.input_shape) == 4:
        FLAGS.set_default("image_size", model.input_shape[-2])
    return model, common.load_data_for(model, FLAGS.timesteps)


def tell(model, images, labels, answers):
    """Prints the first answer of a file, and how many are right."""
    print(f"The file says {answers[0]}; the label is {labels[0]}")
    if FLAGS.test_examples:
        own = model.predict(images, verbose=0).argmax(-1)
        low, high = common.wilson_interval(np.sum(answers == labels), len(labels))
        print(
            f"Accuracy on {len(labels)} examples: file {np.mean(answers == labels):.4f} (95 % "
            f"interval {low:.4f} to {high:.4f}), model "
            f"{np.mean(own == labels):.4f}; the same answer for {np.mean(answers == own):.4f}"
        )


def write_fpga():
    """Writes a project of hls4ml and what it takes, and runs its C simulation."""
    why = "an hls4ml project is one step with its states, in --precision"
    common.refuse(["mode", "state", "quantize", "tensors"], why)
    place = pathlib.Path(FLAGS.model_file).expanduser()
    folder = pathlib.Path(FLAGS.output or place.with_name(f"{place.stem}_hls4ml")).expanduser()
    model, data = load()
    images, labels = common.collect(data.test, max(FLAGS.examples, FLAGS.test_examples))
    simulated = shutil.which("g++") is not None
    try:
        with chatter.hidden(), contextlib.redirect_stdout(io.StringIO()):
            project = hls4ml.convert(
                model, folder, precision=FLAGS.precision, timesteps=FLAGS.timesteps
            )
            project.write()
            found = hls4ml.simulate(project, images)[0][:, -1] if simulated else None
    except TypeError as error:  # what can't be exported
        raise ValueError(str(error)) from error
    rows = hls4ml.resources(project)
    report = {"precision": FLAGS.precision, "resources": rows}
    total = ", ".join(f"{name} {n}" for name, n in rows[-1].items() if isinstance(n, int))
    print(f"{folder}: {FLAGS.precision}; by counting: {total}")
    if simulated:
        wanted = model.predict(images, verbose=0)
        same = np.mean(found.argmax(-1) == wanted.argmax(-1))
        report |= {"same_answer": float(same), "largest": float(np.abs(found - wanted).max())}
        print(
            f"same answer: {same:.2%} of {len(images)} examples; largest difference of outputs: "
            f"{report['largest']:.2g}"
        )
        count = max(1, FLAGS.test_examples)
        tell(model, images[:count], labels[:count], found[:count].argmax(-1))
    else:
        print("No g++ here: the project was not run.")
    files.write(folder.with_name(f"{folder.name}.json"), json.dumps(report, indent=1))


if __name__ == "__main__":
    common.run(main, "export")
