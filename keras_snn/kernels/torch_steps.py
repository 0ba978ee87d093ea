"""Whole sequences of any neuron on PyTorch, by nothing but its `step`, compiled.

PyTorch compiles no loop, so the loop is Python's. The step is one kernel of PyTorch's compiler; its
gradient, which needs the states before each step, is another. To make them takes seconds: a neuron
has them once its plain loop has worked about as long, by a count of elements that is the same in
every run. Before that, and where there is no compiler, the plain loop computes the same.

What a step does is written down at every call, for two examples, and names the kernels: a threshold
that has changed has others. `steps.py` says what a step may be.
"""

import collections
import dataclasses
import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode

from keras_snn.graph import AutocastScope
from keras_snn.kernels import tuning
from keras_snn.kernels.steps import Loop, UnfitError, observed, pure

__all__ = ["run"]


def run(cell, sequences, states, mask=None, training=False):
    """Runs a cell over a sequence; see `keras_snn.kernels.steps.run`."""
    # Few elements take as long as their operations take to start.
    elements = max(sequences.numel(), sequences.shape[1] * tuning.TORCH_STEP_ELEMENTS)
    if elements < tuning.TORCH_ELEMENTS or not _is_plain(sequences):
        return None
    work, found = WORK.setdefault(cell, Work()), None
    due = work.elements >= tuning.TORCH_COMPILE_AFTER
    if due or work.compiled:
        found = _by_kernels(cell, sequences, states, mask, due)
        work.compiled |= found is not None
    if due:
        work.elements = 0
    if found is None:
        work.elements += elements
    return found


def _by_kernels(cell, sequences, states, mask, make):
    """What `run` gives, if there are kernels; those not there are made, if `make`."""
    parameters = [variable.value for variable in cell.variables]
    keep = [] if mask is None else [mask.to(sequences.dtype)]
    given = [sequences, *keep, *states, *parameters]
    if not all(z.is_floating_point() for z in given):
        return None
    given = [z.contiguous() for z in given]
    loop = Loop(pure(cell), len(keep), len(states))
    kernels = _find(cell, loop, given, make)
    if kernels is None:
        return None
    outputs, *states = Sequence.apply(loop, kernels, *given)
    return outputs, states


def _is_plain(x):
    """Whether `x` has numbers, on a processor, that nothing but autograd watches."""
    return (
        type(x) in (torch.Tensor, torch.nn.Parameter)
        and x.is_cpu
        and x.numel() > 0
        and x.dtype in (torch.float32, torch.float64)  # kernels round shorter ones less often
        and not torch.compiler.is_compiling()
        and not torch.compiler.is_exporting()
        and not torch.jit.is_tracing()
        and _get_current_dispatch_mode() is None
        and not torch._C._are_functorch_transforms_active()
        and torch.autograd.forward_ad._current_level < 0
        # What is computed again in the backward pass must be what was computed before.
        and torch._C._autograd._top_saved_tensors_default_hooks(True) is None
    )


# `step(*inputs, *results)` writes the results, output and states; `gradient(*upstream, *inputs, dx,
# *sums)` the gradient to the input, and those to the states in the place of the upstream ones; it
# adds those to the weights to the sums.
Kernels = collections.namedtuple("Kernels", ["step", "gradient"])

# Each by all that it computes; `None` for what PyTorch could not compile.
KERNELS = collections.OrderedDict()


@dataclasses.dataclass
class Work:
    """Of a cell: elements of its plain loop since new kernels were tried, whether it has some."""

    elements: int = 0
    compiled: bool = False


WORK = weakref.WeakKeyDictionary()


