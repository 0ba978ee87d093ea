"""The pieces of federated training, without an engine."""

import numpy as np

from keras_snn import graph
from keras_snn.utils.arguments import check_integer, check_number

TRIES = 1000  # of a Dirichlet split that gives each client enough examples


def _checked(labels, clients, minimum):
    labels = np.asarray(labels)
    if labels.ndim != 1:
        raise ValueError(f"`labels` should be class numbers (examples,), got shape {labels.shape}.")
    check_integer("clients", clients, 2)
    check_integer("minimum", minimum, 1)
    if clients * minimum > len(labels):
        raise ValueError(
            f"{clients} clients with at least {minimum} examples each need {clients * minimum}, "
            f"got {len(labels)}."
        )
    return labels


def iid_split(labels, clients, seed=0):
    """Divides examples among clients at random, evenly.

    Args:
        labels: Of the examples, `(examples,)`; only their number counts.
        clients: Number of clients, at least 2.
        seed: Seed of the order.

    Returns:
        For each client the indices of its examples, sorted. Each example has one client; the
        numbers of examples differ by at most 1.

    Raises:
        ValueError: If there are fewer than 2 clients, or fewer examples than clients.

    Example:

    >>> [len(indices) for indices in iid_split(np.zeros(10), clients=3)]
    [4, 3, 3]
    """
    labels = _checked(labels, clients, 1)
    order = np.random.default_rng(seed).permutation(len(labels))
    return [np.sort(part) for part in np.array_split(order, clients)]


def dirichlet_split(labels, clients, alpha=0.5, minimum=10, seed=0):
    """Divides examples among clients so that each has its own mixture of classes.

    The examples of each class go to the clients in shares drawn from a Dirichlet distribution. A
    client that has its even share of all examples, `examples / clients`, gets none of the classes
    that follow. Splits that leave a client with too few examples are drawn anew.

    Args:
        labels: Class numbers, `(examples,)`.
        clients: Number of clients, at least 2.
        alpha: Parameter of the distribution, above 0: small values give each client few classes,
            large ones approach `iid_split`.
        minimum: Examples that each client has at least.
        seed: Seed of the shares and of the order within a class.

    Returns:
        For each client the indices of its examples, sorted. Each example has one client.

    Raises:
        ValueError: If there are fewer than 2 clients or too few examples, if `alpha` is not above
            0, or if no split gives each client its minimum.

    Source: Venkatesha et al. (2021), with `alpha` 0.5 and `minimum` 10 as in the authors' code.

    Example:

    >>> labels = np.arange(1000) % 10
    >>> parts = dirichlet_split(labels, clients=4)
    >>> sum(len(part) for part in parts), min(len(part) for part in parts) >= 10
    (1000, True)
    """
    labels = _checked(labels, clients, minimum)
    check_number("alpha", alpha, above=0)
    rng = np.random.default_rng(seed)
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    for _ in range(TRIES):
        pieces, sizes = [], np.zeros(clients, int)
        for indices in members:
            room = sizes < len(labels) / clients
            shares = rng.dirichlet(np.full(clients, float(alpha))) * room
            # A tiny alpha may leave nothing to those that have room.
            shares = shares / shares.sum() if shares.sum() > 0 else room / room.sum()
            ends = np.rint(np.cumsum(shares)[:-1] * len(indices)).astype(int)
            pieces.append(np.split(rng.permutation(indices), ends))
            sizes += np.diff(ends, prepend=0, append=len(indices))
        if sizes.min() >= minimum:
            return [np.sort(np.concatenate(part)) for part in zip(*pieces)]
    raise ValueError(
        f"None of {TRIES} splits with alpha={alpha} gave each of {clients} clients at least "
        f"{minimum} of {len(labels)} examples: give a larger `alpha`, or fewer clients."
    )


def mean_weights(weights):
    """The plain mean of the clients' weights, however many examples each has.

    Args:
        weights: For each client the list of its arrays, as `model.get_weights()` gives them:
            trained weights, and statistics of batch normalisation too, those of each time step
            (BNTT) among them.

    Returns:
        A list of arrays, of the dtypes of the first client's.

    Raises:
        ValueError: If there is no client, or their arrays differ in number or shape.

    Source: Venkatesha et al. (2021); FedAvg (McMahan et al., 2017) weights by examples instead.

    Example:

    >>> mean_weights([[np.array([1.0, 2.0])], [np.array([3.0, 6.0])]])
    [array([2., 4.])]
    """
    weights = [[np.asarray(array) for array in arrays] for arrays in weights]
    if not weights:
        raise ValueError("The mean of no client's weights is not defined.")
    shapes = [[array.shape for array in arrays] for arrays in weights]
    for other in shapes[1:]:
        if other != shapes[0]:
            raise ValueError(
                f"Clients should have weights of the same shapes, got {shapes[0]} and {other}."
            )
    return [
        np.mean(arrays, axis=0, dtype=np.promote_types(arrays[0].dtype, "float32")).astype(
            arrays[0].dtype
        )
        for arrays in zip(*weights)
    ]


