"""Parts of residual networks: depths, stems, branches, projections, stages."""


def basic(filters, strides, strided="3x3"):
    """Channels, size and strides of two 3x3 convolutions; the first has the stride."""
    return [(filters, 3, strides), (filters, 3, 1)]


def bottleneck(filters, strides, strided="3x3"):
    """1x1, 3x3 and 1x1 convolutions, the last four times as wide; one of the first two strides."""
    first = strided == "1x1"
    return [
        (filters, 1, strides if first else 1),
        (filters, 3, 1 if first else strides),
        (4 * filters, 1, 1),
    ]


FILTERS = (64, 128, 256, 512)
# ImageNet networks: the convolutions of a block, and the blocks and channels of each stage.
LAYOUTS = {
    18: {"plan": basic, "blocks": (2, 2, 2, 2), "filters": FILTERS},
    34: {"plan": basic, "blocks": (3, 4, 6, 3), "filters": FILTERS},
    50: {"plan": bottleneck, "blocks": (3, 4, 6, 3), "filters": FILTERS},
    101: {"plan": bottleneck, "blocks": (3, 4, 23, 3), "filters": FILTERS},
    152: {"plan": bottleneck, "blocks": (3, 8, 36, 3), "filters": FILTERS},
}
POST_ACTIVATION = ("conv", "norm", "neuron")
PRE_ACTIVATION = ("neuron", "conv", "norm")


def about(depth, kind):
    """A layout in a few words."""
    layout = LAYOUTS[depth]
    block = "two 3x3 convolutions" if layout["plan"] is basic else "a bottleneck of three"
    return f"{kind} with {', '.join(map(str, layout['blocks']))} blocks of {block}"


def stem(net, x, filters, small_images=False, neuron=True, pool=True):
    """Convolution and normalisation, once for an image; neuron; pooling."""
    x = net.conv(x, filters, 3 if small_images else 7, 1 if small_images else 2, "stem_conv")
    x = net.norm(x, "stem_bn")
    x = net.neuron(x, "stem_neuron") if neuron else x
    if not pool or small_images:
        return x
    return net.max_pool(x, "stem_pool", 3, 2)


def stages(x, block, blocks, filters, first_strides=1):
    """All blocks: `block(x, filters, strides, name)`; each later stage halves the maps."""
    for stage, (count, channels) in enumerate(zip(blocks, filters), start=1):
        for index in range(1, count + 1):
            strides = 1 if index > 1 else 2 if stage > 1 else first_strides
            x = block(x, channels, strides, f"stack{stage}_block{index}")
    return x


def branch(net, x, plan, order, name, last_neuron=True, norm=None, last_norm=None, last_conv=None):
    """The weighted layers of a block.

    Args:
        net: The builder.
        x: Input.
        plan: Channels, size and strides of each convolution.
        order: Order of `"conv"`, `"norm"` and `"neuron"` about each convolution.
        name: Name of the block.
        last_neuron: Whether the last convolution has its neuron here.
        norm: Other arguments of the normalisations.
        last_norm: Those of the last one, if they differ.
        last_conv: Other arguments of the last convolution.

    Returns:
        The output of the branch.
    """
    norms = [norm or {}] * (len(plan) - 1) + [last_norm or norm or {}]
    convs = [{}] * (len(plan) - 1) + [last_conv or {}]
    neurons = [True] * (len(plan) - 1) + [last_neuron]
    for i, (filters, size, strides) in enumerate(plan):
        add = {
            "conv": lambda x, n, i=i, a=(filters, size, strides): net.conv(x, *a, n, **convs[i]),
            "norm": lambda x, n, i=i: net.norm(x, n, **norms[i]),
            "neuron": lambda x, n, i=i: net.neuron(x, n) if neurons[i] else x,
        }
        for part in order:
            x = add[part](x, f"{name}_{'bn' if part == 'norm' else part}{i + 1}")
    return x


def projection(net, x, filters, strides, name, neuron=False, **norm):
    """The shortcut: `x`, or where the shape changes a 1x1 convolution, normalised."""
    if strides == 1 and net.channels(x) == filters:
        return x
    return transition(net, x, filters, strides, name, neuron, **norm)


def transition(net, x, filters, strides, name, neuron=False, **norm):
    """A 1x1 convolution, normalised, and its neuron if it has one."""
    x = net.norm(net.conv(x, filters, 1, strides, name + "_conv"), name + "_bn", **norm)
    return net.neuron(x, name + "_neuron") if neuron else x
