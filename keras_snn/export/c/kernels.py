"""Operations that look at more than one value: functions in C, and how they are called."""

import numpy as np

from keras_snn.export.c.factors import factors, quantized, real_factors, scale
from keras_snn.export.c.pointwise import limits, number

__all__ = ["INDEXED", "KERNELS", "SOURCES", "WEIGHED", "compressed", "contiguous"]

# The functions by name. `value`, `weight` and `total` are types of the whole file.
SOURCES = {
    "clamp": """
static int32_t clamp(int32_t x, int32_t low, int32_t high)
{
    return x < low ? low : x > high ? high : x;
}
""",
    "clampf": """
static float clampf(float x, float low, float high)
{
    return x < low ? low : x > high ? high : x;
}
""",
    "clamp_real": """
static int32_t clamp_real(double x, int32_t low, int32_t high)
{
    return x < low ? low : x > high ? high : (int32_t)x;
}
""",
    "turned": """
/* Where a value of a ring is, the oldest step being at `head`. */
static int turned(int head, int index, int size)
{
    return head + index < size ? head + index : head + index - size;
}
""",
    "rescale": """
/* x * multiplier * 2^(shift - 31), rounded twice, as on ARM's vector units. */
static int32_t rescale(int32_t x, int32_t multiplier, int shift)
{
    const int right = shift > 0 ? 0 : -shift;
    const int64_t product = (int64_t)x * ((int64_t)1 << (shift > 0 ? shift : 0)) * multiplier;
    const int64_t nudge = product >= 0 ? (int64_t)1 << 30 : 1 - ((int64_t)1 << 30);
    const int64_t high = (product + nudge) / ((int64_t)1 << 31);
    const int64_t mask = ((int64_t)1 << right) - 1;
    return (int32_t)((high >> right) + ((high & mask) > (mask >> 1) + (high < 0)));
}
""",
    "rescale_once": """
/* The same, rounded once, halves away from zero: in dense layers, as TensorFlow Lite has it. */
static int32_t rescale_once(int32_t x, int32_t multiplier, int shift)
{
    const int64_t product = (int64_t)x * multiplier;
    return (int32_t)((product + ((int64_t)1 << (30 - shift)) - (product < 0)) >> (31 - shift));
}
""",
    "rescale_wide": """
/* x * multiplier * 2^(shift - 31) with 15 bits of the multiplier, as TensorFlow Lite has it. */
static int32_t rescale_wide(int64_t x, int32_t multiplier, int shift)
{
    const int64_t few = multiplier < 0x7FFF0000 ? (multiplier + (1 << 15)) >> 16 : 0x7FFF;
    return (int32_t)((x * few + ((int64_t)1 << (14 - shift))) >> (15 - shift));
}
""",
    "weigh": """
/* Convolutions, and dense layers, which are convolutions of one pixel. */
struct layer {
    const weight *weights; /* [row][column][input][output of the group] */
    FEW
    const total *bias;
    SCALES
    int rows, columns, inputs;
    int out_rows, out_columns, outputs;
    int groups, kernel_rows, kernel_columns;
    int row_stride, column_stride, row_dilation, column_dilation, top, left;
    EDGES
    RING
};

""",
    "add_all": """
/* Adds what a pixel gives to the outputs, by all weights of one place of the kernel. */
static void add_all(const struct layer *l, const value *pixel, int place)
{
    const int share = l->outputs / l->groups, from = l->inputs / l->groups;
    const weight *w = l->weights + place * l->inputs * share;
    for (int k = 0; k < l->inputs; ++k, w += share) {
        const total v = (total)(pixel[k] - l->zero);
        total *sums = totals + k / from * share;
        if (SKIP && v == 0)
            continue;
        for (int o = 0; o < share; ++o)
            sums[o] += v * w[o];
    }
}
""",
    "add_few": """
/* The same by those weights that are not 0. */
static void add_few(const struct layer *l, const value *pixel, int place)
{
    const int share = l->outputs / l->groups, from = l->inputs / l->groups;
    const uint16_t *counts = l->counts + place * l->inputs;
    const uint8_t *gaps = l->gaps + l->starts[place];
    const weight *w = l->weights + l->starts[place];
    for (int k = 0; k < l->inputs; gaps += counts[k], w += counts[k], ++k) {
        const total v = (total)(pixel[k] - l->zero);
        total *sum = totals + k / from * share;
        if (SKIP && v == 0)
            continue;
        for (int n = 0; n < counts[k]; ++n) {
            sum += gaps[n];
            *sum += v * w[n];
        }
    }
}
""",
    "sum_up": """
static void weigh(const struct layer *l, const value *x, value *yHEAD)
{
    for (int r = 0; r < l->out_rows; ++r) {
        for (int c = 0; c < l->out_columns; ++c, y += l->outputs) {
            for (int o = 0; o < l->outputs; ++o)
                totals[o] = l->bias[o];
            for (int i = 0; i < l->kernel_rows; ++i) {
                const int row = r * l->row_stride - l->top + i * l->row_dilation;
                for (int j = 0; j < l->kernel_columns; ++j) {
                    const int column = c * l->column_stride - l->left + j * l->column_dilation;
                    if (row < 0 || row >= l->rows || column < 0 || column >= l->columns)
                        continue;
                    PIXELS
                }
            }
            for (int o = 0; o < l->outputs; ++o)
                y[o] = FINISH;
        }
    }
}
""",
    "pool": """
struct window {
    int rows, columns, channels, out_rows, out_columns;
    int kernel_rows, kernel_columns, row_stride, column_stride, top, left;
};

""",
    "pool_max": """
static void pool_max(const struct window *p, const value *x, value *y)
{
    for (int r = 0; r < p->out_rows; ++r)
        for (int c = 0; c < p->out_columns; ++c)
            for (int k = 0; k < p->channels; ++k) {
                value largest = LOWEST;
                for (int i = 0; i < p->kernel_rows; ++i)
                    for (int j = 0; j < p->kernel_columns; ++j) {
                        const int row = r * p->row_stride - p->top + i;
                        const int column = c * p->column_stride - p->left + j;
                        if (row < 0 || row >= p->rows || column < 0 || column >= p->columns)
                            continue;
                        const value v = x[(row * p->columns + column) * p->channels + k];
                        largest = v > largest ? v : largest;
                    }
                *y++ = largest;
            }
}
""",
    "pool_mean": """
static void pool_mean(const struct window *p, const value *x, value *y)
{
    for (int r = 0; r < p->out_rows; ++r)
        for (int c = 0; c < p->out_columns; ++c)
            for (int k = 0; k < p->channels; ++k) {
                total sum = 0;
                int count = 0;
                for (int i = 0; i < p->kernel_rows; ++i)
                    for (int j = 0; j < p->kernel_columns; ++j) {
                        const int row = r * p->row_stride - p->top + i;
                        const int column = c * p->column_stride - p->left + j;
                        if (row < 0 || row >= p->rows || column < 0 || column >= p->columns)
                            continue;
                        sum += x[(row * p->columns + column) * p->channels + k];
                        ++count;
                    }
                *y++ = (value)MEAN;
            }
}
""",
    "reduce": """
/* Sums of `count` values that are `inner` apart, times a factor. */
static void reduce(const value *x, value *y, int outer, int count, int inner, FACTOR)
{
    for (int i = 0; i < outer; ++i)
        for (int k = 0; k < inner; ++k) {
            total sum = 0;
            for (int j = 0; j < count; ++j)
                sum += (total)x[(i * count + j) * inner + k]OFFSET;
            *y++ = REDUCED;
        }
}
""",
    "softmax": """
static void softmax(const value *x, value *y, int rows, int count, float factor)
{
    for (int r = 0; r < rows; ++r, x += count, y += count) {
        value largest = x[0];
        float sum = 0;
        for (int i = 1; i < count; ++i)
            largest = x[i] > largest ? x[i] : largest;
        for (int i = 0; i < count; ++i)
            sum += expf(factor * (float)(x[i] - largest));
        for (int i = 0; i < count; ++i) {
            const float share = expf(factor * (float)(x[i] - largest)) / sum;
            y[i] = SHARE;
        }
    }
}
""",
}


