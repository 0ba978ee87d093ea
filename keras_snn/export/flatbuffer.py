"""What is in a TensorFlow Lite file, read from its bytes."""

import collections

__all__ = ["check", "describe"]

TYPES = {0: "float32", 1: "float16", 2: "int32", 4: "int64", 6: "bool", 7: "int16", 9: "int8"}


def _read(blob):
    from keras_snn.export.streaming import _litert

    _litert()
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(blob, 0))
    names = {v: k for k, v in vars(schema.BuiltinOperator).items() if isinstance(v, int)}
    return model, names


def _operations(blob):
    model, names = _read(blob)
    codes = [max(c.builtinCode, c.deprecatedBuiltinCode) for c in model.operatorCodes]
    used = [codes[op.opcodeIndex] for graph in model.subgraphs for op in graph.operators]
    return collections.Counter(names[code] for code in used)


def check(blob, internal=False, micro=False):
    """Refuses files that devices can't run.

    Args:
        blob: Bytes of a file.
        internal: Whether the file may keep variables.
        micro: Whether it is for TensorFlow Lite Micro.

    Raises:
        RuntimeError: If there is a custom operation, a loop, a variable, or more axes than fit.
    """
    model, _ = _read(blob)
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
    model, _ = _read(blob)
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

    signature = {}
    for s in model.signatureDefs or ():
        if s.subgraphIndex == 0:
            for kind, maps in (("inputs", s.inputs), ("outputs", s.outputs)):
                signature[kind] = {
                    m.tensorIndex: m.nameDef if hasattr(m, "nameDef") else m.name for m in maps
                }

    def named(kind, indices):
        names = signature.get(kind, {})
        rows = []
        for index in indices:
            name = names.get(index)
            found = row(index)
            rows.append(found | ({"name": name.decode()} if name else {}))
        return rows

    rows = [row(i) for i in range(len(graph.tensors))]
    return {
        "operations": dict(sorted(_operations(blob).items())),
        "quantization": [r for r in rows if r["scale"]],
        "inputs": named("inputs", graph.inputs),
        "outputs": named("outputs", graph.outputs),
    }
