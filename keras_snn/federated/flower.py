"""What Flower runs: the client, the strategy, and all clients in one process."""

import numpy as np

from keras_snn.federated.functions import add_noise, in_time, mean_weights, train_client
from keras_snn.utils.arguments import check_integer, check_number

try:
    from flwr import app as flower
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid
    from flwr.serverapp.strategy import FedAvg
    from flwr.supercore.task_identity import TaskIdentity
except ImportError as error:
    raise ImportError(
        "Federated training by Flower needs the package `flwr`, 1.42 or later: "
        f"pip install 'keras-snn[federated]' ({error})."
    ) from error

__all__ = ["LocalGrid", "UnweightedMean", "client_app"]


def client_app(build, load, *, epochs=2, batch_size=32, noise=0.0, seed=0):
    """A Flower `ClientApp` that trains and evaluates a Keras model on its client's data.

    Args:
        build: A function without arguments that gives a compiled model. It is called once in a
            process; the model is all clients of that process in turn, see `train_client`.
        load: A function from a client's number, from 0 (Flower's `partition-id`), to its examples
            and labels.
        epochs: Times that a client goes through its data in a round.
        batch_size: Examples in a batch.
        noise: Noise on what the client sends, see `add_noise`.
        seed: Seed of the orders of examples and of the noise; each client and round has its own.

    Returns:
        A `flwr.clientapp.ClientApp`. It takes the round's learning rate from the item
        `learning-rate` of the message's configuration, if it is there.

    Raises:
        ValueError: If a number is out of range.
        ImportError: If Flower is not installed.

    Source: Venkatesha et al. (2021).
    """
    check_integer("epochs", epochs)
    check_integer("batch_size", batch_size)
    check_number("noise", noise, minimum=0)
    models = []

    def prepared(message, context):
        if not models:
            models.append(build())
        number = int(context.node_config["partition-id"])
        weights = message.content["arrays"].to_numpy_ndarrays()
        return models[0], number, weights, *load(number)

    def reply(message, examples, metrics, **records):
        metrics = flower.MetricRecord({"num-examples": len(examples)} | metrics)
        content = flower.RecordDict({**records, "metrics": metrics})
        return flower.Message(content=content, reply_to=message)

    app = ClientApp()

    @app.train()
    def train(message, context):
        model, number, weights, examples, labels = prepared(message, context)
        config = message.content["config"]
        own = np.random.SeedSequence((seed, number, int(config["server-round"])))
        order, channel = own.generate_state(2).tolist()
        trained, logs = train_client(
            *(model, weights, examples, labels),
            epochs=epochs,
            batch_size=batch_size,
            rate=config.get("learning-rate"),
            seed=order,
        )
        if noise:
            trained = add_noise(weights, trained, noise, np.random.default_rng(channel))
        return reply(message, examples, logs, arrays=flower.ArrayRecord(trained))

    @app.evaluate()
    def evaluate(message, context):
        model, _, weights, examples, labels = prepared(message, context)
        model.set_weights(weights)
        logs = model.evaluate(examples, labels, batch_size, verbose=0, return_dict=True)
        return reply(message, examples, {name: float(value) for name, value in logs.items()})

    return app


class UnweightedMean(FedAvg):
    """Flower's `FedAvg` with a plain mean of the weights, stragglers, and a rate for each round.

    Args:
        stragglers: Probability that a chosen client is late and left out, see `in_time`.
        rate: A function from the number of the round, from 0, to its learning rate; see
            `round_rate`. By default clients keep that of their optimizer.
        seed: Seed of the stragglers, and of the choice of clients.
        **kwargs: Those of `flwr.serverapp.strategy.FedAvg` (`fraction_train`, ...). Its weighting
            by examples remains for the metrics that clients report.

    Raises:
        ValueError: If `stragglers` is no probability.
        RuntimeError: From `start`, if no client of a round replied with weights.

    Source: Venkatesha et al. (2021).
    """

    def __init__(self, *, stragglers=0.0, rate=None, seed=0, **kwargs):
        super().__init__(**kwargs)
        self.stragglers = check_number("stragglers", stragglers, minimum=0, maximum=1)
        self.rate, self.seed = rate, seed

    def configure_train(self, server_round, arrays, config, grid):
        """The messages to those clients of a round that will not be late."""
        if self.rate is not None:
            config["learning-rate"] = float(self.rate(server_round - 1))
        messages = list(super().configure_train(server_round, arrays, config, grid))
        generator = np.random.default_rng((self.seed, server_round))
        messages = [messages[i] for i in generator.permutation(len(messages))]
        return in_time(messages, self.stragglers, generator)

    def aggregate_train(self, server_round, replies):
        """The mean of the weights, and FedAvg's of the metrics."""
        replies = list(replies)
        arrays, metrics = super().aggregate_train(server_round, replies)
        if arrays is None:
            raise RuntimeError(f"No client replied with weights in round {server_round}.")
        sent = [reply.content for reply in replies if reply.has_content()]
        weights = [content[self.arrayrecord_key].to_numpy_ndarrays() for content in sent]
        return flower.ArrayRecord(mean_weights(weights)), metrics


class LocalGrid(Grid):
    """All clients of a Flower app in this process, one after the other, without Ray.

    It is what `strategy.start(grid, ...)` takes. What a client raises goes on to the caller.

    Args:
        app: A `ClientApp`.
        clients: Their number, at least 2.

    Raises:
        ValueError: If there are fewer than 2 clients.
    """

    def __init__(self, app, clients):
        check_integer("clients", clients, 2)
        self.app = app
        self.contexts = {
            number + 1: flower.Context(
                run_id=0,
                node_id=number + 1,
                node_config={"partition-id": number, "num-partitions": clients},
                state=flower.RecordDict(),
                run_config={},
            )
            for number in range(clients)
        }
        self._replies, self._sent = {}, 0
        # Messages bear these; Flower's own engines set them too.
        TaskIdentity.run_id = TaskIdentity.task_id = TaskIdentity.node_id = 0

    def set_run(self, run):
        """Does nothing: there is one run."""

    @property
    def run(self):
        """There is no information about the run."""
        raise AttributeError("A LocalGrid has no run.")

    def create_message(self, content, message_type, dst_node_id, group_id, ttl=None):
        """A message to a client."""
        return flower.Message(content, dst_node_id, message_type, group_id=group_id, ttl=ttl)

    def get_node_ids(self):
        """The numbers of the clients, from 1."""
        return list(self.contexts)

    def push_messages(self, messages):
        """Runs the clients; gives the names of their replies."""
        names = []
        for message in messages:
            self._sent += 1
            names.append(str(self._sent))
            context = self.contexts[message.metadata.dst_node_id]
            self._replies[names[-1]] = self.app(message, context)
        return names

    def pull_messages(self, message_ids):
        """The replies of these names, once."""
        return [self._replies.pop(name) for name in message_ids if name in self._replies]

    def send_and_receive(self, messages, *, timeout=None):
        """Runs the clients; gives their replies."""
        return self.pull_messages(self.push_messages(messages))