def _weigh(op, write):
    """A convolution or dense layer."""
    x, kernel, bias = (*op.inputs, None)[:3]
    y, weights = op.output, kernel.data
    if weights is None:
        raise NotImplementedError
    options, groups, padding, pixels = op.options, 1, [0, 0], x.size // weights.shape[-1]
    if op.kind == "FULLY_CONNECTED":
        weights, shape, out_shape = weights.T[None, None], (1, pixels), (1, pixels)
        strides = dilations = (1, 1)
    else:
        depthwise = op.kind == "DEPTHWISE_CONV_2D"
        if len(x.shape) != 4 or x.shape[0] != 1:
            raise NotImplementedError
        shape, out_shape = x.shape[1:3], y.shape[1:3]
        strides = options.strideH, options.strideW
        dilations = options.dilationHFactor, options.dilationWFactor
        groups = x.shape[3] if depthwise else x.shape[3] // weights.shape[3]
        if depthwise:  # (1, rows, columns, outputs)
            weights = weights[0].reshape(*weights.shape[1:3], groups, -1)
        else:  # (outputs, rows, columns, inputs of the group)
            weights = weights.reshape(groups, -1, *weights.shape[1:])
            weights = weights.transpose(2, 3, 0, 4, 1)
            weights = weights.reshape(*weights.shape[:2], x.shape[3], -1)
        padding = op.padding
        if padding is None:
            padding = _padding(options, shape, out_shape, weights.shape, strides, dilations)
    outputs, kernel_columns = y.shape[-1], weights.shape[1]
    if op.steps:  # beside each other in memory as places of the kernel
        weights = weights.reshape(len(weights), -1, weights.shape[2] // len(op.steps), outputs)
    low, high = limits(op)
    few = compressed(weights)
    stored = {"weights": weights} if few is None else few
    fields = {name: write.constant(array) for name, array in stored.items()}
    bias_kind = None if bias is None else bias.kind
    bias = np.zeros(outputs) if bias is None else bias.data
    # 0 in the place of -0, which a term of 0 would change.
    fields["bias"] = write.constant(bias + np.zeros(1, bias.dtype), write.total)
    write.stored[op] = {
        "weights": weights.size,
        "zeros": int(weights.size - np.count_nonzero(weights)),
        "compressed": few is not None,
        "bytes": sum(array.nbytes for array in stored.values()),
        "uncompressed_bytes": weights.nbytes,
    }
    zero = 0
    if quantized(y) and y.kind == "int16":
        if bias_kind not in (None, "int64"):  # sums of 32 bits are rounded otherwise
            raise NotImplementedError
        real = op.kind == "FULLY_CONNECTED"
        multipliers, shifts = zip(*factors(op))
        fields["factor"] = write.constant(real_factors(op), "double") if real else 0
        fields["multiplier"] = 0 if real else write.constant(np.array(multipliers), "int32_t")
        fields["shift"] = 0 if real else write.constant(np.array(shifts), "int8_t")
        write.use("clamp_real", "rescale_wide")
    elif quantized(y):
        zero, (multipliers, shifts) = x.zero, zip(*factors(op))
        fields["multiplier"] = write.constant(np.array(multipliers), "int32_t")
        fields["shift"] = write.constant(np.array(shifts), "int8_t")
        fields |= {"out_zero": y.zero, "once": int(op.kind == "FULLY_CONNECTED")}
    fields |= dict(zip(("rows", "columns"), shape)) | {"inputs": weights.shape[2]}
    fields |= dict(zip(("out_rows", "out_columns"), out_shape)) | {"outputs": outputs}
    fields |= {"groups": groups, "kernel_rows": weights.shape[0]}
    fields |= {"kernel_columns": kernel_columns, "row_stride": strides[0]}
    fields |= {"column_stride": strides[1], "row_dilation": dilations[0]}
    fields |= {"column_dilation": dilations[1], "top": padding[0], "left": padding[1]}
    fields |= {"zero": zero, "low": number(low), "high": number(high)}
    head = ""
    if write.turning:
        begins = op.steps or [0]
        fields["begins"] = write.constant(np.array(begins), "int32_t")
        fields |= {"steps": len(begins), "size": write.root(x).size}
        head = f", {write.head(x)}"
        write.use("turned")
    write.totals = max(write.totals, outputs)
    write.use("weigh", "add_all" if few is None else "add_few", "sum_up")
    write.use("clampf" if write.value == "float" else "clamp")
    if quantized(y) and y.kind == "int8":
        write.use("rescale", "rescale_once")
    layer = write.struct("layer", fields)
    return f"weigh(&{layer}, {write.name(x)}, {write.name(y)}{head});"


def compressed(weights):
    """The weights that are not 0, by input, where that takes fewer bytes than all of them.

    Args:
        weights: `(rows, columns, inputs, outputs of the group)`.

    Returns:
        `None` if it does not, else arrays: the `"weights"`, in order, the `"gaps"` from the output
        of each to that of the next (of the first to output 0), how many there are at each place
        for each input (`"counts"`), and where those of each place begin (`"starts"`). A gap of more
        than 255 has weights of 0 in it.

    Example:

    >>> weights = np.zeros((1, 1, 2, 12), "int8")
    >>> weights[..., 0, [3, 7]] = 5, 6
    >>> {name: array.tolist() for name, array in compressed(weights).items()}
    {'weights': [5, 6], 'gaps': [3, 4], 'counts': [2, 0], 'starts': [0]}
    """
    rows = weights.reshape(-1, weights.shape[-1])
    row, output = np.nonzero(rows)
    gaps = np.diff(output, prepend=0)
    first = np.diff(row, prepend=-1) > 0
    gaps[first] = output[first]
    lengths = 1 + np.maximum(gaps - 1, 0) // 255
    last = np.cumsum(lengths) - 1
    total = max(int(lengths.sum()), 1)  # C has no empty arrays
    values, steps = np.zeros(total, weights.dtype), np.full(total, 255, "uint8")
    values[last], steps[last] = rows[row, output], gaps - 255 * (lengths - 1)
    counts = np.bincount(row, lengths, len(rows)).astype("int64")
    places = counts.reshape(-1, weights.shape[2]).sum(1)
    found = {
        "weights": values,
        "gaps": steps,
        "counts": counts.astype("uint16"),
        "starts": (np.cumsum(places) - places).astype("uint32"),
    }
    fits = counts.max(initial=0) < 2**16
    smaller = sum(array.nbytes for array in found.values()) < weights.nbytes
    return found if fits and smaller else None


def _padding(options, shape, out_shape, kernel, strides, dilations):
    """Rows and columns of zeros in front."""
    if options.padding == 1:  # VALID
        return [0, 0]
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations)]
    return [
        max((out - 1) * stride + size - n, 0) // 2
        for out, stride, size, n in zip(out_shape, strides, reach, shape)
    ]


