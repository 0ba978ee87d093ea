"""Cost against steps, batch and depth: does a step stay a step?

    python benchmarks/scaling.py
    python benchmarks/scaling.py --timesteps=16,256,1024 --backends=jax

A training step of a network of convolutions and LIF neurons (SEW blocks on 8x8 maps), for more and
more steps, examples and blocks: milliseconds in all and for each step, example or block, seconds of
the first call (with compilation), megabytes of the process.
"""

import numpy as np
from absl import app, flags
from common import FLAGS, answer, clock, measure, peak, save, table

flags.DEFINE_list("timesteps", ["4", "16", "64", "256"], "Numbers of steps; batch 4, 2 blocks.")
flags.DEFINE_list("batches", ["4", "16", "64"], "Batch sizes; T = 4, 2 blocks.")
flags.DEFINE_list("depths", ["2", "8", "32"], "Numbers of blocks; T = 4, batch 4.")
flags.DEFINE_list("backends", ["tensorflow", "torch", "jax"], "Backends.")


def one(timesteps, batch, blocks):
    """Measures one training step in this process."""
    import keras

    from keras_snn.applications import builder, factory, residual, sew_resnet

    net, inputs = builder.Builder("lif", timesteps), keras.Input((timesteps, 8, 8, 2))
    layout = {"plan": residual.basic, "blocks": (blocks,), "filters": (16,)}
    x = sew_resnet.resnet(net, builder.Value(inputs, has_time=True), **layout, small_images=True)
    model = keras.Model(inputs, factory.pooled_top(net, x, 10, None).tensor)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x = np.random.default_rng(0).normal(size=(batch, *model.input_shape[1:])).astype("float32")
    y, base = np.arange(batch) % 10, peak()
    [(first, seconds)] = clock(lambda: model.train_on_batch(x, y))
    return {"ms": 1e3 * seconds, "first s": first, "MB": peak() - base}


def main(argv):
    """All tables, or one measurement."""
    if FLAGS.only:
        answer(one(*map(int, FLAGS.only.split("/"))))
        return
    series = {
        "T": [(int(t), 4, 2) for t in FLAGS.timesteps],
        "batch": [(4, int(b), 2) for b in FLAGS.batches],
        "blocks": [(4, 4, int(n)) for n in FLAGS.depths],
    }
    results = {}
    for backend in FLAGS.backends:
        for index, (what, cases) in enumerate(series.items()):
            rows = []
            for case in cases:
                figures = measure(__file__, "/".join(map(str, case)), backend)
                row = {what: str(case[index])}
                if isinstance(figures, dict):
                    row |= figures | {f"ms / {what}": figures["ms"] / case[index]}
                else:
                    row["note"] = figures
                rows.append(row)
            results[f"{backend}, {what}"] = rows
            columns = [what, "ms", f"ms / {what}", "first s", "MB", "note"]
            table(f"{backend}, training step against {what}", columns, rows)
            save(results)


if __name__ == "__main__":
    app.run(main)
