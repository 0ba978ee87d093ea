"""Data-parallel training on several devices, processes or hosts, by each backend's own means.

Batches are global. Every replica takes an equal share, gradients are averaged, and a step equals
that of one device on the whole batch, so the learning rate does not depend on the number of
devices. `data_parallel` lists what differs between replicas.
"""

import atexit
import contextlib
import dataclasses
import functools
import json
import os
from collections.abc import Callable

import keras
import numpy as np
from keras import ops, tree

__all__ = ["Distribution", "data_parallel"]


@contextlib.contextmanager
def data_parallel():
    """Within this block models are built, compiled and trained on all available devices.

    On one device nothing changes, so one program serves both. Enter the block before anything is
    computed: multi-host backends must be initialised first.

    * JAX: `keras.distribution.DataParallel` over all devices. Several processes:
      `KERAS_DISTRIBUTION_JOB_ADDRESSES`, `..._NUM_PROCESSES` and `..._PROCESS_ID` in the
      environment, see `keras.distribution.initialize`, which this function calls.
    * TensorFlow: `tf.distribute.MirroredStrategy` over all GPUs (or logical CPUs); with `TF_CONFIG`
      in the environment `MultiWorkerMirroredStrategy`. `fit` of Keras 3.15 fails with the latter;
      this function mends that.
    * PyTorch: `torch.nn.parallel.DistributedDataParallel`, one process a device:
      `torchrun --nproc_per_node=4 program.py`; NCCL on GPUs, Gloo on CPUs.

    All replicas start with the first process's weights. Metrics are those of the global batch. All
    processes must call `fit`, and `evaluate` within the block, with the same arguments. After the
    block `evaluate(data)` uses all examples of unsharded data: on PyTorch each process evaluates
    alone, on the other backends all together. The chief prints and saves after the block; within it
    JAX saves only if all processes do. `keras_snn.callbacks.Resume` needs one file per process.

    Replicas work separately in these points:

    * Batch normalisation. On JAX it uses statistics of the global batch, on TensorFlow and PyTorch
      those of a replica's share. Moving statistics are averaged over the replicas after each step.
      On TensorFlow `BatchNormalization(synchronized=True)` uses the global batch (without the fused
      kernel); Keras does not support that on PyTorch.
    * Random numbers. On TensorFlow all replicas draw the same dropout mask for their shares.
    * Clipping. On TensorFlow Keras clips the gradients of each replica before adding them.
    * Losses that are not means over examples, such as a square of a mean firing rate.

    Yields:
        A `Distribution`.

    Raises:
        RuntimeError: From JAX or TensorFlow, if they computed something before the block.

    Example:

    ```python
    with keras_snn.distribution.data_parallel() as distribution:
        model = keras_snn.applications.SEWResNet18(input_shape=(32, 32, 3), classes=10)
        model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
        model = distribution.prepare(model)
        verbose = "auto" if distribution.is_chief else 0
        model.fit(distribution.shard(data.train), epochs=10, shuffle=False, verbose=verbose)
    accuracy = model.evaluate(data.test, verbose=0)[1]
    ```
    """
    start = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}[keras.backend.backend()]
    with contextlib.ExitStack() as stack:
        yield start(stack)


