"""Writes a step as C: orders its operations, merges those on single values, shares memory.

What each operation computes stands in `pointwise` and `kernels`. Operations on single values that
follow each other, those of a neuron say, become one loop, whose intermediate values are local.
"""

import dataclasses
import textwrap
from typing import Any

import numpy as np

from keras_snn.export.c.factors import factors, quantized
from keras_snn.export.c.kernels import INDEXED, KERNELS, SOURCES, broadcast
from keras_snn.export.c.pointwise import POINTWISE, Text, number
from keras_snn.export.c.step import ALIASES, Operation, Tensor
from keras_snn.export.names import identifier

__all__ = ["Source", "write"]

TYPES = {
    "float32": "float",
    "float64": "double",
    "int8": "int8_t",
    "int16": "int16_t",
    "int32": "int32_t",
    "int64": "int64_t",
    "uint8": "uint8_t",
    "uint16": "uint16_t",
    "uint32": "uint32_t",
    "bool": "uint8_t",
}
# Operations whose integers of 16 bits are TensorFlow Lite's; it has tables for others.
IN_INT16 = {
    *INDEXED,
    *("ADD", "SUB", "MUL", "QUANTIZE", "DEQUANTIZE", "KEEP", "RELU", "MAXIMUM", "MINIMUM", "PUSH"),
    *("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "MAX_POOL_2D", "AVERAGE_POOL_2D", "MEAN"),
}
# Codes of the kinds of which functions are evaluated in advance.
CODES = {
    "int8": np.arange(-128, 128),
    "bool": np.arange(2),
}


@dataclasses.dataclass
class Source:
    """What is written.

    Attributes:
        source, header: Texts of the two files.
        ram, rom: Bytes of static memory, and of constants.
        states: Bytes of the states, which are part of `ram`.
        stored: Of each operation with weights how these are stored.
    """

    source: str
    header: str
    ram: int
    rom: int
    states: int
    stored: dict


@dataclasses.dataclass
class Value:
    """A value in a loop.

    Attributes:
        text: An expression, or a constant.
        origin: The name and tensor of what it is a function of, and nothing else.
        table: Its values for all codes of that.
    """

    text: Any
    origin: tuple | None = None
    table: np.ndarray | None = None


def write(step, stem, first, timesteps):
    """Writes a step.

    Args:
        step: A `keras_snn.export.c.step.Step`.
        stem: Name of the files, without their suffixes.
        first: Values of the states before the first step by name, real numbers.
        timesteps: Steps of a clip, for the header.

    Returns:
        A `Source`.

    Raises:
        NotImplementedError: If there is an operation that has no form in C; its arguments are the
            `Operation`, and the reason where there is another one.
    """
    return Writer(step, stem, first, timesteps).write()


class Writer:
    """One writing.

    Attributes:
        value, weight, total: C types of what layers compute with, and of their sums.
        totals: Number of sums that are needed at once.
        share: What becomes of a share of 1 in a softmax.
        stored: Of each operation with weights how these are stored.
        rings: The name in C of each ring's head, where the oldest step is, by window.
        turning: Whether layers read rings.
    """

    def __init__(self, step, stem, first, timesteps):
        self.step, self.stem, self.first, self.timesteps = step, stem, first, timesteps
        self.prefix = identifier(stem)
        kinds = {t.kind for op in step.operations for t in op.inputs if t and quantized(t)}
        self.kind = next((kind for kind in ("int16", "int8") if kind in kinds), "float32")
        self.value = TYPES[self.kind]
        self.weight, self.total = {
            "float32": ("float", "float"),
            "int8": ("int8_t", "int32_t"),
            "int16": ("int8_t", "int64_t"),
        }[self.kind]
        self.totals, self.share, self.used = 0, "share", []
        self.constants, self.structs, self.names, self.stored = {}, [], {}, {}
        self.roots, self.units = {}, []
        self.rings = {ring: f"head_{k}" for k, ring in enumerate(step.rings.values())}
        self.turning = any(op.steps for op in step.operations)

    def write(self):
        """The source."""
        self._connect()
        self._schedule()
        ram = self._place()
        body = [self._unit(unit) for unit in self.units]
        reset = [self._first(name, before) for name, (before, _) in self.states.items()]
        for name, ring in self.step.rings.items():
            reset += [self._first(name, ring), f"{self.rings[ring]} = 0;"]
        ram += self.totals * np.dtype(_numpy(self.total)).itemsize
        states = sum(_bytes(before) for before, _ in self.states.values())
        states += sum(_bytes(ring) + HEAD for ring in self.rings)
        rom = sum(array.nbytes for _, _, array in self.constants.values())
        source = self._source(body, reset)
        return Source(source, self._header(), ram, rom, states, self.stored)

    # What is computed, and in which order.

    def root(self, tensor):
        """The tensor whose memory a tensor stands for."""
        while tensor in self.roots:
            tensor = self.roots[tensor]
        return tensor

    def _connect(self):
        """Operations that are needed, with what keeps states and hands outputs over."""
        operations = []
        for op in self.step.operations:
            if op.kind in ALIASES and op.inputs[0].data is None:
                self.roots[op.output] = op.inputs[0]
            else:
                operations += _parts(op)
        self.states = {}
        for name, (before, after) in self.step.states.items():
            kept = dataclasses.replace(before, name=f"{name}, kept")
            operations.append(Operation("KEEP", [after], [kept]))
            self.states[name] = before, kept
        self.outputs = {}
        for name, tensor in self.step.outputs.items():
            out = dataclasses.replace(tensor, name=name, data=None)
            operations.append(Operation("KEEP", [tensor], [out]))
            self.outputs[name] = out
        makers = {t: op for op in operations for t in op.outputs}
        needed = [*(t for _, t in self.states.values()), *self.outputs.values()]
        seen = set()
        while needed:
            op = makers.get(self.root(needed.pop()))
            if op is not None and op not in seen:
                seen.add(op)
                needed += [t for t in op.inputs if t is not None]
        self.operations = [op for op in operations if op in seen]

    def _schedule(self):
        """Units: lists of operations on as many values, which become a loop, or one kernel."""
        waiting, made = list(self.operations), set()
        produced = {t for op in waiting for t in op.outputs}

        def reads(op):
            return {self.root(t) for t in op.inputs if t is not None}

        def ready(op):
            return not (produced & reads(op)) - made

        while waiting:
            loop = self.units[-1] if self.units and self.units[-1][0].kind not in KERNELS else []
            new = {t for op in loop for t in op.outputs}
            size = loop[0].output.size if loop else None
            can = [op for op in waiting if ready(op)]
            # What goes on with what the loop has made; then what has no later loop to stand in.
            plain = [op for op in can if op.kind in POINTWISE]
            joins = [op for op in plain if op.output.size == size and new & reads(op)]
            rest = [op for op in can if op not in plain or produced & reads(op)]
            op = (joins or rest or can)[0]
            if not joins:
                if not any(op.kind in table for table in (POINTWISE, INDEXED, KERNELS)):
                    raise NotImplementedError(op)
                self.units.append([])
            self.units[-1].append(op)
            waiting.remove(op)
            made |= set(op.outputs)

    def _place(self):
        """Gives names to all tensors that outlive their loop; bytes of static memory."""
        born = {t: k for k, unit in enumerate(self.units) for op in unit for t in op.outputs}
        dies, moved = {}, set()
        for k, unit in enumerate(self.units):
            for op in unit:
                for t in filter(None, op.inputs):
                    dies[self.root(t)] = k
                    if op.kind not in POINTWISE:
                        moved.add((self.root(t), k))
        for name, tensor in self.step.inputs.items():
            self.names[tensor] = f"in_{identifier(name)}"
        for name, tensor in self.outputs.items():
            self.names[tensor] = f"out_{identifier(name)}"
        self.memory, self.late, total = [], [], 0
        for k, (before, kept) in enumerate(self.states.values()):
            self.names[before] = f"state_{k}"
            self.memory.append(f"static {TYPES[before.kind]} state_{k}[{before.size}];")
            total += _bytes(before)
            last = dies.get(before, -1)
            # A new value may take the place of the old one where nothing reads that later.
            if last < born[kept] or (last == born[kept] and (before, last) not in moved):
                self.names[kept] = self.names[before]
            else:
                self.late.append((before, kept))
                dies[kept] = len(self.units)
        for k, (ring, head) in enumerate(self.rings.items()):
            self.names[ring] = f"ring_{k}"
            self.memory.append(f"static {TYPES[ring.kind]} ring_{k}[{ring.size}];")
            self.memory.append(f"static int {head};")
            total += _bytes(ring) + HEAD
        arenas = {}
        for tensor in sorted(born, key=born.get):
            end = dies.get(tensor, born[tensor])
            if tensor in self.names or (end == born[tensor] and tensor not in moved):
                continue
            taken = arenas.setdefault(tensor.kind, [])
            offset = 0
            for start, size, first, last in sorted(taken):
                if first <= end and born[tensor] <= last and offset + tensor.size > start:
                    offset = max(offset, start + size)
            taken.append((offset, tensor.size, born[tensor], end))
            self.names[tensor] = f"(memory_{tensor.kind} + {offset})"
        for kind, taken in sorted(arenas.items()):
            size = max(offset + size for offset, size, _, _ in taken)
            self.memory.append(f"static {TYPES[kind]} memory_{kind}[{size}];")
            total += size * np.dtype(_numpy(TYPES[kind])).itemsize
        return total

    # What kernels ask for.

    def name(self, tensor):
        """Where a tensor is."""
        if tensor.data is not None:
            return self.constant(tensor.data)
        if tensor.kind != self.kind:
            raise NotImplementedError
        return self.names[self.root(tensor)]

    def head(self, tensor):
        """Where the oldest step of a ring is; 0 of what is no ring."""
        return self.rings.get(self.root(tensor), "0")

    def constant(self, array, kind=None):
        """The name of an array of constants."""
        kind = kind or TYPES[str(array.dtype)]
        array = np.ascontiguousarray(array, _numpy(kind)).ravel()
        key = kind, array.tobytes()
        if key not in self.constants:
            self.constants[key] = f"constant_{len(self.constants)}", kind, array
        return self.constants[key][0]

    def struct(self, kind, fields):
        """The name of a structure of constants."""
        name = f"{kind}_{len(self.structs)}"
        fields = ", ".join(f".{field} = {value}" for field, value in fields.items())
        self.structs.append(f"static const struct {kind} {name} = {{{fields}}};")
        return name

    def use(self, *names):
        """Notes functions of `SOURCES` that are called."""
        self.used += [name for name in names if name not in self.used]

    # Texts.

    def _unit(self, unit):
        try:
            for op in unit:
                self._check(op)
            if unit[0].kind in KERNELS:
                return KERNELS[unit[0].kind](unit[0], self)
            return self._loop(unit)
        except NotImplementedError as error:
            raise NotImplementedError(*(error.args or unit[:1])) from error

    def _check(self, op):
        """Raises of what is not as in TensorFlow Lite's reference kernels."""
        if any(shift > 30 for _, shift in factors(op)):  # something is 0 in all examples
            raise NotImplementedError(op, "what it computes is 0 in all examples, and has no range")
        kinds = {t.kind for t in (*op.inputs, *op.outputs) if t is not None and quantized(t)}
        if "int16" in kinds and op.kind not in IN_INT16:
            raise NotImplementedError(op)

    def _loop(self, unit):
        """A loop over as many values as its outputs have."""
        values, lines = {}, []

        def local(tensor, text):
            """A value with a name."""
            name = Text(f"v{len(lines)}")
            kind = "float" if tensor.kind == "float32" else "int32_t"
            lines.append(f"const {kind} {name} = {text};")
            codes = CODES.get(tensor.kind)
            return Value(name, None if codes is None else (name, tensor), codes)

        def read(tensor, index):
            place = self.constant(tensor.data) if tensor.data is not None else self.names[tensor]
            if tensor in self.rings:
                self.use("turned")
                index = f"turned({self.rings[tensor]}, {index}, {tensor.size})"
            return f"{place}[{index}]"

        def operand(tensor, output):
            """What an operation reads."""
            root = self.root(tensor)
            if root in values:
                return values[root]
            if tensor.data is not None and tensor.size == 1:
                data = np.asarray(tensor.data.reshape(()))
                return Value(data if tensor.kind == "float32" else data.astype("int64"))
            index = "i" if tensor.size == output.size else broadcast(tensor.shape, output.shape)
            value = local(root, read(root, index))
            if tensor.data is not None:  # of each channel another one: no function of codes
                value.origin = None
            elif index == "i":
                values[root] = value
            return value

        for op in unit:
            output = op.output
            if op.kind in INDEXED:
                text = INDEXED[op.kind](op, lambda tensor, index: read(self.root(tensor), index))
                values[output] = local(output, text)
            else:
                args = [operand(tensor, output) for tensor in op.inputs]
                values[output] = self._apply(op, args, local)
            if output in self.names:
                text = self._written(values[output], output)
                lines.append(f"{self.names[output]}[i] = {text};")
        body = "\n".join(f"    {line}" for line in lines)
        return f"for (int i = 0; i < {unit[0].output.size}; ++i) {{\n{body}\n}}"

    def _apply(self, op, args, local):
        """What an operation makes of values."""
        function = POINTWISE[op.kind]
        variable = [a for a in args if isinstance(a.text, Text)]
        origins = {a.origin for a in variable}
        if variable and len(origins) == 1 and None not in origins:
            (origin,) = origins
            table = function(op, *(a.text if a.table is None else a.table for a in args))
            table = np.broadcast_to(table, CODES[origin[1].kind].shape)
            text = function(op, *(a.text for a in args))
            return Value(text, origin, table)
        args = [
            Text(self._written(a, t)) if isinstance(a.text, Text) else a.text
            for a, t in zip(args, op.inputs)
        ]
        result = function(op, *args)
        if not isinstance(result, Text):
            return Value(result)
        self._calls(result)
        return local(op.output, result)

    def _written(self, value, tensor):
        """A value as an expression: by a comparison or a table where it is a function of codes."""
        if not isinstance(value.text, Text):
            return number(value.text)
        if value.origin is None:
            return value.text
        name, origin = value.origin
        codes, table = CODES[origin.kind], np.asarray(value.table)
        if np.array_equal(table, codes):
            return name
        changes = np.flatnonzero(table[1:] != table[:-1])
        if len(changes) == 0:
            return number(table[0])
        if len(changes) == 1:
            code, low, high = codes[changes[0] + 1], number(table[0]), number(table[-1])
            return f"({name} >= {number(code)} ? {high} : {low})"
        if origin.kind == "int8" and tensor.kind == "int8":
            return f"{self.constant(table, TYPES[tensor.kind])}[{name} + 128]"
        self._calls(value.text)
        return value.text

    def _calls(self, text):
        self.use(*(name for name in ("clamp", "clampf", "rescale") if f"{name}(" in text))

    def _first(self, name, before):
        """Sets a state to its first value."""
        value = np.asarray(self.first[name], "float32")
        value = value.ravel()[:1] if name in self.step.rings else value
        value = np.broadcast_to(value, before.shape).ravel()
        if quantized(before):
            limits = np.iinfo(before.kind)
            value = np.round(value / before.scale[0]) + before.zero
            value = np.clip(value, limits.min, limits.max).astype(before.kind)
        place, size = self.names[before], before.size
        if len(set(value.tolist())) == 1:
            return f"for (int i = 0; i < {size}; ++i)\n    {place}[i] = {number(value[0])};"
        return f"memcpy({place}, {self.constant(value)}, sizeof {place});"

    def _arguments(self):
        rows = [
            *((t, f"const {TYPES[t.kind]} *{self.names[t]}") for t in self.step.inputs.values()),
            *((t, f"{TYPES[t.kind]} *{self.names[t]}") for t in self.outputs.values()),
        ]
        return ", ".join(text for _, text in rows)

    def _source(self, body, reset):
        for before, kept in self.late:
            body.append(
                f"memcpy({self.names[before]}, {self.names[kept]}, sizeof {self.names[before]});"
            )
        words = self._stored_words() | FORMS[self.kind] | {"SHARE": self.share}
        functions = ""
        for name, text in SOURCES.items():
            if name in self.used:
                for word, form in words.items():
                    text = text.replace(word, form)
                functions += text
        functions = functions.replace("SKIP", f"{self.prefix.upper()}_SKIP")
        constants = "\n".join(
            f"static const {kind} {name}[{len(array)}] = {{\n{_rows(array)}\n}};"
            for name, kind, array in self.constants.values()
        )
        skip = f"{self.prefix.upper()}_SKIP"
        includes = ["float.h", "math.h", "string.h"]
        totals = [f"static total totals[{self.totals}];"] if self.totals else []
        parts = [
            f"/* Written by keras_snn. C99; no dependencies, no memory but its own. */\n"
            f'#include "{self.stem}.h"\n\n' + "\n".join(f"#include <{name}>" for name in includes),
            "/* 0: silent inputs of a layer are computed with, too. */\n"
            f"#ifndef {skip}\n#define {skip} 1\n#endif",
            f"typedef {self.value} value;",
            f"typedef {self.weight} weight;\ntypedef {self.total} total;",
            constants,
            "\n".join(self.memory + totals),
            functions.strip("\n"),
            "\n".join(self.structs),
            _function(f"void {self.prefix}_reset(void)", reset),
            _function(f"void {self.prefix}_step({self._arguments()})", body),
        ]
        return "\n\n".join(part for part in parts if part) + "\n"

    def _stored_words(self):
        """What stands in `SOURCES` for the ways in which weights are stored."""
        few, every = ("add_few" in self.used), ("add_all" in self.used)
        place = "i * l->kernel_columns + j"
        place = f"({place}) * l->steps + s" if self.turning else place
        adds = [f"{name}(l, pixel, {place});" for name in ("add_few", "add_all")]
        choice = "if (l->counts)\n    {}\nelse\n    {}".format(*adds)
        add = choice if few and every else adds[0] if few else adds[1]
        pixels = PIXELS[self.turning].replace(
            "ADD_PIXEL", add.replace("\n", "\n    " if self.turning else "\n")
        )
        return {
            "FEW\n    ": FEW if few else "",
            "    RING\n": RING if self.turning else "",
            "HEAD": ", int head" if self.turning else "",
            "PIXELS": textwrap.indent(pixels, " " * 20).lstrip(),
        }

    def _header(self):
        prefix, guard = self.prefix, f"{self.prefix.upper()}_H"
        lines = [
            "/* Written by keras_snn. */",
            f"#ifndef {guard}",
            f"#define {guard}",
            "",
            "#include <stdint.h>",
            "",
            f"#define {prefix.upper()}_TIMESTEPS {self.timesteps}",
        ]
        tensors = {**self.step.inputs, **self.outputs}
        for name, tensor in tensors.items():
            macro = f"{prefix}_{name}".upper()
            shape = "x".join(map(str, tensor.shape))
            lines += [
                "",
                f"/* {self.names[tensor]}: {TYPES[tensor.kind]} {shape} */",
                f"#define {macro}_SIZE {tensor.size}",
            ]
            if quantized(tensor):
                lines += [
                    f"#define {macro}_SCALE {number(tensor.scale[0])}",
                    f"#define {macro}_ZERO_POINT {number(tensor.zero)}",
                ]
        lines += [
            "",
            "#ifdef __cplusplus",
            'extern "C" {',
            "#endif",
            "",
            "/* Sets all states to those before the first step of a clip. */",
            f"void {prefix}_reset(void);",
            "/* One step: after the last one of a clip the outputs are those of the clip. */",
            f"void {prefix}_step({self._arguments()});",
            "",
            "#ifdef __cplusplus",
            "}",
            "#endif",
            "",
            "#endif",
        ]
        return "\n".join(lines) + "\n"


# Bytes of where the oldest step of a ring is.
HEAD = 4
# How a layer goes over its input: pixel by pixel, and of a window step by step.
PIXELS = (
    "const value *pixel = x + (row * l->columns + column) * l->inputs;\nADD_PIXEL",
    """const int from = (row * l->columns + column) * l->inputs;
for (int s = 0; s < l->steps; ++s) {
    const value *pixel = x + turned(head, l->begins[s] + from, l->size);
    ADD_PIXEL
}""",
)
RING = """    const int32_t *begins; /* where the steps begin that are read, of a ring, */
    int steps, size; /* how many they are, and how many values the input has. */
"""

# What stands in `SOURCES` for arithmetic that is not the same for floats and integers.
FORMS = {
    "float32": {
        "SCALES\n    ": "",
        "EDGES": "float zero, low, high;",
        "FINISH": "clampf(totals[o], l->low, l->high)",
        "MEAN": "(sum / (float)count)",
        "FACTOR": "float factor",
        "OFFSET": "",
        "REDUCED": "sum * factor",
        "LOWEST": "-FLT_MAX",
    },
    "int8": {
        "SCALES": "const int32_t *multiplier;\n    const int8_t *shift;",
        "EDGES": "int once;\n    int32_t zero, out_zero, low, high;",
        "FINISH": (
            "(value)clamp(\n                    (l->once ? rescale_once : rescale)("
            "totals[o], l->multiplier[o], l->shift[o])\n                        "
            "+ l->out_zero, l->low, l->high)"
        ),
        "MEAN": "((sum + (sum > 0 ? count / 2 : -(count / 2))) / count)",
        "FACTOR": "int32_t zero, int32_t factor, int shift, int32_t out_zero",
        "OFFSET": " - zero",
        "REDUCED": (
            "(value)clamp(rescale((int32_t)sum, factor, shift) + out_zero, INT8_MIN, INT8_MAX)"
        ),
        "LOWEST": "INT8_MIN",
    },
}
FORMS["int16"] = FORMS["int8"] | {
    "SCALES": "const double *factor;\n    const int32_t *multiplier;\n    const int8_t *shift;",
    "EDGES": "int32_t zero, low, high;",
    "FINISH": (
        "(value)(l->factor ? clamp_real(round((double)totals[o] * l->factor[o]), l->low, l->high)\n"
        "                    : clamp(rescale_wide(totals[o], l->multiplier[o], l->shift[o]),\n"
        "                            l->low, l->high))"
    ),
    "REDUCED": (
        "(value)clamp(rescale((int32_t)sum, factor, shift) + out_zero, INT16_MIN, INT16_MAX)"
    ),
    "LOWEST": "INT16_MIN",
}


# What a layer has besides where weights of 0 are left out.
FEW = """/* Of weights without those of 0: how many by [row][column][input], if any are left out, */
    const uint16_t *counts;
    const uint8_t *gaps; /* from the output of each to that of the next, */
    const uint32_t *starts; /* and where those of [row][column] are. */
    """


def _parts(op):
    """Slices in the place of a split, whose outputs each are one."""
    if op.kind != "SPLIT":
        return [op]
    axis, x = op.inputs
    axis, parts, start = int(axis.data.ravel()[0]) % len(x.shape), [], 0
    for output in op.outputs:
        begin = np.zeros(len(x.shape), "int32")
        begin[axis], start = start, start + output.shape[axis]
        parts.append(
            Operation("SLICE", [x, Tensor("begin", begin.shape, "int32", data=begin)], [output])
        )
    return parts


def _numpy(kind):
    """NumPy's name of a type."""
    return {"float": "float32", "double": "float64"}.get(kind) or kind.removesuffix("_t")


def _bytes(tensor):
    return tensor.size * np.dtype(_numpy(TYPES[tensor.kind])).itemsize


def _rows(array):
    exact = array.dtype == "float64"  # C reads what Python writes
    text = ", ".join(repr(float(x)) if exact else number(x) for x in array)
    return textwrap.fill(text, 98, initial_indent="  ", subsequent_indent="  ")


def _function(head, parts):
    body = "\n".join(parts)
    return f"{head}\n{{\n{textwrap.indent(body, '    ')}\n}}"
