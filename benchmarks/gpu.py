"""What a GPU does, in ten minutes: first whether it computes right, then how fast.

    python benchmarks/gpu.py --folder=gpu
    python benchmarks/gpu.py --folder=gpu --parts=check  # a minute; on CPUs too
    python benchmarks/gpu.py --folder=gpu --backends=jax --minutes=5

`check` compares neurons on the device with their plain loop, on each backend: all spikes, and the
gradients to currents and learned parameters within 1e-5 of the largest, in float32 and in
`mixed_bfloat16`; where they differ, nothing is timed. `neuron` is Open Neuromorphic's benchmark,
`networks` SEW-ResNet-18 and -50, beside the same with ReLUs and SpikingJelly, in float32 and in
`mixed_bfloat16`. Each part has its share of the minutes; what is not done by then is left out. A
part's figures are a file in the folder.
"""

import functools
import itertools
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
from absl import app, flags
from common import FLAGS, answer, measure, save

flags.DEFINE_string("folder", "gpu", "Where the figures go.")
flags.DEFINE_list("parts", ["check", "neuron", "networks"], "What to do, in this order.")
flags.DEFINE_list("backends", ["torch", "jax"], "Backends.")
flags.DEFINE_float("minutes", 10.0, "Time for all of it.", lower_bound=0.1)
flags.DEFINE_list("widths", ["4096", "8192", "16384"], "Numbers of neurons, of the part `neuron`.")
flags.DEFINE_integer("size", 224, "Height and width of images.", lower_bound=32)
flags.DEFINE_integer("batch", 32, "Batch size of networks.", lower_bound=1)

HERE = pathlib.Path(__file__).parent
POLICIES = ("float32", "mixed_bfloat16")
NEURONS = ("IF", "LIF", "ParametricLIF", "DecayLIF", "AdaptiveLIF", "Izhikevich")
TOLERANCE = 1e-5


def differences():
    """For each neuron of this process's backend: share of other spikes, largest other gradient."""
    import keras

    found, rng = {}, np.random.default_rng(0)
    for policy, name, reset, steps in itertools.product(
        POLICIES, NEURONS, ("hard", "soft"), (4, 70)
    ):
        if name == "Izhikevich" and reset == "soft":
            continue  # its reset is its own
        keras.config.set_dtype_policy(policy)
        scale = 20.0 if name == "Izhikevich" else 1.0
        x = scale * rng.normal(0.6, 1.0, (8, steps, 512)).astype("float32")
        upstream = rng.normal(size=x.shape).astype("float32")
        kinds = [spikes_and_gradients(name, reset, x, upstream, fused) for fused in (True, False)]
        (spikes, slopes), (wanted, wanted_slopes) = kinds
        assert 0.005 < wanted.mean() < 0.995, (name, wanted.mean())
        found[f"{name}, {reset}, T = {steps}, {policy}"] = {
            "spikes": float(np.mean(spikes != wanted)),
            "gradients": max(
                float(np.abs(a - b).max() / max(1, np.abs(b).max()))
                for a, b in zip(slopes, wanted_slopes, strict=True)
            ),
        }
    return found


def spikes_and_gradients(name, reset, x, upstream, fused):
    """Spikes of a neuron for currents, and gradients to these and to what it learns."""
    import keras
    from keras import ops

    from keras_snn import layers, testing

    layer = getattr(layers, name)(**({} if name == "Izhikevich" else {"reset": reset}))
    layer.build(x.shape)
    layer.use_fused = fused
    upstream = ops.convert_to_tensor(upstream)

    def run(x):
        call = functools.partial(layer, training=True)
        if keras.backend.backend() == "jax":
            import jax

            call = jax.jit(call)  # anew each time: it holds the weights that it was traced with
        return ops.cast(call(x), "float32")

    slopes = testing.gradients(lambda x: ops.sum(run(x) * upstream), layer.trainable_variables, x)
    return ops.convert_to_numpy(run(x)), [*slopes[1], *slopes[2]]


def check():
    """Compares neurons on every backend; ends the program where one is wrong."""
    FLAGS.limit = max(FLAGS.limit, 300)
    results, wrong = {}, []
    for backend in FLAGS.backends:
        found = measure(__file__, "check", backend)
        if not isinstance(found, dict):
            raise SystemExit(f"{backend}: {found}")
        results[backend] = found
        most = {key: max(r[key] for r in found.values()) for key in ("spikes", "gradients")}
        print(f"{backend}, {len(found)} neurons, largest differences: {most}")
        wrong += [
            f"{backend}, {name}: {result}"
            for name, result in found.items()
            if result["spikes"] > 0 or not result["gradients"] <= TOLERANCE
        ]
    save(results)
    if wrong:
        raise SystemExit("Not what the plain loop computes:\n" + "\n".join(wrong))


def commands():
    """Program and arguments of each timed part, and its share of the time."""
    widths, backends = ",".join(FLAGS.widths), ",".join(FLAGS.backends)
    ours = [f"keras_snn, {backend}" for backend in FLAGS.backends]
    alone = [f"Dense alone, {backend}" for backend in FLAGS.backends]
    peers = ["torch.nn.Linear alone", "SpikingJelly, eager"] if "torch" in FLAGS.backends else []
    chosen = [f"--implementations={name}" for name in (*ours, *alone, *peers)]
    network = [f"--size={FLAGS.size}", f"--batch={FLAGS.batch}", f"--backends={backends}"]
    network.append("--networks=sew18,sew50")
    return {
        "neuron": [
            ("neuron", "neuron.py", ["--preset=open_neuromorphic", f"--widths={widths}", *chosen])
        ],
        "networks": [
            (f"networks_{policy}", "network.py", [*network, f"--dtype={policy}"])
            for policy in POLICIES
        ],
    }


def ended(command, seconds):
    """Runs a program, whether it ends in time; else it is stopped, with all that it started."""
    with subprocess.Popen(command, start_new_session=True) as process:
        try:
            if process.wait(seconds):
                raise SystemExit(f"{' '.join(command)} failed.")
            return True
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return False


def main(argv):
    """All parts, or the check of one backend."""
    if FLAGS.only:
        answer(differences())
        return
    unknown = {*FLAGS.parts} - {"check", "neuron", "networks"}
    if unknown:
        raise app.UsageError(f"--parts: {', '.join(sorted(unknown))}: check, neuron, networks.")
    end = time.monotonic() + 60 * FLAGS.minutes
    folder = pathlib.Path(FLAGS.folder)
    folder.mkdir(parents=True, exist_ok=True)
    runs = []
    for part in FLAGS.parts:
        if part == "check":
            FLAGS.json = str(folder / "check.json")
            check()
        else:
            runs += commands()[part]
    for i, (name, program, arguments) in enumerate(runs):
        seconds = max(1, (end - time.monotonic()) / (len(runs) - i))
        command = [sys.executable, str(HERE / program), *arguments, f"--repeats={FLAGS.repeats}"]
        if not ended([*command, f"--json={folder / name}.json"], seconds):
            print(f"{name}: stopped after {seconds:.0f} s; what was measured is in {folder}.")


if __name__ == "__main__":
    app.run(main)
