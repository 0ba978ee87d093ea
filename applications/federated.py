"""Trains one network on the data of many clients, who keep these to themselves.

    python applications/federated.py --recipe=federated_fashion_mnist --data_dir=DATA
    python applications/federated.py --recipe=federated_fashion_mnist --data_dir=DATA --alpha=0.5
    python applications/federated.py --recipe=federated_fashion_mnist --data_dir=DATA --relu

The training data are divided among `--clients`: evenly at random, or with `--alpha` so that each
client has its own mixture of classes. In each round some clients train the server's weights on
their data, and the server takes the mean. Flower (the extra `federated`) runs it, all clients in
this process, one after the other. Values of the flags that no recipe sets are those of Venkatesha
et al. (2021), but for network, data and time steps. Rounds and accuracies of the test data are
printed and written to `federated.json`. A run that was interrupted starts anew.
"""

import logging
import time

import common
import keras
import numpy as np
from absl import flags

from keras_snn import applications, federated, optimizers

FLAGS = flags.FLAGS
flags.adopt_module_key_flags(common)
flags.DEFINE_string("model", "SpikingConvNet", "Network, a function of keras_snn.applications.")
flags.DEFINE_string("options", "{}", "Other arguments of the network, in JSON.")
flags.DEFINE_string("norm", None, "Normalisation (default: bntt; bn with --relu).")
flags.DEFINE_integer("timesteps", 4, "Number of steps of images, T.", lower_bound=1)
flags.DEFINE_bool("relu", False, "Train the network with ReLUs and without time.")
flags.DEFINE_integer("clients", 10, "Number of clients.", lower_bound=2)
flags.DEFINE_integer("clients_per_round", 2, "Clients that train in a round.", lower_bound=1)
flags.DEFINE_integer("rounds", 100, "Number of rounds.", lower_bound=1)
flags.DEFINE_integer("local_epochs", 2, "Epochs of a client in a round.", lower_bound=1)
flags.DEFINE_float("alpha", None, "Divide by a Dirichlet distribution (paper: 0.5), not evenly.")
flags.DEFINE_integer("minimum", 10, "Examples that each client has at least.", lower_bound=1)
flags.DEFINE_float("stragglers", 0.0, "Probability that a client is late.", 0.0, 1.0)
flags.DEFINE_float("noise", 0.0, "Noise of updates, in units of their mean size.", lower_bound=0.0)
flags.DEFINE_float("learning_rate", 0.1, "First learning rate of SGD.", lower_bound=0.0)
flags.DEFINE_float("momentum", 0.9, "Momentum of SGD, which starts anew in each round.", 0.0, 1.0)
flags.DEFINE_float("weight_decay", 1e-4, "Gradient of an L2 penalty.", lower_bound=0.0)
flags.DEFINE_integer("examples", None, "Training examples at most, of all clients.", lower_bound=2)
flags.DEFINE_integer("test_examples", None, "Test examples at most.", lower_bound=1)
flags.DEFINE_string("output_dir", "results/federated", "Where the model and the results go.")


@flags.validator("alpha", "must be above 0")
def _is_above_0(value):
    return value is None or value > 0


def check_flags():
    """Refuses flags without effect."""
    common.check_needs({"minimum": ("alpha", None)})
    common.refuse(["augmentation"], "clients train on the examples as they are")
    if FLAGS.relu:
        common.refuse(["timesteps"], "--relu has no time")
    if FLAGS.clients_per_round > FLAGS.clients:
        raise ValueError(
            f"--clients_per_round={FLAGS.clients_per_round} is more than --clients={FLAGS.clients}."
        )
    if FLAGS.clients_per_round == 1:
        common.refuse(["stragglers"], "the only client of a round is never late")
    if not hasattr(applications, FLAGS.model):
        raise ValueError(f"--model: {FLAGS.model!r} is no network of keras_snn.applications.")


