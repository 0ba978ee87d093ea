"""Thresholds between two ways to compute the same, each with the machine it was measured on.

The results do not depend on them. `benchmarks/neuron.py` and `benchmarks/network.py` measure them.
"""

# Steps up to which the loop over time is unrolled where it is compiled: compile time grows with
# the unrolled length, and a rolled loop runs a little slower. (AMD EPYC, two cores.)
UNROLL_LIMIT = {"tensorflow": 64, "jax": 16}

# Longer sequences of a fused neuron are a loop under XLA, which computes an unrolled step anew for
# each later one. (AMD EPYC, two cores.)
XLA_UNROLL_LIMIT = 4

# Without a graph, TensorFlow runs longer sequences as compiled functions only. (AMD EPYC, two
# cores.)
EAGER_LIMIT = 64

# Compiled functions that are kept: a threshold that changes from epoch to epoch makes new ones.
COMPILED_FUNCTIONS = 256

# Geometries of convolutions whose padding and outputs are kept: more than any network has.
GEOMETRIES = 1024

# Longer plain loops take PyTorch's compiler minutes. (AMD EPYC, two cores.)
TORCH_COMPILE_UNROLL_LIMIT = 32

# Elements, all steps together, from which PyTorch's kernels of any neuron pay: what a step does is
# written down at each call. In the plain loop a step takes at least as long as so many elements.
# (AMD EPYC, two cores.)
TORCH_ELEMENTS = 2**18
TORCH_STEP_ELEMENTS = 2**14

# Elements of which the plain loop has cost as much as the compiler will: some 5 s. (AMD EPYC, two
# cores.)
TORCH_COMPILE_AFTER = 2**28

# Elements that one operation of PyTorch touches: few enough for the cache that cores share, enough
# to occupy all. (AMD EPYC with and without AVX-512, two cores.)
TILE = 2**19

# Neurons of one program of the Triton kernels. Never measured: no GPU was at hand.
TRITON_BLOCK = 256

# TensorFlow and PyTorch, without XLA, take the product of matrices for maps of one pixel, and for
# maps of up to `SMALL_MAP` pixels whose kernel has `LARGE_KERNEL` weights or more. (AMD EPYC with
# and without AVX-512, two cores.)
SMALL_MAP = 4
LARGE_KERNEL = 2**18
