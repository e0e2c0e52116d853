"""How long does a save block training? As a multiple of one memcpy of the state, in one run.

    python benchmarks/save_time.py            # all backends, writes benchmarks/results.md

For each backend a process of its own trains a model with about 100 MB of state (weights + Adam)
for one step, then lets each callback save several times, in turn, and reports the median time in
the hook divided by the median time of one copy of the state.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BACKENDS = ("torch", "tensorflow", "jax")
ROUNDS = 5
WIDTH = 1400


def build():
    """Return a compiled model of about 8 M weights, trained for one step."""
    import keras
    import numpy as np

    layers = [keras.layers.Dense(WIDTH, activation="relu") for _ in range(4)]
    model = keras.Sequential([keras.Input((WIDTH,)), *layers, keras.layers.Dense(1)])
    model.compile("adam", "mse")
    x = np.zeros((4, WIDTH), "float32")
    model.fit(x, x[:, :1], verbose=0)
    return model


def savers(model, directory):
    """Return name -> function that does what the callback's hook does at the end of an epoch."""
    import keras

    import keras_ratchet

    found = {}
    for source, module in (("Keras", keras.callbacks), ("ours", keras_ratchet)):
        for suffix in (".keras", ".weights.h5", ".h5"):
            callback = module.ModelCheckpoint(
                directory / f"{source}{suffix}", save_weights_only=suffix == ".weights.h5"
            )
            found[f"{source} ModelCheckpoint {suffix}"] = begun(callback, model)
        callback = module.BackupAndRestore(directory / f"{source}-backup")
        found[f"{source} BackupAndRestore"] = begun(callback, model)
    return found


def begun(callback, model):
    """Return the `on_epoch_end` of a callback list in training."""
    import keras

    callbacks = keras.callbacks.CallbackList([callback], model=model, epochs=1000)
    callbacks.on_train_begin()
    counter = iter(range(1000))

    def save():
        epoch = next(counter)
        callbacks.on_epoch_begin(epoch)
        callbacks.on_epoch_end(epoch, {"loss": 1.0})

    return save


def measure(backend):
    """Run in a process of its own; print the figures as JSON."""
    import keras
    import numpy as np

    assert keras.backend.backend() == backend
    model = build()
    variables = [*model.variables, *model.optimizer.variables]
    arrays = [np.array(keras.ops.convert_to_numpy(v)) for v in variables]
    target = [np.empty_like(a) for a in arrays]
    times = {"memcpy": []}
    with tempfile.TemporaryDirectory(dir=".") as directory:
        hooks = savers(model, Path(directory))
        for hook in hooks.values():
            hook()  # the first one allocates and imports
        for _ in range(ROUNDS):
            times["memcpy"].append(timed(lambda: [np.copyto(t, a) for t, a in zip(target, arrays)]))
            for name, hook in hooks.items():
                times.setdefault(name, []).append(timed(hook))
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(json.dumps({"bytes": sum(a.nbytes for a in arrays), "medians": medians}))


def timed(call):
    """Return the seconds that a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def report(results):
    """Return the table as Markdown."""
    rows = [name for name in next(iter(results.values()))["medians"] if name != "memcpy"]
    lines = [
        "# Measured",
        "",
        f"By `make bench` on {platform.machine()}, {os.cpu_count()} cores, {platform.system()}, "
        f"Python {platform.python_version()}; versions as in constraints.txt.",
        "",
        "## Time blocked per save, as a multiple of one memcpy of the state",
        "",
        f"Median of {ROUNDS} saves, in turn with the others, in one process per backend; state = "
        + ", ".join(f"{r['bytes'] / 1e6:.0f} MB ({b})" for b, r in results.items())
        + ". Ours are durable (fsync), verified by digest and atomic; Keras's are none of it.",
        "",
        "| | " + " | ".join(results) + " |",
        "|---|" + "---|" * len(results),
    ]
    for row in rows:
        cells = [f"{r['medians'][row] / r['medians']['memcpy']:.1f}x" for r in results.values()]
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", choices=BACKENDS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure)
        return
    results = {}
    for backend in BACKENDS:
        output = subprocess.run(
            [sys.executable, __file__, "--measure", backend],
            env=os.environ | {"KERAS_BACKEND": backend},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        results[backend] = json.loads(output.strip().splitlines()[-1])
    text = report(results)
    Path(__file__).with_name("results.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
