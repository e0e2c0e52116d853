"""Peak memory of one save in flight, in states."""

from saves import memory

from cost_parts.common import row

NAMES = {
    "ours ModelCheckpoint .weights.h5": ".weights.h5",
    "ours BackupAndRestore": "snapshot",
    "ours ModelCheckpoint .keras": ".keras",
}


def measure(variant, mb, directory, name):
    """Return the sample of one process."""
    name = name.replace("ours", "Keras") if variant == "Keras" else name
    name = "Keras OrbaxCheckpoint, asynchronous" if variant == "Orbax" else name
    return {"states": [memory.measure(mb, name, directory)]}


def goals(found, mb, backend, name):
    """Return the rows of the table."""
    goal = f"{backend}, {mb} MB {NAMES[name]}: peak of a save in flight, in states <= 1.1"
    return [row(goal, 1.1, found, "states", "x")]
