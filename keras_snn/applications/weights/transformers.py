"""Names of modules in PyTorch's spiking transformers, and those of our layers.

Those of the authors' repositories (Spikformer, QKFormer, Spike-driven Transformer) and of
SpikingJelly's zoo.
"""

import re

__all__ = ["is_transformer", "our_names"]

_BLOCK = re.compile(r"(?:blocks?|stage(\d))\.(\d+)\.(.+)")
_EMBEDDING = re.compile(r"patch_embed(\d?)\.(.+)")


def is_transformer(paths):
    """Whether modules of these paths are those of a spiking transformer."""
    return any(_EMBEDDING.match(path) for path in paths)


def our_names(path, kind):
    """Names of the layers that a module's tensors belong to.

    Args:
        path: Path of the module.
        kind: `"conv"`, `"dense"`, `"norm"` or `"neuron"`.

    Returns:
        A list of names; of projections that are stored as one, a name for each part of the rows. It
        is empty if the module has no part in what the network computes.

    Example:

    >>> our_names("block.0.attn.q_linear", "dense"), our_names("patch_embed.proj_bn3", "norm")
    (['block1_q_dense'], ['stem_bn4'])
    >>> our_names("stage1.0.attn.qk_conv_bn.1", "norm"), our_names("block.0.norm1", "norm")
    (['stage1_block1_q_bn', 'stage1_block1_k_bn'], [])
    """
    suffix = {"norm": "bn", "neuron": "neuron"}.get(kind)
    if block := _BLOCK.fullmatch(path):
        prefix = f"{f'stage{block[1]}_' if block[1] else ''}block{int(block[2]) + 1}"
        if kind == "neuron" and re.search("attn_lif|talking_heads_lif", block[3]):
            return [f"{prefix}_attention_neuron"]
        return [f"{prefix}_{part}_{suffix or 'dense'}" for part in _block_parts(block[3])]
    if embedding := _EMBEDDING.fullmatch(path):
        return [_embedding_name(*embedding.groups(), suffix or "conv")]
    return {"head": ["predictions"], "head_lif": ["head_neuron"]}.get(path, [])


def _block_parts(inner):
    """Of a module within a block, what it is part of: `["q"]`, `["mlp1"]`."""
    if mlp := re.match(r"mlp\.\D*(\d)", inner):
        return [f"mlp{mlp[1]}"]
    attention = re.match(r"(?:attn|ssa|tssa)\.(qkv|qk|q|k|v|proj|shortcut)_", inner)
    if attention is None:  # layer normalisations and convolutions that no forward pass reads
        return []
    return list(attention[1]) if attention[1] in ("qkv", "qk") else [attention[1]]


def _embedding_name(stage, inner, kind):
    """Our name of a module within the embedding of a stage, or of a network without stages."""
    number = re.search(r"\d+", inner)
    index = int(number[0]) if number else 0
    if re.match(r"rpe|positional", inner):
        return f"position_{kind}"
    if not stage:  # four convolutions are numbered from 0, which the authors leave out
        return f"stem_{kind}{4 if inner.startswith('final') else index + 1}"
    if re.match(r"proj_res|shortcut", inner):
        return f"stage{stage}_embedding_shortcut_{kind}"
    if inner.startswith("proj"):  # the authors', of which those of later stages begin with 3
        index -= 2 if stage > "1" else 0
    else:
        index -= 1 if stage == "1" else 0
    return f"stage{stage}_embedding_{kind}{index}" if index else f"stem_{kind}"