def _find(cell, loop, given, make):
    """The kernels of what a cell computes now; those not there are made, if `make`."""
    differentiated = torch.is_grad_enabled() and any(z.requires_grad for z in given)
    first = [z.detach() for z in given]
    first = [z[:, 0] for z in first[: 1 + loop.masked]] + first[1 + loop.masked :]
    with torch.no_grad(), AutocastScope(None):
        try:
            key = observed(cell, lambda: _described(loop, first, differentiated), KERNELS)
        except UnfitError:
            return None
        if key is not None and key not in KERNELS and make:
            try:
                KERNELS[key] = _compile(loop, first, differentiated)
            except Exception:  # no compiler, or one that does not know the step's operations
                KERNELS[key] = None
            if len(KERNELS) > tuning.COMPILED_FUNCTIONS:
                KERNELS.popitem(last=False)
    return KERNELS.get(key)


def _compile(loop, first, differentiated):
    """Makes kernels; `first` is the first step's inputs, states and weights."""
    inputs, states, parameters = loop.split(first)
    count, size = len(first), 1 + len(states)

    def step(*given):
        _write(given[count:], _results(loop, given[:count]))

    def gradient(*given):
        upstream, given, dx, sums = (
            given[:size],
            given[size : size + count],
            given[size + count],
            given[size + count + 1 :],
        )
        slopes = _slopes(loop, upstream, given)
        _write([dx, *upstream[1:]], slopes[:size])
        for total, slope in zip(sums, slopes[size:]):
            total.add_(slope)

    output, upstream, dx = (_like_step(inputs[0]) for _ in range(3))
    after, sums = ([torch.zeros_like(z) for z in some] for some in (states, parameters))
    return Kernels(
        _kernel(step, *first, output, *after),
        _kernel(gradient, upstream, *after, *first, dx, *sums) if differentiated else None,
    )


def _like_step(x):
    """Zeros with the strides of one step of a sequence."""
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype).zero_()


def _write(places, values):
    for place, value in zip(places, values, strict=True):
        place.copy_(value)


def _kernel(function, *given):
    """A function of tensors as one kernel."""
    import torch._inductor  # slow to import
    from torch.fx.experimental.proxy_tensor import make_fx

    graph = make_fx(function)(*given)
    # `torch.compile` would check at every call what `KERNELS` knows. Of more threads, processes
    # would stay.
    kernel = torch._inductor.compile(graph, list(given), options={"compile_threads": 1})
    kernel(*given)
    return kernel


def _results(loop, given):
    """Output and states of one step, from all that it is given."""
    output, after = loop.once(*loop.split(given))
    return [output, *after]


def _slopes(loop, upstream, given):
    """Gradients of one step to its input, the states and the weights."""
    with torch.enable_grad():
        leaves = [z.detach().requires_grad_() for z in given]
        results = [(z, g) for z, g in zip(_results(loop, leaves), upstream) if z.requires_grad]
        wanted = leaves[:1] + leaves[1 + loop.masked :]
        if not results:
            return [torch.zeros_like(z) for z in wanted]
        results, upstream = zip(*results)
        return torch.autograd.grad(
            results, wanted, upstream, allow_unused=True, materialize_grads=True
        )


def _described(loop, first, differentiated):
    """`(text, text)` of what a step of these computes, and its gradient, and of their shapes."""
    batched = 1 + loop.masked + loop.states
    # Of two examples: what is summed over the batch shows.
    two = [z[:1].repeat(2, *[1] * (z.ndim - 1)) for z in first[:batched]] + first[batched:]
    like = two[:1] + two[1 + loop.masked : batched]
    upstream = [torch.zeros_like(z) for z in like]
    with Record([*two, *upstream]) as record:
        results = _results(loop, two)
        if differentiated:
            _slopes(loop, upstream, two)
    if any(a.dtype != b.dtype or a.shape != b.shape for a, b in zip(results, like, strict=True)):
        raise UnfitError
    shapes = [f"{z.dtype} {tuple(z.shape)} {z.stride()}" for z in first]
    text = "\n".join([*shapes, *record.lines, *map(record.name, results)])
    return text, text


# What a step may do beside the operations that PyTorch calls pointwise.
OTHERS = frozenset(
    """_to_copy _unsafe_view alias clone detach expand full full_like lift_fresh lift_fresh_copy
    ones_like reshape scalar_tensor squeeze sum unsqueeze view zeros_like""".split()  # noqa: SIM905
)


