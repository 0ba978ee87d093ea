"""What is in a TensorFlow Lite file, read from its bytes."""

import collections
import copy
import re
import zlib

__all__ = [
    "check",
    "check_sum",
    "describe",
    "litert",
    "main_first",
    "operations",
    "read",
    "with_exact_integers",
    "with_float_constants",
    "with_int64_biases",
    "with_reset",
    "with_sum",
]

TYPES = {0: "float32", 1: "float16", 2: "int32", 4: "int64", 6: "bool", 7: "int16", 9: "int8"}


# What follows a file: this and a sum of its bytes. Readers go by offsets, and pass it over.
MARK = b"keras_snn crc32 "


def with_sum(blob):
    """The same file with a sum of its bytes behind it."""
    return blob + MARK + zlib.crc32(blob).to_bytes(4, "little")


def check_sum(blob):
    """Refuses a file whose bytes have changed since `with_sum`; runtimes may abort on one.

    Raises:
        ValueError: If the sum is another one.
    """
    content, mark, wanted = blob[: -len(MARK) - 4], blob[-len(MARK) - 4 : -4], blob[-4:]
    if mark == MARK and zlib.crc32(content) != int.from_bytes(wanted, "little"):
        raise ValueError("its bytes are not those that were written")


def litert():
    """The runtime's module."""
    try:
        from ai_edge_litert import interpreter
    except ImportError as error:
        raise ImportError(
            "Running TensorFlow Lite files needs the extra `export`: "
            'pip install "keras-snn[export]"'
        ) from error
    return interpreter


def read(blob):
    """A file as `ModelT` of TensorFlow Lite's schema, and the names of operations by code."""
    litert()
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(blob, 0))
    names = {v: k for k, v in vars(schema.BuiltinOperator).items() if isinstance(v, int)}
    return model, names


def _operations(blob):
    model, names = read(blob)
    codes = [max(c.builtinCode, c.deprecatedBuiltinCode) for c in model.operatorCodes]
    used = [codes[op.opcodeIndex] for graph in model.subgraphs for op in graph.operators]
    return collections.Counter(names[code] for code in used)


def operations(blob):
    """The operations of a file's first graph, in order.

    Returns:
        A list of `(name, inputs, outputs)`: tensors are `(name, shape, type, constant)`.
    """
    model, names = read(blob)
    codes = [max(c.builtinCode, c.deprecatedBuiltinCode) for c in model.operatorCodes]
    graph = model.subgraphs[0]

    def tensor(index):
        found = graph.tensors[index]
        shape = () if found.shape is None else tuple(map(int, found.shape))
        constant = model.buffers[found.buffer].data is not None
        return found.name.decode(), shape, TYPES.get(found.type, str(found.type)), constant

    return [
        (
            names[codes[op.opcodeIndex]],
            [tensor(i) for i in op.inputs if i >= 0],
            [tensor(i) for i in op.outputs],
        )
        for op in graph.operators
    ]


def main_first(blob, name):
    """The same file with the graph of one signature in front, which XNNPACK runs."""
    model, _ = read(blob)
    main = next(d.subgraphIndex for d in model.signatureDefs if d.signatureKey == name.encode())
    order = sorted(range(len(model.subgraphs)), key=lambda i: i != main)
    model.subgraphs = [model.subgraphs[i] for i in order]
    for operation in (op for graph in model.subgraphs for op in graph.operators):
        options = operation.builtinOptions
        if hasattr(options, "initSubgraphIndex"):
            options.initSubgraphIndex = order.index(options.initSubgraphIndex)
    for definition in model.signatureDefs:
        definition.inputs = definition.inputs or []  # empty, not missing
        definition.subgraphIndex = order.index(definition.subgraphIndex)
    return _packed(model, blob)