WINDOW = (
    *("rows", "columns", "channels", "out_rows", "out_columns", "kernel_rows", "kernel_columns"),
    *("row_stride", "column_stride", "top", "left"),
)


def _pool(function):
    def call(op, write):
        x, y, options = op.inputs[0], op.output, op.options
        if getattr(options, "fusedActivationFunction", 0) or x.shape[0] != 1:
            raise NotImplementedError
        kernel = options.filterHeight, options.filterWidth
        strides = options.strideH, options.strideW
        padding = _padding(options, x.shape[1:3], y.shape[1:3], kernel, strides, (1, 1))
        sizes = (*x.shape[1:], *y.shape[1:3], *kernel, *strides, *padding)
        window = write.struct("window", dict(zip(WINDOW, sizes)))
        write.use("pool", function)
        return f"{function}(&{window}, {write.name(x)}, {write.name(y)});"

    return call


def _reduce(mean):
    def call(op, write):
        x, y = op.inputs[0], op.output
        axes = np.sort(np.ravel(op.inputs[1].data) % len(x.shape))
        if len(axes) and np.any(np.diff(axes) != 1):
            raise NotImplementedError
        first, last = int(axes[0]), int(axes[-1]) + 1
        outer, count, inner = (
            int(np.prod(part)) for part in (x.shape[:first], x.shape[first:last], x.shape[last:])
        )
        if quantized(y):
            ((factor, shift),) = factors(op)
            if mean:
                more = min(int(np.log2(count)), 32, 31 + shift)
                factor, shift = (factor << more) // count, shift - more
            extra = f"{x.zero}, {factor}, {shift}, {y.zero}"
            write.use("clamp", "rescale")
        else:
            extra = number(np.float32(1 / count if mean else 1))
        write.use("reduce")
        sizes = f"{outer}, {count}, {inner}"
        return f"reduce({write.name(x)}, {write.name(y)}, {sizes}, {extra});"

    return call


