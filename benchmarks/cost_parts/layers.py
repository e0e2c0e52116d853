"""A thousand small layers: the time in the hook."""

from saves import model as models

from cost_parts.common import row, saves, snapshots, weights

LAYERS = 1000


def measure(variant, mb, directory):
    """Return the samples of one process."""
    model, width = models.many_layers(mb, LAYERS)
    batch = models.data(width, 1)
    found = {}
    if variant != "Orbax":
        file = saves(weights(variant, directory / "x.weights.h5"), model, batch, 3)
        found["file hook_ms"] = file["hook_ms"]
    found["snapshot hook_ms"] = saves(snapshots(variant, directory), model, batch, 3)["hook_ms"]
    return found


def goals(found, mb, backend):
    """Return the rows of the table."""
    about = f"{backend}, {LAYERS:,} layers, {mb} MB: in the hook of"
    return [
        row(f"{about} .weights.h5 <= 20 ms", 20, found, "file hook_ms", " ms"),
        row(f"{about} a snapshot <= 20 ms", 20, found, "snapshot hook_ms", " ms"),
    ]
