"""Exports a saved model to a file for devices, compares both, and has the file predict.

    python applications/export.py --model_file=results/demo/SEWResNet8_digits.keras
    python applications/export.py --model_file=model.keras --mode=step --quantize=int8 --target=tflm
    python applications/export.py --model_file=model.keras --quantize=int8 --target=c

The report goes beside the file, `.json`; `--tensors` adds the scale and zero point of every
tensor, and the multipliers and shifts of every operation, for those who write their own hardware.
For TensorFlow Lite Micro the folder `NAME_tflm` gets a C++ program: `TFLM=path make` there.
Inputs to compare with, and to take the ranges of quantised files from, are those of a data set.
"""

import pathlib

import chatter
import common
import numpy as np
from absl import flags

from keras_snn import export
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
flags.DEFINE_enum("target", "litert", (*TARGETS, "c"), "LiteRT, TensorFlow Lite Micro, or C.")
flags.DEFINE_enum("state", "explicit", STATES, "Where a step's states are.")
flags.DEFINE_bool("tensors", False, "Scales, multipliers and shifts in the report.")
flags.DEFINE_integer("timesteps", None, "Steps, where the model does not tell.", lower_bound=1)


def main(argv):
    """Exports, prints the report, predicts with the file."""
    common.refuse(["augmentation", "batch_size"], "nothing is trained, files take one example")
    source = FLAGS.target == "c"
    if source:
        common.refuse(["mode", "state"], "C source computes single steps and keeps their states")
    suffix = ".c" if source else ".tflite"
    path = pathlib.Path(FLAGS.output or pathlib.Path(FLAGS.model_file).with_suffix(suffix))
    files.check_path(path, [suffix])
    model = common.load_model(FLAGS.model_file)
    shape = model.input_shape
    if len(shape) == 4:
        FLAGS.set_default("image_size", shape[-2])
    data = common.load_data_for(model, FLAGS.timesteps)
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

    answers = np.array([predict(image) for image in images])
    print(f"The file says {answers[0]}; the label is {labels[0]}")
    if FLAGS.test_examples:
        own = model.predict(images, verbose=0).argmax(-1)
        low, high = common.wilson_interval(np.sum(answers == labels), len(labels))
        print(
            f"Accuracy on {len(labels)} examples: file {np.mean(answers == labels):.4f} (95 % "
            f"interval {low:.4f} to {high:.4f}), model "
            f"{np.mean(own == labels):.4f}; the same answer for {np.mean(answers == own):.4f}"
        )


if __name__ == "__main__":
    common.run(main, "export")