class Record(TorchDispatchMode):
    """Writes down what is computed within, each tensor by its number.

    Args:
        given: The first tensors.

    Raises:
        UnfitError: Within, if an operation mixes elements, draws numbers, writes in place, or reads
            a tensor that was not given.
    """

    def __init__(self, given):
        super().__init__()
        self.kept, self.numbers, self.lines = [], {}, []
        self._number(given)

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        name = operation.overloadpacket.__name__
        known = name in OTHERS or torch.Tag.pointwise in operation.tags
        if not known or operation._schema.is_mutable:
            raise UnfitError
        kwargs = kwargs or {}
        named = {key: self.name(z) for key, z in kwargs.items()}
        self.lines.append(f"{operation} {[self.name(z) for z in args]} {named}")
        result = operation(*args, **kwargs)
        self._number([result])
        return result

    def _number(self, tensors):
        self.kept.extend(tensors)  # or the next one might have the memory of one of these
        for z in tensors:
            self.numbers.setdefault(_place(z), len(self.numbers))

    def name(self, z):
        """The number of a tensor; of one that stands for a number its value."""
        if not torch.is_tensor(z):
            return z
        if _place(z) in self.numbers:
            return f"%{self.numbers[_place(z)]}"
        if z.numel() > 1 or z.requires_grad:
            raise UnfitError
        return f"{z.dtype} {z.item()}"


def _place(z):
    return z.data_ptr(), tuple(z.shape), z.stride()


class Sequence(torch.autograd.Function):
    """All steps; its inputs are a `Loop`, the kernels and what the loop is given."""

    @staticmethod
    def forward(ctx, loop, kernels, *given):
        sequences, states, parameters = loop.split(given)
        keep, before, outputs = any(ctx.needs_input_grad), [], torch.empty_like(given[0])
        for *inputs, output in zip(*(z.unbind(1) for z in (*sequences, outputs))):
            after = [torch.empty_like(z) for z in states]
            kernels.step(*inputs, *states, *parameters, output, *after)
            before.extend(states if keep else ())
            states = after
        ctx.loop, ctx.kernels = loop, kernels
        if keep:
            ctx.save_for_backward(*given, *before)
        return outputs, *states

    @staticmethod
    def backward(ctx, *upstream):
        loop, saved = ctx.loop, ctx.saved_tensors
        sequences, states, parameters = loop.split(saved[: len(ctx.needs_input_grad) - 2])
        masks = [None] * loop.masked
        if torch.is_grad_enabled():  # for second derivatives
            dx, *slopes = _slopes_again(loop, sequences, states, parameters, upstream)
            return None, None, dx, *masks, *slopes
        before = saved[len(ctx.needs_input_grad) - 2 :]
        dx, sums = torch.empty_like(sequences[0]), [torch.zeros_like(p) for p in parameters]
        grad_outputs, *grad_states = (z.contiguous() for z in upstream)
        grad_states = [z.clone() for z in grad_states]  # they are written over
        steps = zip(*(z.unbind(1) for z in (grad_outputs, dx, *sequences)))
        for t, (grad_output, slope, *inputs) in reversed(list(enumerate(steps))):
            states = before[t * loop.states : (t + 1) * loop.states]
            ctx.kernels.gradient(
                grad_output, *grad_states, *inputs, *states, *parameters, slope, *sums
            )
        return None, None, dx, *masks, *grad_states, *sums


def _slopes_again(loop, sequences, states, parameters, upstream):
    """Gradients by the plain loop, which can be differentiated."""
    inputs, outputs = [sequences[0], *states, *parameters], []
    for step in zip(*(z.unbind(1) for z in sequences)):
        output, states = loop.once(step, states, parameters)
        outputs.append(output)
    wanted = [z for z in inputs if z.requires_grad]
    found = torch.autograd.grad(
        [torch.stack(outputs, 1), *states], wanted, upstream, create_graph=True, allow_unused=True
    )
    slopes = dict(zip(map(id, wanted), found))
    return [slopes.get(id(z)) for z in inputs]