def _softmax(op, write):
    x, y = op.inputs[0], op.output
    if y.kind == "int16":  # by tables
        raise NotImplementedError
    factor = op.options.beta * (scale(x) if quantized(x) else 1)
    write.use("softmax")
    if quantized(y):
        write.use("clamp")
        write.share = f"clamp((int32_t)(share / {number(y.scale[0])} + 0.5f) + {number(y.zero)}, "
        write.share += "INT8_MIN, INT8_MAX)"
    sizes = f"{x.size // x.shape[-1]}, {x.shape[-1]}, {number(np.float32(factor))}"
    return f"softmax({write.name(x)}, {write.name(y)}, {sizes});"


def _push(op, write):
    """The present step over the oldest one of a ring."""
    (x,), ring = op.inputs, op.output
    place, head = write.names[ring], write.head(ring)
    return (
        f"memcpy({place} + {head}, {write.names[write.root(x)]}, {x.size} * sizeof *{place});\n"
        f"{head} = ({head} + {x.size}) % {ring.size};"
    )


WEIGHED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
KERNELS = {
    **dict.fromkeys(WEIGHED, _weigh),
    "PUSH": _push,
    "MAX_POOL_2D": _pool("pool_max"),
    "AVERAGE_POOL_2D": _pool("pool_mean"),
    "MEAN": _reduce(True),
    "SUM": _reduce(False),
    "SOFTMAX": _softmax,
}


