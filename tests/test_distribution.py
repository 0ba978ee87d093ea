"""Two devices or processes train as one does on the same global batches; see the program."""

import contextlib
import functools
import json
import os
import socket

import distributed_program as program
import keras
import numpy as np
import pytest
from helpers import SERVER

from keras_snn import distribution
from keras_snn.datasets import ArrayBatches

BACKEND = keras.backend.backend()
LOOPBACK = "127.0.0.1"


def free_ports(count):
    """Ports of the loopback device that nobody listens at."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for free in sockets:
            free.bind((LOOPBACK, 0))
        return [free.getsockname()[1] for free in sockets]


def start(environment, path, cases):
    """What a new process does."""
    os.environ.update(environment)
    os.dup2(os.open(f"{path}.txt", os.O_CREAT | os.O_WRONLY), 2)
    if BACKEND == "jax":
        import jax

        jax.config.update("jax_disable_most_optimizations", True)
    program.main(f"{path}.npz", *cases)


def run(folder, cases, *environments):
    """What processes with these environments write; all are ended, at the latest by a timeout."""
    with contextlib.ExitStack() as stack:
        processes = []
        for i, environment in enumerate(environments):
            environment = environment | {"PROCESS": str(i), "CUDA_VISIBLE_DEVICES": "-1"}
            process = SERVER.Process(target=start, args=(environment, folder / f"{i}", cases))
            process.start()
            stack.callback(process.kill)
            processes.append(process)
        for i, process in enumerate(processes):
            process.join(timeout=300)
            assert process.exitcode == 0, (folder / f"{i}.txt").read_text()[-3000:]
    paths = [folder / f"{i}.npz" for i in range(len(environments))]
    return [{"path": path, "cases": cases, **np.load(path)} for path in paths]


def environments(kind):
    if kind == "devices":
        flags = os.environ.get("XLA_FLAGS", "")
        return [{"XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count=2"}]
    first, second = free_ports(2)
    if BACKEND == "jax":
        name = "KERAS_DISTRIBUTION_"
        common = {f"{name}JOB_ADDRESSES": f"{LOOPBACK}:{first}", f"{name}NUM_PROCESSES": "2"}
        return [common | {f"{name}PROCESS_ID": str(i)} for i in range(2)]
    if BACKEND == "torch":
        common = {"MASTER_ADDR": LOOPBACK, "MASTER_PORT": str(first), "WORLD_SIZE": "2"}
        return [common | {"RANK": str(i), "LOCAL_RANK": str(i)} for i in range(2)]
    cluster = {"worker": [f"{LOOPBACK}:{first}", f"{LOOPBACK}:{second}"]}
    tasks = [{"cluster": cluster, "task": {"type": "worker", "index": i}} for i in range(2)]
    return [{"TF_CONFIG": json.dumps(task)} for task in tasks]


# What each process of a kind trains. Two TensorFlow processes take long to talk to each other.
TRAINED = {
    ("tensorflow", "devices"): ("long", "synchronized", "normalization"),
    ("tensorflow", "processes"): ("short", "normalization"),
    ("jax", "devices"): ("long", "normalization"),
    ("jax", "processes"): ("short", "normalization"),
    ("torch", "processes"): ("short", "long", "normalization"),
}
KINDS = [kind for backend, kind in TRAINED if backend == BACKEND]


@pytest.fixture(scope="module", params=KINDS)
def together(request, tmp_path_factory):
    """Results of all processes, two devices or two processes."""
    cases = TRAINED[BACKEND, request.param]
    return run(tmp_path_factory.mktemp("results"), cases, *environments(request.param))


@pytest.fixture(scope="module")
def alone():
    """Results of one device, case by case."""
    return functools.cache(program.on_one_device)


def of_case(results, case):
    if case not in results["cases"]:
        pytest.skip(f"{case} is trained by the other kind of replicas")
    return {k.split("/")[1]: v for k, v in results.items() if k.startswith(f"{case}/")}


def test_all_replicas_take_part(together):
    parts = [results["who"].tolist() for results in together]
    assert parts == [[2, len(together), i] for i in range(len(together))]


@pytest.mark.parametrize("case", ["short", "long"])
def test_training_equals_that_of_one_device(together, alone, case):
    """Losses, metrics and weights, with both forms of fused neurons and a ragged last batch."""
    for results in together:
        found = of_case(results, case)
        assert len(found["steps"]) == 6
        for name, wanted in alone(case).items():
            if name != "masks":
                np.testing.assert_allclose(found[name], wanted, rtol=0, atol=1e-5, err_msg=name)
    assert np.ptp(alone(case)["steps"], axis=0).min() > 1e-2  # there was something to compare


def test_batch_normalization_uses_shares_or_the_global_batch(together):
    """JAX normalises by the global batch; elsewhere moving statistics are means over replicas."""
    inputs = program.examples(8)[0].astype("float64")
    halves = [half.reshape(-1, 2) for half in (inputs[:4], inputs[4:])]
    shares = np.mean([half.var(axis=0) for half in halves], axis=0)
    whole = np.concatenate(halves).var(axis=0)
    assert np.abs(shares - whole).min() > 0.05
    for results in together:
        found = of_case(results, "normalization")
        mean, variance = (found[f"weight_{i}"] for i in statistics(found))
        np.testing.assert_allclose(mean, 0.01 * np.concatenate(halves).mean(axis=0), atol=1e-5)
        wanted = whole if BACKEND == "jax" else shares
        np.testing.assert_allclose(variance, 0.99 + 0.01 * wanted, atol=1e-5)


def statistics(found):
    """Numbers of the moving statistics among the weights of the case "normalization"."""
    model = program.build(normalization="plain")
    names = [weight.path.split("/")[-1] for weight in model.weights]
    assert len(names) == sum(name.startswith("weight_") for name in found)
    return names.index("moving_mean"), names.index("moving_variance")


@pytest.mark.skipif(BACKEND != "tensorflow", reason="Keras has it on TensorFlow only")
def test_synchronized_batch_normalization_equals_that_of_one_device(together, alone):
    found = of_case(together[0], "synchronized")
    for name, wanted in alone("synchronized").items():
        if name != "masks":
            np.testing.assert_allclose(found[name], wanted, rtol=0, atol=1e-5, err_msg=name)


@pytest.mark.skipif(BACKEND == "jax", reason="one program draws for the global batch")
def test_masks_of_dropout_differ_on_pytorch_only(together):
    masks = np.concatenate([of_case(results, "normalization")["masks"] for results in together])
    assert len(masks) == 2 and 0 < np.mean(masks[0] == 0) < 1
    assert np.array_equal(masks[0], masks[1]) == (BACKEND == "tensorflow")


def test_what_was_saved_is_what_was_trained(together):
    model = keras.saving.load_model(str(together[0]["path"]) + ".keras")
    found = of_case(together[0], "normalization")
    for i, weight in enumerate(model.get_weights()):
        np.testing.assert_array_equal(weight, found[f"weight_{i}"])


@pytest.mark.parametrize("kind", ["PyDataset", "tf.data.Dataset"])
def test_shares_of_ragged_batches(kind):
    """Of ten examples four replicas use eight; of three they repeat one."""
    if kind == "PyDataset":
        data = ArrayBatches(np.arange(13), -np.arange(13), batch_size=10)
    else:
        tf = pytest.importorskip("tensorflow")
        data = tf.data.Dataset.from_tensor_slices((np.arange(13), -np.arange(13))).batch(10)
    for process, wanted in enumerate(([[0, 1, 2, 3], [10, 11]], [[4, 5, 6, 7], [12, 10]])):
        shares = distribution.Distribution(4, 2, process).shard(data)
        shares = [shares[i] for i in range(2)] if kind == "PyDataset" else list(shares)
        assert [np.asarray(x).tolist() for x, _ in shares] == wanted
        assert [np.asarray(y).tolist() for _, y in shares] == [[-i for i in x] for x in wanted]


def test_shares_follow_the_epochs():
    data = ArrayBatches(np.arange(8), np.arange(8), batch_size=8, seed=0)
    shares = [distribution.Distribution(2, 2, i).shard(data) for i in range(2)]
    orders = []
    for _ in range(2):
        orders.append(np.concatenate([share[0][0] for share in shares]).tolist())
        shares[0].on_epoch_end()
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(8)) and orders[0] != orders[1]
    assert len(range(shares[0].num_batches)) == 1


def test_bad_input():
    with pytest.raises(TypeError, match="PyDataset.*got ndarray"):
        distribution.Distribution(2).shard(np.zeros(4))
    with pytest.raises(ValueError, match="should be built"):
        distribution.Distribution(2).prepare(keras.Sequential([keras.layers.Dense(2)]))


def test_one_device_changes_nothing():
    batches = ArrayBatches(np.arange(4), np.arange(4), batch_size=2)
    with distribution.data_parallel() as together:
        assert (together.replicas, together.processes, together.is_chief) == (1, 1, True)
        assert together.shard(batches) is batches
        model = program.build()
        step = model.train_step
        assert together.prepare(model) is model and model.train_step == step