def build(data):
    """The network of the flags, compiled, with logits."""
    options = {"timesteps": FLAGS.timesteps, "norm": FLAGS.norm or "bntt"}
    if FLAGS.relu:
        options = {"timesteps": None, "neuron": keras.layers.ReLU, "norm": FLAGS.norm or "bn"}
    model = getattr(applications, FLAGS.model)(
        input_shape=data.input_shape,
        classes=data.classes,
        classifier_activation=None,
        **options | common.json_flag("options"),
    )
    model.compile(
        optimizers.SGD(
            FLAGS.learning_rate, momentum=FLAGS.momentum, weight_decay=FLAGS.weight_decay
        ),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def divide(labels):
    """For each client the indices of its examples."""
    if FLAGS.alpha is None:
        return federated.iid_split(labels, FLAGS.clients, FLAGS.seed)
    return federated.dirichlet_split(labels, FLAGS.clients, FLAGS.alpha, FLAGS.minimum, FLAGS.seed)


def simulate(model, load, evaluate, *, clients, per_round, rounds, rate, stragglers, seed, **local):
    """Runs the rounds by Flower.

    Args:
        model: The network of all clients in turn; its weights are those of the first round.
        load: A function from a client's number to its data.
        evaluate: A function from the number of a round and weights to a dictionary of numbers.
        clients: Number of clients.
        per_round: Number of those that train in a round.
        rounds: Number of rounds.
        rate: First learning rate.
        stragglers: See `UnweightedMean`.
        seed: Seed.
        **local: Arguments of `client_app`.

    Returns:
        The last weights, and of each round, by its number, what clients said of their training.
    """
    make = federated.UnweightedMean  # imports Flower, or says what is missing
    from flwr.app import ArrayRecord, MetricRecord

    logging.getLogger("flwr").setLevel(logging.ERROR)
    strategy = make(
        stragglers=stragglers,
        rate=lambda number: federated.round_rate(rate, number, rounds),
        seed=seed,
        fraction_train=per_round / clients,
        fraction_evaluate=0.0,
        min_train_nodes=per_round,
        min_available_nodes=clients,
    )
    found = strategy.start(
        federated.LocalGrid(federated.client_app(lambda: model, load, seed=seed, **local), clients),
        ArrayRecord(model.get_weights()),
        num_rounds=rounds,
        evaluate_fn=lambda number, arrays: MetricRecord(
            evaluate(number, arrays.to_numpy_ndarrays())
        ),
    )
    local_metrics = {number: dict(m) for number, m in found.train_metrics_clientapp.items()}
    return found.arrays.to_numpy_ndarrays(), local_metrics


def main(argv):
    """Divides, trains, evaluates, saves."""
    check_flags()
    data = common.load_data()
    if len(data.input_shape) == 4:
        common.refuse(["timesteps", "relu"], f"{data.name} has clips")
    x, y = common.collect(data.train, FLAGS.examples)
    test = common.collect(data.test, FLAGS.test_examples)
    parts = divide(y)
    model = build(data)
    output = common.output_dir()
    print(
        f"{model.name} on {data.name} {data.input_shape}, {model.count_params():,} parameters, "
        f"{keras.backend.backend()} backend; {FLAGS.clients} clients with "
        f"{', '.join(str(len(part)) for part in parts)} examples"
    )
    history, start = [], time.time()

    def evaluate(number, weights):
        model.set_weights(weights)
        found = model.evaluate(*test, FLAGS.batch_size, verbose=0, return_dict=True)
        history.append({"round": number, **{name: float(v) for name, v in found.items()}})
        print(
            f"Round {number}/{FLAGS.rounds}: test loss {found['loss']:.4f}, accuracy "
            f"{found['accuracy']:.4f}, {time.time() - start:.0f} s",
            flush=True,
        )
        return {name: float(value) for name, value in found.items()}

    weights, local = simulate(
        model,
        lambda number: (x[parts[number]], y[parts[number]]),
        evaluate,
        clients=FLAGS.clients,
        per_round=FLAGS.clients_per_round,
        rounds=FLAGS.rounds,
        rate=FLAGS.learning_rate,
        stragglers=FLAGS.stragglers,
        noise=FLAGS.noise,
        epochs=FLAGS.local_epochs,
        batch_size=FLAGS.batch_size,
        seed=FLAGS.seed,
    )
    model.set_weights(weights)
    common.save(model, output / f"{FLAGS.model}_{data.name}.keras")
    common.write_json(
        output / "federated.json",
        {
            "backend": keras.backend.backend(),
            "parameters": model.count_params(),
            **common.run_flags(),
            "classes_of_clients": [
                np.bincount(y[part], minlength=data.classes).tolist() for part in parts
            ],
            "history": history,
            "local": local,
            "seconds": time.time() - start,
            "cpu_seconds": time.process_time(),
        },
    )
    print(f"Results are in {output}")


if __name__ == "__main__":
    common.run(main, "federated")
