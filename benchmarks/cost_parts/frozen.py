"""Twelve snapshots of a model with a frozen base: bytes on the disk, and time."""

from pathlib import Path

from saves import model as models

from cost_parts.common import row, saves, snapshots

SAVES = 12


def model_of(base_mb, layers=8):
    """Return a compiled model with a frozen base of so many MB and a small head; its width."""
    import keras

    width = round((base_mb * 1e6 / 4 / layers) ** 0.5)
    stack = [keras.layers.Dense(width, activation="relu") for _ in range(layers)]
    model = keras.Sequential([keras.Input((width,)), *stack, keras.layers.Dense(1)])
    for layer in stack:
        layer.trainable = False
    model.compile("adam", "mse")
    return model, width


def measure(variant, mb, directory):
    """Return the samples of one process."""
    model, width = model_of(mb)
    batch = models.data(width, 1)
    model.train_on_batch(*batch)
    before = written_bytes()
    found = saves(snapshots(variant, directory, keep=SAVES), model, batch, SAVES - 2, unmeasured=2)
    base = sum(v.value.nbytes for v in model.non_trainable_variables if "seed" not in v.path)
    found["bases"] = [(written_bytes() - before) / base]
    return found


def written_bytes():
    """Return how many bytes this process has had written to disks (Linux)."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("write_bytes")).split()[1])


def goals(found, mb):
    """Return the rows of the table."""
    about = f"12 snapshots, {mb} MB frozen"
    return [
        row(f"{about}: written, in bases <= 1.5", 1.5, found, "bases", "x"),
        row(f"{about}: in the hook", None, found, "hook_ms", " ms"),
        row(f"{about}: until durable", None, found, "durable_ms", " ms"),
        row(f"{about}: processor time", None, found, "cpu_ms", " ms"),
    ]