def in_time(clients, probability, generator):
    """The clients of a round that are not stragglers.

    Args:
        clients: Those of the round, in the order in which they were chosen.
        probability: From 0 to 1, that a client is late. The first one never is.
        generator: A `numpy.random.Generator`.

    Returns:
        The list of clients whose weights are averaged, their number is what the mean divides by.

    Raises:
        ValueError: If there is no client, or the probability is none.

    Source: Venkatesha et al. (2021).

    Example:

    >>> in_time([7, 8, 9], probability=1.0, generator=np.random.default_rng(0))
    [7]
    """
    clients = list(clients)
    check_number("probability", probability, minimum=0, maximum=1)
    if not clients:
        raise ValueError("A round needs clients, got none.")
    kept = generator.random(len(clients) - 1) >= probability
    return [clients[0], *(client for client, keep in zip(clients[1:], kept) if keep)]


def add_noise(before, after, scale, generator):
    """What a client sends over a noisy channel: its update with noise in proportion to it.

        w <- w + scale * mean(|w - w0|) * n,   n of a standard normal distribution

    with one mean for each array.

    Args:
        before: Arrays that the client got, `w0`.
        after: Arrays that it trained, `w`.
        scale: Deviation of the noise in units of the mean size of the update, at least 0.
        generator: A `numpy.random.Generator`.

    Returns:
        The list of arrays that the server gets.

    Raises:
        ValueError: If `scale` is below 0, or the arrays differ in number or shape.

    Source: Venkatesha et al. (2021).

    Example:

    >>> noisy = add_noise([np.zeros(3)], [np.zeros(3)], 0.5, np.random.default_rng(0))
    >>> noisy[0].tolist()  # no update, no noise
    [0.0, 0.0, 0.0]
    """
    check_number("scale", scale, minimum=0)
    before, after = ([np.asarray(array) for array in arrays] for arrays in (before, after))
    if [a.shape for a in before] != [a.shape for a in after]:
        raise ValueError(
            "`before` and `after` should have the same shapes, got "
            f"{[a.shape for a in before]} and {[a.shape for a in after]}."
        )
    noisy = []
    for old, new in zip(before, after):
        size = np.abs(new - old).mean() if new.size else 0
        noise = scale * size * generator.standard_normal(new.shape)
        noisy.append((new + noise).astype(new.dtype))
    return noisy


def round_rate(first, number, rounds, at=(0.33, 0.66), factor=0.2):
    """The learning rate of a round: a fifth from each of two rounds on.

    Args:
        first: Learning rate of the first round.
        number: The round, from 0.
        rounds: Number of rounds.
        at: Shares of the rounds at which it falls.
        factor: What it is multiplied by.

    Returns:
        A number.

    Source: the authors' code of Venkatesha et al. (2021).

    Example:

    >>> [round(round_rate(0.1, number, 100), 4) for number in (0, 32, 33, 65, 66, 99)]
    [0.1, 0.1, 0.02, 0.02, 0.004, 0.004]
    """
    return first * factor ** sum(number >= int(share * rounds) for share in at)


def train_client(model, weights, examples, labels, *, epochs=2, batch_size=32, rate=None, seed=0):
    """One client's part of a round: it trains the server's weights on its own data.

    The optimizer starts anew, so that one model can be all clients in turn: neither its momentum
    nor its count of steps goes from a client, or a round, to the next. Batches are full; a client
    with fewer examples than a batch trains on all of them at once (our reading).

    Args:
        model: A compiled model, whose weights are overwritten.
        weights: The server's arrays, see `mean_weights`.
        examples: `(examples, ...)`.
        labels: `(examples, ...)`.
        epochs: Times that the client goes through its data.
        batch_size: Examples in a batch.
        rate: Learning rate of this round; by default that of the optimizer.
        seed: Seed of the order of the examples: give each client and round its own.

    Returns:
        The trained arrays, and the mean of each metric in the last epoch, by name.

    Raises:
        ValueError: If the client has no example, or the model keeps states between calls.

    Source: Venkatesha et al. (2021).

    Example:

    >>> import keras
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> weights = model.get_weights()
    >>> after, logs = train_client(model, weights, np.ones((4, 2)), np.ones((4, 1)))
    >>> len(after), sorted(logs)
    (2, ['loss'])
    """
    check_integer("epochs", epochs)
    check_integer("batch_size", batch_size)
    if not len(examples) or len(examples) != len(labels):
        raise ValueError(
            f"A client needs as many examples as labels, and at least one, got {len(examples)} and "
            f"{len(labels)}."
        )
    if getattr(model, "optimizer", None) is None:
        raise ValueError(f"{model.name} should be compiled.")
    for layer in graph.stateful_layers(model):
        raise ValueError(
            f"{layer.name} keeps its states between calls, from one client to the next: give "
            "`stateful=False`."
        )
    model.set_weights(weights)
    _renew(model, rate)
    batch_size = min(batch_size, len(examples))
    count = len(examples) // batch_size * batch_size
    generator = np.random.default_rng(seed)
    for _ in range(epochs):
        chosen = generator.permutation(len(examples))[:count]
        history = model.fit(
            examples[chosen], labels[chosen], batch_size=batch_size, shuffle=False, verbose=0
        )
    logs = {name: float(values[-1]) for name, values in history.history.items()}
    return model.get_weights(), logs


def _renew(model, rate):
    """Puts the optimizer in the state that it was made in, with this learning rate."""
    optimizer = model.optimizer
    if not optimizer.built:
        optimizer.build(model.trainable_variables)
    fresh = type(optimizer).from_config(optimizer.get_config())
    fresh.build(model.trainable_variables)
    for variable, new in zip(optimizer.variables, fresh.variables, strict=True):
        variable.assign(new)
    if rate is not None:
        optimizer.learning_rate = rate