@dataclasses.dataclass(frozen=True)
class Distribution:
    """The replicas that train together; `data_parallel` makes it.

    Attributes:
        replicas: Number of devices that each take a share of every batch.
        processes: Number of processes.
        process: Number of this process, from 0.

    Example:

    >>> with data_parallel() as distribution:
    ...     distribution.replicas, distribution.is_chief
    (1, True)
    """

    replicas: int = 1
    processes: int = 1
    process: int = 0
    # Whether a process reads only its own part of a batch; TensorFlow splits batches itself.
    _reads_part: bool = True
    _prepare: Callable = dataclasses.field(default=lambda model: None, repr=False)

    @property
    def is_chief(self):
        """Whether this is the first process, the one that prints and saves."""
        return self.process == 0

    def prepare(self, model):
        """Makes a model train together with its replicas, until the block ends.

        On TensorFlow and PyTorch it replaces the model's `train_step`; on PyTorch it also sends
        the first process's weights to all. Call it after `compile` and before `fit`, and freeze
        layers before.

        Args:
            model: A built and compiled `keras.Model`.

        Returns:
            The same model.

        Raises:
            ValueError: If the model is not built.
        """
        if not model.built:
            raise ValueError(f"`model` should be built, but {model.name} has no weights yet.")
        self._prepare(model)
        return model

    def shard(self, data):
        """The part of global batches that this process reads.

        All replicas get equally many examples of a batch. The remainder of an uneven batch (usually
        an epoch's last) is dropped. If a batch has fewer examples than replicas, examples are
        repeated.

        Args:
            data: Batches, a `keras.utils.PyDataset` of arrays or a batched `tf.data.Dataset`, in
                the same order in all processes.

        Returns:
            The same kind of data.

        Raises:
            TypeError: If the data are of another kind.

        Example:

        >>> from keras_snn.datasets import ArrayBatches
        >>> batches = ArrayBatches(np.arange(5), np.arange(5), batch_size=5)
        >>> Distribution(replicas=2, processes=2, process=1).shard(batches)[0][0]
        array([2, 3])
        """
        if isinstance(data, keras.utils.PyDataset):
            return data if self.replicas == 1 else _Shares(data, self)
        if hasattr(data, "element_spec") and hasattr(data, "map"):
            return data if self.replicas == 1 else _share_dataset(data, self)
        raise TypeError(
            "`data` should be a `keras.utils.PyDataset` or a `tf.data.Dataset`, "
            f"got {type(data).__name__}."
        )

    def rows(self, count, maximum=max, arange=np.arange):
        """The indices of the examples that this process reads of a batch of `count`."""
        count_used = maximum(count - count % self.replicas, self.replicas)
        part, parts = (self.process, self.processes) if self._reads_part else (0, 1)
        size = count_used // parts
        return arange(part * size, (part + 1) * size) % count


class _Shares(keras.utils.PyDataset):
    """Shares of the batches of a `PyDataset`."""

    def __init__(self, data, distribution):
        super().__init__(data.workers, data.use_multiprocessing, data.max_queue_size)
        self.data, self.distribution = data, distribution

    @property
    def num_batches(self):
        return self.data.num_batches

    def __getitem__(self, index):
        batch = self.data[index]
        rows = self.distribution.rows(len(tree.flatten(batch)[0]))
        return tree.map_structure(lambda array: array[rows], batch)

    def on_epoch_begin(self):
        self.data.on_epoch_begin()

    def on_epoch_end(self):
        self.data.on_epoch_end()


def _share_dataset(data, distribution):
    """Shares of the batches of a `tf.data.Dataset`."""
    import tensorflow as tf

    def share(*batch):
        count = tf.shape(tree.flatten(batch)[0])[0]
        rows = distribution.rows(count, tf.maximum, tf.range)
        return tree.map_structure(lambda tensor: tf.gather(tensor, rows), batch)

    options = tf.data.Options()  # all workers read all batches, not some of the files each
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return data.map(share).with_options(options)


def _statistics(model):
    """Variables that a training step changes without a gradient: moving statistics."""
    return [v for v in model.non_trainable_variables if "float" in v.dtype]


def _average(variables, mean):
    """Gives all replicas the mean of their values."""
    if variables:
        values = mean([ops.convert_to_tensor(variable) for variable in variables])
        for variable, value in zip(variables, values):
            variable.assign(value)


def _replace(stack, model, **methods):
    """Gives a model other methods, until the block ends."""
    for name, method in methods.items():
        setattr(model, name, method)
        stack.callback(delattr, model, name)


def _jax(stack):
    import jax

    if "KERAS_DISTRIBUTION_NUM_PROCESSES" in os.environ and not jax.distributed.is_initialized():
        keras.distribution.initialize()
    if jax.device_count() == 1:
        return Distribution()
    distribution = keras.distribution.DataParallel(auto_shard_dataset=False)
    stack.enter_context(distribution.scope())
    return Distribution(jax.device_count(), jax.process_count(), jax.process_index())