def place(shape, strides, start=0):
    """The index, in C, of what entry `i` of a tensor of a shape reads.

    Args:
        shape: Shape of the output.
        strides: How far apart the entries read are along each axis.
        start: The first of them.
    """
    terms, behind = [] if not start else [str(start)], int(np.prod(shape))
    if not start and strides == _strides(shape):
        return "i"
    for n, stride in zip(shape, strides):
        behind //= n
        if n > 1 and stride:
            terms.append(f"{_coordinate(behind, n)} * {stride}")
    return " + ".join(terms) or "0"


def _coordinate(behind, n):
    return f"i / {behind} % {n}" if behind > 1 else f"i % {n}"


def _strides(shape):
    return [int(np.prod(shape[k + 1 :])) for k in range(len(shape))]


def broadcast(shape, output):
    """The index, in C, of an operand of a shape in an operation with an output."""
    shape = (1,) * (len(output) - len(shape)) + tuple(shape)
    first = next((k for k, n in enumerate(shape) if n > 1), len(shape))
    if shape[first:] != tuple(output[first:]):
        return place(output, [0 if n == 1 else s for n, s in zip(shape, _strides(shape))])
    size = int(np.prod(shape))
    return "i" if size == int(np.prod(output)) else "0" if size == 1 else f"i % {size}"


