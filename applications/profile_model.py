"""Profiles a model: firing rates, operations and energy, layer by layer, and pictures.

    python applications/profile_model.py --model_file=results/demo/SEWResNet8_digits.keras
    python applications/profile_model.py --model=SEWResNet18 --dataset=cifar10 --examples=64

Prints the table, writes it as JSON, and writes pictures and a page, `report.html`, where matplotlib
is installed.
"""

import importlib.util

import common
import keras
from absl import app, flags

import keras_snn
from keras_snn import analysis, applications
from keras_snn.utils import files

FLAGS = flags.FLAGS
flags.adopt_module_key_flags(common)
FLAGS.set_default("batch_size", 32)
flags.DEFINE_string("model_file", None, "A trained model, a .keras file.")
flags.DEFINE_string("model", None, "Or a network of keras_snn.applications, with random weights.")
flags.DEFINE_integer("examples", 256, "Test examples to use.", lower_bound=1)
flags.DEFINE_integer("timesteps", None, "Number of steps (default: the model's).", lower_bound=1)
flags.DEFINE_enum("energy", "45nm-float32", list(analysis.ENERGY), "Energy of operations.")
flags.DEFINE_enum("memory", "sram-45nm", list(analysis.MEMORY), "Energy of memory accesses.")
flags.DEFINE_enum("theme", "light", ["light", "dark"], "Whether pictures are light or dark.")
flags.DEFINE_bool("exact", False, "Count what spikes at borders really reach.")
flags.DEFINE_string("output_dir", "results/profile", "Where the table and the pictures go.")


def neuron_pictures(model, profile, images):
    """What a spiking layer does with the first image: the second, as its input varies with time."""
    spiking = [x.name for x in profile.layers if x.rate is not None]
    if not spiking:
        return {}
    name = spiking[:2][-1]
    recording = analysis.record(model, images[:1], name, None, timesteps=16)
    values = {kind: found[0] for kind, found in recording[name].items()}
    pictures = {"raster": analysis.plot_raster(values["spikes"], title=name).figure}
    if "membrane" in values:
        threshold, reset = recording.thresholds.get(name), recording.resets.get(name)
        axes = analysis.plot_membrane(threshold=threshold, reset=reset, **values)
        pictures["membrane"] = axes[0].figure
    if values["spikes"].ndim == 4:
        layout = keras.config.image_data_format()
        axes = analysis.plot_feature_maps(values["spikes"], data_format=layout, title=name)
        pictures["feature_maps"] = axes[0, 0].figure
    return pictures


def draw(model, profile, images, labels, output):
    """The pictures."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.style.use(f"keras_snn.analysis.{FLAGS.theme}")
    pictures = {
        "rates": analysis.plot_rates(profile).figure,
        "energy": analysis.plot_energy(profile)[0].figure,
    }
    pictures |= neuron_pictures(model, profile, images)
    try:
        accuracy = analysis.accuracy_over_time(model, (images, labels), timesteps=16)
        pictures["accuracy"] = analysis.plot_accuracy(accuracy).figure
    except (TypeError, ValueError) as error:  # some layers know their number of steps
        print(f"No picture of accuracy over time: {error}")
    analysis.report(model, (images, labels), output / "report.html", timesteps=FLAGS.timesteps)
    for name, figure in pictures.items():
        with files.replacing(output / f"{name}.png") as (part,):
            figure.savefig(part)


def main(argv):
    """Profiles, prints, writes."""
    common.refuse(["augmentation"], "nothing is trained")
    given = not FLAGS["model"].using_default_value  # by the user, not by a recipe
    if given == (FLAGS.model_file is not None) or not (FLAGS.model or FLAGS.model_file):
        raise app.UsageError("Give either --model_file or --model.")
    output = common.output_dir(write=False)
    if FLAGS.model_file:
        model = common.load_model(FLAGS.model_file)
        data = common.load_data_for(model, FLAGS.timesteps)
    else:
        known = {entry.name for entry in applications.list_models()}
        if FLAGS.model not in known:
            raise app.UsageError(f"--model: {FLAGS.model!r} is none of {sorted(known)}.")
        data = common.load_data(FLAGS.timesteps or 10)
        model = getattr(applications, FLAGS.model)(
            input_shape=data.input_shape, classes=data.classes
        )
    images, labels = common.collect(data.test, FLAGS.examples)
    profile = analysis.profile(
        model,
        images,
        batch_size=FLAGS.batch_size,
        energy=FLAGS.energy,
        memory=FLAGS.memory,
        exact=FLAGS.exact,
        timesteps=FLAGS.timesteps,
    )
    print(profile)
    profile.to_json(output / "profile.json")
    print(f"Wrote {output / 'profile.json'} (keras_snn {keras_snn.__version__})")
    if importlib.util.find_spec("matplotlib"):
        draw(model, profile, images, labels, output)
        print(f"Pictures are in {output}; open report.html there in a browser")
    else:
        print("No pictures: pip install keras-snn[plot]")


if __name__ == "__main__":
    common.run(main, "profile_model")