def _tensorflow(stack):
    import tensorflow as tf

    strategy = _strategy()
    if strategy is None:
        return Distribution()
    stack.enter_context(strategy.scope())

    def mean(values):
        values = [tf.identity(value) for value in values]  # on the replica's device
        return tf.distribute.get_replica_context().all_reduce("MEAN", values)

    def prepare(model):
        def train_step(data):
            logs = type(model).train_step(model, data)
            _average(_statistics(model), mean)
            return logs

        _replace(stack, model, train_step=train_step)

    return Distribution(strategy.num_replicas_in_sync, *_workers(), False, prepare)


def _workers():
    """Number of TensorFlow's processes, and this one's number among them."""
    config = json.loads(os.environ.get("TF_CONFIG") or "{}")
    cluster = config.get("cluster", {})
    tasks = [(job, i) for job in ("chief", "worker") for i in range(len(cluster.get(job, ())))]
    if len(tasks) < 2:
        return 1, 0
    return len(tasks), tasks.index((config["task"]["type"], int(config["task"]["index"])))


# One for all blocks: a second one's messages would be taken for the first one's.
@functools.cache
def _strategy():
    import tensorflow as tf

    if _workers()[0] > 1:
        return _multi_worker()()
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    if len(devices) > 1:
        return tf.distribute.MirroredStrategy([device.name for device in devices])


def _multi_worker():
    import tensorflow as tf

    class Strategy(tf.distribute.MultiWorkerMirroredStrategy):
        def reduce(self, reduce_op, value, axis):
            """As Keras wants it: of each part of a structure, and of scalars in any case."""

            def reduce(part):
                scalar = not self.experimental_local_results(part)[0].shape.rank
                return super(Strategy, self).reduce(reduce_op, part, None if scalar else axis)

            return tf.nest.map_structure(reduce, value)

    return Strategy


def _torch(stack):
    import torch
    from torch import distributed

    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return Distribution()
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    if not distributed.is_initialized():  # the old group may still be ending
        distributed.init_process_group("nccl" if cuda else "gloo")
        atexit.register(distributed.destroy_process_group)

    def prepare(model):
        replica = _TorchReplica(model)
        _replace(
            stack,
            model,
            train_step=replica.train_step,
            get_metrics_result=replica.get_metrics_result,
        )

    world, rank = distributed.get_world_size(), distributed.get_rank()
    return Distribution(world, world, rank, _prepare=prepare)


class _TorchReplica:
    """A model that is called through `DistributedDataParallel`, for Keras's `train_step`."""

    def __init__(self, model):
        import torch

        self.model = model
        self.parallel = torch.nn.parallel.DistributedDataParallel(model)
        # Masks of dropout differ from process to process.
        rank = torch.distributed.get_rank()
        torch.manual_seed(torch.initial_seed() + rank)
        for variable in model.variables:
            if variable.name == "seed_generator_state":
                variable.assign(variable + ops.cast([rank, 0], variable.dtype))

    def __call__(self, *args, **kwargs):
        return self.parallel(*args, **kwargs)

    def __getattr__(self, name):
        return getattr(self.model, name)

    def train_step(self, data):
        import torch

        count = torch.distributed.get_world_size()
        logs = type(self.model).train_step(self, data)
        _average(_statistics(self.model), lambda values: [v / count for v in _all_sum(values)])
        return logs

    def get_metrics_result(self):
        """Metrics of all processes: their variables are sums over examples."""
        variables = self.model.metrics_variables
        own = [ops.copy(variable.value) for variable in variables]
        for variable, value in zip(variables, _all_sum(own)):
            variable.assign(value)
        result = type(self.model).get_metrics_result(self.model)
        for variable, value in zip(variables, own):
            variable.assign(value)
        return result


def _all_sum(values):
    """Sums of tensors over all PyTorch processes, in one message."""
    import torch

    flat = torch.cat([value.detach().reshape(-1).float() for value in values])
    torch.distributed.all_reduce(flat)
    parts = flat.split([value.numel() for value in values])
    return [part.reshape(value.shape) for part, value in zip(parts, values)]
