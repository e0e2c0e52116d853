"""What several processes cost: agreement, a save, and memory where weights are split.

Two processes on this machine, which talk over 127.0.0.1; each ratio is of one run. The engine's
own collectives are measured beside ours: a peer agrees through these.

    python benchmarks/ranks.py            # writes results-ranks.md

`--worker` is one of the processes; the script starts itself.
"""

import argparse
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

EXCHANGES, BATCHES, SAVES = 500, 200, 8
MODEL_MB = 100
SLICED_MB = 256
LIMIT_S = 600


def free_port():
    """Return a port that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def start(engine, what, size=2):
    """Run a measurement in processes; return what each has measured."""
    shared = tempfile.mkdtemp(prefix="bench-ranks-")
    env = os.environ | {
        "KERAS_BACKEND": engine,
        "JAX_PLATFORMS": "cpu",
        "OMP_NUM_THREADS": "1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": free_port(),
    }
    command = [sys.executable, __file__, "--worker", what, "--directory", shared]
    ranks = [
        subprocess.Popen(
            command,
            env=env | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]
    try:
        outputs = [rank.communicate(timeout=LIMIT_S)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert all(rank.returncode == 0 for rank in ranks), outputs
    return [json.loads(output.splitlines()[-1]) for output in outputs]


def join(split=False):
    """Become a rank of the engine; return the index and the number of ranks."""
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if os.environ["KERAS_BACKEND"] == "torch":
        import torch.distributed as dist

        if size > 1:
            dist.init_process_group("gloo")
        return rank, size
    import keras

    if size > 1:
        place = f"127.0.0.1:{os.environ['MASTER_PORT']}"
        keras.distribution.initialize(place, size, rank)
        if not split:
            keras.distribution.set_distribution(
                keras.distribution.DataParallel(auto_shard_dataset=False)
            )
    return rank, size


def mean_ms(action, count=EXCHANGES):
    """Return how long an action takes, in milliseconds, on average."""
    for _ in range(20):
        action()
    start_s = time.perf_counter()
    for _ in range(count):
        action()
    return (time.perf_counter() - start_s) / count * 1e3


def measure_exchange(directory):
    """An exchange of ours beside the engine's own ways to agree."""
    join()
    import keras

    from keras_ratchet import _distributed

    ranks = _distributed.find(keras.backend.backend())
    found = {"ours": mean_ms(lambda: ranks.gather(1, "a flag"))}
    if keras.backend.backend() == "torch":
        import torch
        import torch.distributed as dist

        flag = torch.zeros(1)
        found["all_reduce"] = mean_ms(lambda: dist.all_reduce(flag))
        boxes = [None, None]
        found["all_gather_object"] = mean_ms(lambda: dist.all_gather_object(boxes, 1))
    else:
        import numpy as np
        from jax.experimental import multihost_utils

        flag = np.zeros(1)
        found["process_allgather"] = mean_ms(lambda: multihost_utils.process_allgather(flag))
    return found


def measure_batches(directory):
    """Milliseconds per batch of `fit`, by callbacks."""
    rank, _ = join()
    import keras
    import numpy as np

    import keras_ratchet as kr

    class Clock(keras.callbacks.Callback):
        """Times epochs; has a batch hook, as any logger has."""

        def __init__(self):
            super().__init__()
            self.epochs_s = []

        def on_epoch_begin(self, epoch, logs=None):
            self._start_s = time.perf_counter()

        def on_train_batch_end(self, batch, logs=None):
            pass

        def on_epoch_end(self, epoch, logs=None):
            self.epochs_s.append(time.perf_counter() - self._start_s)

    x = np.random.default_rng(rank).normal(size=(BATCHES * 32, 64)).astype("float32")

    def fit(*callbacks):
        keras.utils.set_random_seed(1)
        layers = [keras.layers.Dense(256, activation="relu") for _ in range(3)]
        model = keras.Sequential([keras.Input((64,)), *layers, keras.layers.Dense(1)])
        model.compile("adam", "mse")
        clock = Clock()
        model.fit(x, x[:, :1], batch_size=32, epochs=6, verbose=0, callbacks=[*callbacks, clock])
        return statistics.median(clock.epochs_s[1:]) / BATCHES * 1e3

    def ours():
        return [
            kr.EarlyStopping("loss", patience=99),
            kr.ReduceLROnPlateau("loss", patience=99),
            kr.TerminateOnNaN(restore=False),
            kr.BackupAndRestore(f"{directory}/backup", save_freq=10**6, signals=["SIGTERM"]),
        ]

    cases = {"none": list, "four": ours, "rollback": lambda: [kr.Rollback()]}
    found = [{name: fit(*make()) for name, make in cases.items()} for _ in range(4)]
    return {name: min(one[name] for one in found[1:]) for name in cases}  # they take turns


