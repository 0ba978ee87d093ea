"""What work costs: operations and memory accesses in picojoules, each figure with its source."""

import dataclasses

import numpy as np

__all__ = ["ENERGY", "MEMORY", "Work", "cost"]

# Picojoules of a multiply-accumulate and of an accumulate, and bytes of a word: of a weight, an
# input, a potential. A chip whose figure of an operation has its memory in it says so.
ENERGY = {
    # Horowitz, "Computing's energy problem", ISSCC 2014: 45 nm, 0.9 V; add plus multiply.
    "45nm-float32": {"mac": 4.6, "ac": 0.9, "bytes": 4},
    "45nm-float16": {"mac": 1.5, "ac": 0.4, "bytes": 2},
    "45nm-int32": {"mac": 3.2, "ac": 0.1, "bytes": 4},
    "45nm-int8": {"mac": 0.23, "ac": 0.03, "bytes": 1},
    # Davies et al., "Loihi", IEEE Micro 2018: a synaptic operation; what is no spike is charged as
    # on a float32 host.
    "loihi": {"mac": 4.6, "ac": 23.6, "bytes": 4, "with_memory": True},
}

# Picojoules of an access to 4 bytes, by the size of the memory in bytes: points, straight lines
# between them, the last one's beyond.
MEMORY = {
    # Horowitz, ISSCC 2014: 8 KiB, 32 KiB and 1 MiB of SRAM at 45 nm. Charged for a word of 32 bits
    # as Lemaire et al., "An Analytical Estimation of Spiking Neural Networks Energy Efficiency",
    # ICONIP 2022, do.
    "sram-45nm": ((0, 0.0), (2**13, 10.0), (2**15, 20.0), (2**20, 100.0)),
    # Han et al., "EIE", ISCA 2016: 32 bits from DRAM, whatever its size.
    "dram-45nm": ((0, 640.0),),
    # STEP, a benchmark of spiking transformers: 3.12 pJ a bit, whatever the size. SpikingJelly's
    # `SimpleEnergyProfiler` takes it.
    "3.12pJ-per-bit": ((0, 4 * 8 * 3.12),),
}

# Entries of the queue that holds a layer's spikes (Lemaire et al., 2022).
FIFO = 1000


@dataclasses.dataclass(frozen=True)
class Work:
    """Operations and memory accesses.

    Attributes:
        macs: Multiply-accumulates.
        acs: Accumulates.
        address_macs: Multiply-accumulates that compute addresses.
        address_acs: Accumulates that do.
        accesses: A tuple of `(what, words, size)`: what is read or written (`"inputs"`,
            `"weights"`, `"potentials"`, `"outputs"`), how often, and the size in words of the
            memory that it lies in.
    """

    macs: float = 0.0
    acs: float = 0.0
    address_macs: float = 0.0
    address_acs: float = 0.0
    accesses: tuple = ()

    def __add__(self, other):
        return Work(
            self.macs + other.macs,
            self.acs + other.acs,
            self.address_macs + other.address_macs,
            self.address_acs + other.address_acs,
            self.accesses + other.accesses,
        )


def cost(work, energy="45nm-float32", memory=None):
    """What work costs, in picojoules.

    Args:
        work: `Work`.
        energy: Name of the figures of operations, see `ENERGY`.
        memory: Name of the figures of memory accesses, see `MEMORY`; `None` for the operations
            alone.

    Returns:
        A number.

    Example:

    A thousand accumulates, each of which reads a weight from 8 KiB:

    >>> work = Work(acs=1000, accesses=(("weights", 1000, 2048),))
    >>> round(cost(work)), round(cost(work, memory="sram-45nm"))
    (900, 10900)
    """
    figures = ENERGY[energy]
    picojoules = work.macs * figures["mac"] + work.acs * figures["ac"]
    if memory is None or figures.get("with_memory"):
        return picojoules
    picojoules += work.address_macs * figures["mac"] + work.address_acs * figures["ac"]
    sizes, prices = zip(*MEMORY[memory])
    word = figures["bytes"]
    return picojoules + sum(
        words * word / 4 * np.interp(size * word, sizes, prices) for _, words, size in work.accesses
    )


# What follows are the equations of Lemaire et al. (2022), as their authors' program has them
# (LEAT-EDGE/qualia-plugin-snn): the paper's equation 2.4 has a factor too many.


def product_of_spikes(spikes, synops, outputs, parameters, spatial):
    """What spikes cause in a layer that multiplies them.

    Each is read from a queue, and for each output that it reaches a weight is read and added to a
    potential, which is read and written.

    Args:
        spikes: Number of spikes that come in.
        synops: Number of pairs of a spike and an output that it reaches.
        outputs: Outputs of one step.
        parameters: Number of the layer's weights.
        spatial: Whether it is a convolution, which computes where a spike's outputs begin.

    Returns:
        `Work`.
    """
    return Work(
        acs=synops,
        address_macs=2 * spikes * spatial,
        address_acs=synops,
        accesses=(
            ("inputs", spikes, FIFO),
            ("weights", synops, parameters),
            ("potentials", 2 * synops, outputs),
        ),
    )


def product_of_values(macs, inputs, outputs, parameters, steps, spatial, window=0):
    """What a layer costs that multiplies values, zeros too.

    Args:
        macs: Multiply-accumulates of a step.
        inputs: Inputs of a step.
        outputs: Outputs of a step.
        parameters: Number of the layer's weights.
        steps: Number of steps.
        spatial: Whether it is a convolution, which reads each input for each output.
        window: Of a convolution, entries of its kernel for one channel that comes in.

    Returns:
        `Work`.
    """
    return Work(
        macs=steps * macs,
        address_acs=steps * (inputs + outputs + window),
        accesses=(
            ("inputs", steps * (macs if spatial else inputs), inputs),
            ("weights", steps * macs, parameters),
            ("outputs", steps * outputs, outputs),
        ),
    )


def bias(outputs, parameters, steps):
    """What it costs to add a bias to each output of each step."""
    added = steps * outputs
    return Work(acs=added, accesses=(("weights", added, parameters),))


def updates(potentials, steps, decay):
    """What neurons cost without spikes: each step reads and writes each state.

    Args:
        potentials: Number of states, of all neurons.
        steps: Number of steps.
        decay: Whether they decay, which costs a multiply-accumulate each.

    Returns:
        `Work`.
    """
    count = potentials * steps
    return Work(macs=count * decay, accesses=(("potentials", 2 * count, potentials),))


def fired(spikes):
    """What spikes cost where they come from: a reset each, and a place in a queue."""
    return Work(acs=spikes, accesses=(("outputs", spikes, FIFO),))


def scaled(values, parameters, steps, macs, acs):
    """What a normalisation costs that does not fold into weights.

    Args:
        values: Entries of a step.
        parameters: Number of its weights.
        steps: Number of steps.
        macs: Multiply-accumulates of a step.
        acs: Accumulates of a step.

    Returns:
        `Work`.
    """
    count = values * steps
    accesses = (("inputs", count, values), ("weights", 2 * count, parameters))
    return Work(macs * steps, acs * steps, accesses=(*accesses, ("outputs", count, values)))