def _sliced(op):
    """How far apart the entries of a slice are along its axes, and where the first one is."""
    x = op.inputs[0]
    start, steps = [int(n) for n in np.ravel(op.inputs[1].data)], [1] * len(x.shape)
    if op.kind == "STRIDED_SLICE":
        steps = [int(n) for n in np.ravel(op.inputs[3].data)]
        options = op.options
        if options.ellipsisMask or options.newAxisMask or min(steps) < 1:
            raise NotImplementedError
        start = [0 if options.beginMask >> k & 1 else n for k, n in enumerate(start)]
        start = [n % s for n, s in zip(start, x.shape)]
        kept = [k for k in range(len(x.shape)) if not options.shrinkAxisMask >> k & 1]
    else:
        kept = range(len(x.shape))
    strides = _strides(x.shape)
    first = sum(n * s for n, s in zip(start, strides))
    return [strides[k] * steps[k] for k in kept], first


def _slice(op, read):
    strides, first = _sliced(op)
    return read(op.inputs[0], place(op.output.shape, strides, first))


def contiguous(op):
    """Where the values of a slice begin, if they follow each other in memory; else `None`."""
    shape = op.output.shape
    try:
        strides, first = _sliced(op)
    except NotImplementedError:
        return None
    apart = [s != t for n, s, t in zip(shape, strides, _strides(shape)) if n > 1]
    return None if any(apart) else first


def _gather(op, read):
    x, rows = op.inputs
    if op.options.axis or op.options.batchDims:
        raise NotImplementedError
    inner = x.size // x.shape[0]
    row = read(rows, "0" if rows.size == 1 else f"i / {inner}")
    return read(x, f"{row} * {inner} + i % {inner}")


def _transpose(op, read):
    x = op.inputs[0]
    strides = _strides(x.shape)
    return read(x, place(op.output.shape, [strides[k] for k in np.ravel(op.inputs[1].data)]))


def _concatenate(op, read):
    y, axis = op.output, op.options.axis % len(op.output.shape)
    behind, end, pieces = int(np.prod(y.shape[axis + 1 :])), 0, []
    for x in op.inputs:
        pieces.append((end, read(x, place(y.shape, _strides(x.shape), -end * behind or 0))))
        end += x.shape[axis]
    coordinate = _coordinate(behind, y.shape[axis])
    text = pieces[-1][1]
    for (begin, _), (_, piece) in zip(pieces[:0:-1], pieces[-2::-1]):
        text = f"({coordinate} < {begin} ? {piece} : {text})"
    return text


def _pad(op, read):
    x, y, widths = op.inputs[0], op.output, op.inputs[1].data
    strides = _strides(x.shape)
    first = -sum(int(w[0]) * s for w, s in zip(widths, strides))
    inside, behind = [], y.size
    for n, (before, after) in zip(y.shape, widths):
        behind //= n
        if before:
            inside.append(f"{_coordinate(behind, n)} >= {before}")
        if after:
            inside.append(f"{_coordinate(behind, n)} < {n - after}")
    value = op.inputs[2].data.reshape(-1)[0] if op.kind == "PADV2" else y.zero
    piece = read(x, place(y.shape, strides, first))
    return f"({' && '.join(inside)} ? {piece} : {number(value)})" if inside else piece


def _mirror_pad(op, read):
    x, y, widths = op.inputs[0], op.output, op.inputs[1].data.tolist()
    again = op.options.mode  # whether the value at the edge is repeated too
    index, behind, stride = [], y.size, x.size
    for n, size, (before, after) in zip(y.shape, x.shape, widths):
        behind, stride = behind // n, stride // size
        if n == 1:
            continue
        at = _coordinate(behind, n)
        inside = f"{at} - {before}" if before else at
        if after:
            last = 2 * size - 2 + again + before
            inside = f"({at} >= {before + size} ? {last} - {at} : {inside})"
        if before:
            inside = f"({at} < {before} ? {before - again} - {at} : {inside})"
        index.append(f"{inside} * {stride}" if stride > 1 else inside)
    return read(x, " + ".join(index) or "0")


# Operations that move values: what entry `i` of the output is. `read(tensor, index)` is the text
# of one value.
INDEXED = {
    "GATHER": _gather,
    "SLICE": _slice,
    "STRIDED_SLICE": _slice,
    "TRANSPOSE": _transpose,
    "CONCATENATION": _concatenate,
    "PAD": _pad,
    "PADV2": _pad,
    "MIRROR_PAD": _mirror_pad,
}