def measure_saves(directory):
    """The hook of a snapshot of replicated weights."""
    join()
    import keras

    import keras_ratchet

    keras.utils.set_random_seed(1)
    units = int((MODEL_MB / 4 * 1e6 / 4) ** 0.5)
    model = keras.Sequential(
        [keras.Input((units,)), *[keras.layers.Dense(units, use_bias=False) for _ in range(4)]]
    )
    hooks_ms, ended_s = [], None
    with keras_ratchet.Run(f"{directory}/run", model, save_freq=1, background=True) as run:
        for _ in run.epochs(1):
            for _ in run.batches(range(SAVES + 2)):
                if ended_s is not None:
                    hooks_ms.append((time.perf_counter() - ended_s) * 1e3)
                run.backup.flush()  # the save before is on the disk
                line_up()
                ended_s = time.perf_counter()
    return {"hook": statistics.median(hooks_ms[1:])}


def line_up():
    """Wait for the other rank, outside of what is timed."""
    if os.environ["WORLD_SIZE"] == "1":
        return
    if os.environ["KERAS_BACKEND"] == "torch":
        import torch.distributed as dist

        dist.barrier()
    else:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices("line up")


def measure_memory(directory):
    """How much more memory a save of split weights needs at its peak, in MB."""
    join(split=True)
    import jax
    import keras

    import keras_ratchet as kr

    class Peak(keras.callbacks.Callback):
        """Measures between the end of an epoch and the start of the next one: in the save."""

        def __init__(self):
            super().__init__()
            self.peaks_mb, self._before_mb = [], None

        def on_epoch_end(self, epoch, logs=None):
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
            self._before_mb = memory_mb("VmRSS")

        def on_epoch_begin(self, epoch, logs=None):
            if self._before_mb is not None:
                self.peaks_mb.append(memory_mb("VmHWM") - self._before_mb)

    mesh = keras.distribution.DeviceMesh((1, 2), ["batch", "model"], devices=jax.devices())
    layout = keras.distribution.LayoutMap(mesh)
    layout[".*kernel"] = (None, "model")
    keras.distribution.set_distribution(
        keras.distribution.ModelParallel(
            layout_map=layout, batch_dim_name="batch", auto_shard_dataset=False
        )
    )
    units = int((SLICED_MB / 4 * 1e6 / 4) ** 0.5) // 2 * 2
    x = jax.numpy.ones((4, units))
    found = {}
    for name, callback in {
        "BackupAndRestore": kr.BackupAndRestore(f"{directory}/backup", background=False),
        "ModelCheckpoint .weights.h5": kr.ModelCheckpoint(
            f"{directory}/a.weights.h5", "loss", save_weights_only=True, background=False
        ),
        "ModelCheckpoint .keras": kr.ModelCheckpoint(
            f"{directory}/a.keras", "loss", background=False
        ),
    }.items():
        keras.utils.set_random_seed(1)
        layers = [keras.layers.Dense(units, use_bias=False) for _ in range(4)]
        model = keras.Sequential([keras.Input((units,)), *layers])
        model.compile(keras.optimizers.SGD(1e-6), "mse")
        peak = Peak()
        model.fit(x, x, batch_size=4, epochs=4, verbose=0, callbacks=[peak, callback])
        found[name] = max(peak.peaks_mb[1:])
        found["whole"] = sum(v.value.nbytes for v in model.variables) / 1e6
        del model
    return found


