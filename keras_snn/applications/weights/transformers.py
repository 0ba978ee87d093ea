"""Names of modules in PyTorch's spiking transformers, and those of our layers.

Those of the authors' repositories (Spikformer, QKFormer, Spike-driven Transformer, E-SpikeFormer,
Max-Former, SpikingResformer) and of SpikingJelly's zoo.
"""

import functools
import re

__all__ = ["is_transformer", "names_of", "our_names"]

_BLOCK = re.compile(r"(?:blocks?|stage(\d))\.(\d+)\.(.+)")
_EMBEDDING = re.compile(r"patch_embed(\d?)\.(.+)")
_CONV_BLOCK = re.compile(r"(ConvBlock\d_\d|block[34])\.(\d+)\.(.+)")
_DOWN = re.compile(r"downsample(\d(?:_\d)?)\.")
_RESFORMER = re.compile(r"(?:layers\.(\d)\.(\d+)|prologue)\.(.+)")


def is_transformer(paths):
    """Whether modules of these paths are those of a spiking transformer."""
    forms = (_EMBEDDING, _CONV_BLOCK, _RESFORMER)
    return any(form.match(path) for path in paths for form in forms)


def names_of(paths):
    """A function like `our_names`, for a network whose modules have these paths."""
    paths = list(paths)
    if any(_RESFORMER.match(path) for path in paths):
        return _resformer_names
    if any(_CONV_BLOCK.match(path) for path in paths):
        return _e_spikeformer_names
    if any(".max_embed" in path for path in paths):
        deep = any(path.startswith("patch_embed1.embed4") for path in paths)
        return functools.partial(_max_former_names, deep)
    return our_names


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
        parts = _block_parts(block[3])
        return [f"{prefix}_{p}_{suffix or ('conv' if p == 'mix' else 'dense')}" for p in parts]
    if embedding := _EMBEDDING.fullmatch(path):
        return [_embedding_name(*embedding.groups(), suffix or "conv")]
    return {"head": ["predictions"], "head_lif": ["head_neuron"]}.get(path, [])


def _block_parts(inner):
    """Of a module within a block, what it is part of: `["q"]`, `["mlp1"]`."""
    if mlp := re.match(r"(?:mlp\.|fc|bn)\D*(\d)", inner):
        return [f"mlp{mlp[1]}"]
    if re.match(r"mixer\.conv|dwconv|bn", inner):
        return ["mix"]
    attention = re.match(r"(?:attn|ssa|tssa)\.(qkv|qk|q|k|v|proj|shortcut)[_.]", inner)
    if attention is None:  # layer normalisations and convolutions that no forward pass reads
        return []
    return list(attention[1]) if attention[1] in ("qkv", "qk") else [attention[1]]


def _embedding_name(stage, inner, kind):
    """Our name of a module within the embedding of a stage, or of a network without stages."""
    number = re.search(r"\d+", inner)
    index = int(number[0]) if number else 0
    if stage == "1" and re.match(r"branch|(conv|bn)$", inner):  # Max-Former's for small images
        index = 2 if inner.startswith("branch") else 1
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


def _max_former_names(deep, path, kind):
    """The authors' Max-Former; `deep` is whether its first embedding halves the maps twice."""
    first = ["conv1", "conv2", "conv3", "shortcut"] if deep else ["conv2", "shortcut"]
    places = {f"patch_embed1.embed{i}.": f"patch_embed1.{n}." for i, n in enumerate(first, 1)}
    for stage in (2, 3):
        embed = f"patch_embed{stage}."
        places |= {embed + "max_embed1.": embed + "conv1.", embed + "embed1.": embed + "conv2."}
        places |= {embed + "max_embed2.": embed + "shortcut."}
    for theirs, plain in places.items():
        if path.startswith(theirs):
            return our_names(plain + "_", kind)
    return our_names(path, kind)


STAGES = {"1_1": 1, "1_2": 2, "2": 3, "3": 4, "4": 5}  # of `downsample...`
BLOCKS = {"ConvBlock1_1": "stage1_block1", "ConvBlock1_2": "stage2_block1"}
BLOCKS |= {"ConvBlock2_1": "stage3_block1", "ConvBlock2_2": "stage3_block2"}


def _e_spikeformer_names(path, kind):
    suffix = {"norm": "bn"}.get(kind, "conv")
    if down := _DOWN.match(path):
        return [f"stage{STAGES[down[1]]}_{suffix}"]
    if block := _CONV_BLOCK.fullmatch(path):
        name, inner = BLOCKS.get(block[1]), block[3]
        if name is None:
            name = f"stage{int(block[1][-1]) + 1}_block{int(block[2]) + 1}"
        if separable := re.match(r"[cC]onv\.(pwconv1|dwconv|pwconv2)\.", inner):
            place = ("pwconv1", "dwconv", "pwconv2").index(separable[1]) + 1
            return [f"{name}_sep{place}_{suffix}"]
        if three := re.fullmatch(r"(?:conv|bn)(\d)", inner):
            return [f"{name}_mlp{three[1]}_{suffix}"]
        parts = _block_parts(inner)
        return [f"{name}_{part}_{'bn' if suffix == 'bn' else 'dense'}" for part in parts]
    return our_names(path, kind)


def _resformer_names(path, kind):
    suffix = {"norm": "bn"}.get(kind, kind)
    match = _RESFORMER.fullmatch(path)
    if match is None:
        return ["predictions"] if path == "classifier" else []
    if match[1] is None:
        return [f"stem_{suffix}"]
    stage, place, inner = int(match[1]) + 1, int(match[2]), match[3]
    if stage > 1 and place == 0:
        return [f"stage{stage}_{suffix}"]
    place -= stage > 1
    block = f"stage{stage}_block{place // 2 + 1}"
    if kind == "rates":
        return [f"{block}_attn_attention_{inner}"]
    if place % 2 == 0:
        part = "proj" if "proj" in inner else "kv"
        return [f"{block}_attn_{part}_{suffix}"]
    part = {"up": "up", "conv": "mid", "down": "down"}[inner.split(".")[0]]
    return [f"{block}_mlp_{part}_{suffix}"]