def _packed(model, blob):
    import flatbuffers

    builder = flatbuffers.Builder(len(blob) + 1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def with_exact_integers(blob, mark, largest):
    """The same file with ranges whose steps are the integers that some tensors hold.

    What makes these tensors rounds to such steps in int8, so that operations that round are gone.

    Args:
        blob: A file with calibrated ranges, before it is quantised.
        mark: Part of the names of these tensors, behind which a number stands.
        largest: Their ranges are from 0 to this over that number.
    """
    model, names = read(blob)
    codes = [names[max(c.builtinCode, c.deprecatedBuiltinCode)] for c in model.operatorCodes]
    for graph in model.subgraphs:
        ranges, same, kept = {}, {}, []
        for index, tensor in enumerate(graph.tensors):
            found = re.search(rf"{mark}(\d+)", (tensor.name or b"").decode())
            if found and model.buffers[tensor.buffer].data is None:
                ranges[index] = largest / int(found[1])
        for operation in graph.operators:
            operation.inputs = [same.get(i, i) for i in operation.inputs]
            known = [ranges[i] for i in operation.inputs if i in ranges]
            code = codes[operation.opcodeIndex]
            if known and code == "ROUND":
                same[operation.outputs[0]] = operation.inputs[0]
                continue
            if known and code == "MINIMUM":  # its name may be that of an output
                ranges[operation.outputs[0]] = known[0]
            kept.append(operation)
        graph.operators = kept
        for index, value in ranges.items():
            quantization = graph.tensors[index].quantization
            quantization.min, quantization.max = [0.0], [value]
    return _packed(model, blob)


def with_float_constants(blob):
    """The same file, where comparisons of floats have float constants.

    TensorFlow's quantisation to int16 leaves comparisons in float32, but where another operation
    uses the same constant it becomes int16 for both.
    """
    import numpy as np
    from ai_edge_litert import schema_py_generated as schema

    model, names = read(blob)
    codes = [names[max(c.builtinCode, c.deprecatedBuiltinCode)] for c in model.operatorCodes]
    changed = False
    for graph in model.subgraphs:
        for operation in graph.operators:
            tensors = [graph.tensors[i] for i in operation.inputs]
            kinds = {TYPES.get(tensor.type) for tensor in tensors}
            if codes[operation.opcodeIndex] not in COMPARISONS or kinds != {"float32", "int16"}:
                continue
            for place, tensor in enumerate(tensors):
                stored = model.buffers[tensor.buffer].data
                if TYPES[tensor.type] == "float32" or stored is None:
                    continue
                values = np.frombuffer(bytes(stored), "<i2").astype("float32")
                values *= np.float32(tensor.quantization.scale[0])
                float_tensor, buffer = copy.copy(tensor), schema.BufferT()
                buffer.data = np.frombuffer(values.tobytes(), np.uint8)
                float_tensor.type, float_tensor.quantization = schema.TensorType.FLOAT32, None
                float_tensor.buffer = len(model.buffers)
                model.buffers.append(buffer)
                operation.inputs = [
                    len(graph.tensors) if i == place else x for i, x in enumerate(operation.inputs)
                ]
                graph.tensors.append(float_tensor)
                changed = True
    return _packed(model, blob) if changed else blob


def with_int64_biases(blob):
    """The same file, where int16 products have int64 biases.

    TensorFlow's converter writes int32 ones where ranges are not calibrated, and runtimes read
    them as int64.
    """
    import numpy as np
    from ai_edge_litert import schema_py_generated as schema

    model, names = read(blob)
    codes = [names[max(c.builtinCode, c.deprecatedBuiltinCode)] for c in model.operatorCodes]
    changed = False
    for graph in model.subgraphs:
        for operation in graph.operators:
            if codes[operation.opcodeIndex] not in WEIGHTED or len(operation.inputs) < 3:
                continue
            inputs, bias = graph.tensors[operation.inputs[0]], operation.inputs[2]
            if bias < 0 or TYPES.get(inputs.type) != "int16":
                continue
            tensor = graph.tensors[bias]
            if TYPES[tensor.type] == "int32":
                old, buffer = bytes(model.buffers[tensor.buffer].data), schema.BufferT()
                values = np.frombuffer(old, "<i4").astype("<i8")
                buffer.data = np.frombuffer(values.tobytes(), np.uint8)
                tensor.buffer, tensor.type = len(model.buffers), schema.TensorType.INT64
                model.buffers.append(buffer)
                changed = True
    used = {tensor.buffer for graph in model.subgraphs for tensor in graph.tensors}
    for index, buffer in enumerate(model.buffers):
        if changed and index not in used:
            buffer.data = None
    return _packed(model, blob) if changed else blob


WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
COMPARISONS = ("GREATER", "GREATER_EQUAL", "LESS", "LESS_EQUAL", "EQUAL", "NOT_EQUAL")


def with_reset(blob, initial):
    """The same file with a signature `reset`, whose outputs are the states before the first step.

    Args:
        blob: A file with the one signature `step`.
        initial: First values of the states by name.
    """
    import numpy as np
    from ai_edge_litert import schema_py_generated as schema

    model, _ = read(blob)
    (step,) = model.signatureDefs
    states = {m.name.decode(): model.subgraphs[0].tensors[m.tensorIndex] for m in step.inputs}
    graph, reset = schema.SubGraphT(), schema.SignatureDefT()
    graph.name, graph.inputs, graph.operators, graph.tensors = b"reset", [], [], []
    reset.signatureKey, reset.subgraphIndex, reset.inputs = b"reset", len(model.subgraphs), []
    reset.outputs = []
    for name, value in initial.items():
        tensor, buffer, place = schema.TensorT(), schema.BufferT(), schema.TensorMapT()
        like, q = states[name], states[name].quantization
        kind = np.dtype(TYPES[like.type])
        if kind != np.float32:
            limits = np.iinfo(kind)
            value = np.round(value / q.scale[0]) + q.zeroPoint[0]
            value = np.clip(value, limits.min, limits.max)
        buffer.data = np.frombuffer(value.astype(kind).tobytes(), np.uint8)
        model.buffers.append(buffer)
        tensor.name, place.name = (f"{name}_out".encode(),) * 2
        tensor.shape, tensor.type, tensor.quantization = like.shape, like.type, q
        tensor.buffer, place.tensorIndex = len(model.buffers) - 1, len(graph.tensors)
        graph.tensors.append(tensor)
        reset.outputs.append(place)
    graph.outputs = list(range(len(graph.tensors)))
    model.subgraphs.append(graph)
    model.signatureDefs.append(reset)
    return _packed(model, blob)


def check(blob, internal=False, micro=False):
    """Refuses files that devices can't run.

    Args:
        blob: Bytes of a file.
        internal: Whether the file may keep variables.
        micro: Whether it is for TensorFlow Lite Micro.

    Raises:
        RuntimeError: If there is a custom operation, a loop, a variable, or more axes than fit.
    """
    model, _ = read(blob)
    refused = {"CUSTOM", "WHILE", "IF"} | (set() if internal else {"VAR_HANDLE"})
    refused |= {"TILE", "SIGN"} if micro else set()
    found = sorted(refused & set(_operations(blob)))
    if found:
        raise RuntimeError(f"The converter made operations that devices can't run: {found}.")
    rank = max(len(t.shape) if t.shape is not None else 0 for t in model.subgraphs[0].tensors)
    if micro and rank > 4:
        raise RuntimeError(f"Microcontrollers take tensors of 4 axes at most, got {rank}.")


def describe(blob):
    """Operations by name, scales of tensors, inputs and outputs in the file's order."""
    model, _ = read(blob)
    graph = model.subgraphs[0]

    def row(index):
        tensor = graph.tensors[index]
        q = tensor.quantization
        has = q is not None and q.scale is not None and len(q.scale) > 0
        return {
            "name": tensor.name.decode(),
            "shape": [int(n) for n in tensor.shape] if tensor.shape is not None else [],
            "type": TYPES.get(tensor.type, str(tensor.type)),
            "scale": float(q.scale[0]) if has else 0.0,
            "zero_point": int(q.zeroPoint[0]) if has else 0,
        }

    names = collections.defaultdict(list)  # one tensor may be several outputs
    for s in model.signatureDefs or ():
        if s.subgraphIndex == 0:
            for kind, maps in (("inputs", s.inputs), ("outputs", s.outputs)):
                for m in maps:
                    names[kind, m.tensorIndex].append(m.name.decode())

    def named(kind, indices):
        rows = []
        for index in indices:
            waiting = names[kind, index]
            rows.append(row(index) | ({"name": waiting.pop(0)} if waiting else {}))
        return rows

    rows = [row(i) for i in range(len(graph.tensors))]
    return {
        "operations": dict(sorted(_operations(blob).items())),
        "quantization": [r for r in rows if r["scale"]],
        "inputs": named("inputs", graph.inputs),
        "outputs": named("outputs", graph.outputs),
    }