def memory_mb(name):
    """Return a line of /proc/self/status, in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024 / 1e6
    raise KeyError(name)


def table(head, rows):
    """Return a Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def report():
    """Measure everything; return the page."""
    engines = ("torch", "jax")
    exchange = {engine: start(engine, "exchange")[0] for engine in engines}
    rows = []
    for engine, found in exchange.items():
        ours = found.pop("ours")
        rows += [(engine, "ours", f"{ours:.2f} ms", "1.0x")]
        rows += [(engine, n, f"{ms:.2f} ms", f"{ms / ours:.1f}x") for n, ms in found.items()]
    parts = [
        "## One exchange of a flag\n\nOurs travels over a connection of its own; the others are "
        "collectives of the engine, which wait for ever for a rank that does something else.",
        table(("engine", "by", "time", "ratio"), rows),
    ]
    batches = start("jax", "batches")
    slow = {name: max(found[name] for found in batches) for name in batches[0]}
    rows = [
        ("a batch hook of the user's", f"{slow['none']:.2f} ms", "1.00x"),
        (
            "EarlyStopping, ReduceLROnPlateau, TerminateOnNaN, BackupAndRestore with signals",
            f"{slow['four']:.2f} ms",
            f"{slow['four'] / slow['none']:.2f}x",
        ),
        ("Rollback", f"{slow['rollback']:.2f} ms", f"{slow['rollback'] / slow['none']:.2f}x"),
    ]
    parts += [
        f"## A batch of `fit` on JAX\n\n{BATCHES} batches of 32 rows per epoch and rank, four "
        "Dense layers; the median epoch of five, the best of three turns, the slower rank.",
        table(("callbacks", "per batch", "ratio"), rows),
    ]
    rows = []
    for engine in engines:
        one = start(engine, "saves", size=1)[0]["hook"]
        two = max(found["hook"] for found in start(engine, "saves"))
        rows.append((engine, f"{one:.0f} ms", f"{two:.0f} ms", f"{two / one:.1f}x"))
    parts += [
        f"## The hook of a snapshot\n\n{MODEL_MB} MB of weights that are the same on all ranks, "
        "written in the background; the ranks compare digests of them. Median of "
        f"{SAVES}, the slower rank.",
        table(("engine", "one process", "two processes", "ratio"), rows),
    ]
    memory = start("jax", "memory")
    whole = memory[0].pop("whole")
    rows = [
        (name, *(f"{found[name]:.0f} MB ({found[name] / whole:.2f}x)" for found in memory))
        for name in memory[0]
    ]
    parts += [
        f"## Memory for a save of split weights\n\n{whole:.0f} MB over two processes "
        "(`ModelParallel` on JAX), half of it in each: how much more a process needs at the peak "
        "of a save in the foreground, also as a multiple of the whole model.",
        table(("save", "rank 0", "rank 1"), rows),
    ]
    head = (
        "# What several processes cost\n\n"
        f"By `python benchmarks/ranks.py` on {platform.machine()}, {os.cpu_count()} cores, "
        f"{platform.system()}, Python {platform.python_version()}; two processes that talk over "
        "127.0.0.1."
    )
    return "\n\n".join([head, *parts]) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--worker", choices=("exchange", "batches", "saves", "memory"))
    parser.add_argument("--directory")
    arguments = parser.parse_args()
    if arguments.worker:
        found = globals()[f"measure_{arguments.worker}"](arguments.directory)
        print(json.dumps(found), flush=True)
        return
    page = report()
    Path(__file__).with_name("results-ranks.md").write_text(page)
    print(page)


if __name__ == "__main__":
    main()
