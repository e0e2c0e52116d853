"""LoRA on a large base: what a save costs, as a share of that of the same model all trainable."""

from saves import model as models

from cost_parts.common import Row, saves, slower_ms, snapshots, takes, weights

RANK = 4
FIGURES = {
    "hook_ms": "in the hook",
    "slower_ms": "in the hook and by slower steps",
    "durable_ms": "until durable",
    "cpu_ms": "processor time",
}


def model_of(base_mb, lora, layers=8):
    """Return a compiled model with a base of so many MB, trained with LoRA or whole; its width."""
    import keras

    width = round((base_mb * 1e6 / 4 / layers) ** 0.5)
    stack = [keras.layers.Dense(width, activation="relu") for _ in range(layers)]
    model = keras.Sequential([keras.Input((width,)), *stack])
    if lora:
        for layer in stack:
            layer.enable_lora(RANK)
    # without slots: those of an optimizer like Adam would make the whole save three times as dear
    model.compile("sgd", "mse")
    return model, width


def measure(variant, mb, directory):
    """Return the samples of one process."""
    import keras_ratchet

    found = {}
    for kind in ("lora", "whole"):
        model, width = model_of(mb, kind == "lora")
        data = [models.data(width, 20)[0]] * 2
        batch = [array[: models.BATCH] for array in data]
        own = saves(snapshots(variant, directory / kind), model, batch, 4)
        own["slower_ms"] = slower_ms(
            snapshots(variant, directory / f"{kind}-fit"), model, data, 2, max(0.3, mb / 200)
        )
        found |= {f"{kind} {name}": samples for name, samples in own.items()}
        if variant in {"now", "Keras"}:
            more = {}
            if variant == "now" and takes(keras_ratchet.ModelCheckpoint.__init__, "trainable_only"):
                more = {"trainable_only": kind == "lora"}
            path = directory / f"{kind}.weights.h5"
            file = saves(weights(variant, path, **more), model, batch, 2)
            found |= {f"{kind} file {name}": samples for name, samples in file.items()}
            found[f"{kind} file bytes"] = [path.stat().st_size]
    return found


def goals(found, mb):
    """Return the rows of the table."""
    rows = [
        _share(f"LoRA on {mb} MB, snapshot: {words}, of the whole one's <= 5 %", found, figure)
        for figure, words in FIGURES.items()
    ]
    about = f"LoRA on {mb} MB, file with trainable_only"
    return [
        *rows,
        _share(f"{about}: bytes, of the whole one's <= 5 %", found, "file bytes"),
        _share(f"{about}: until durable, of the whole one's", found, "file durable_ms", None),
    ]


def _share(goal, found, figure, limit=5.0):
    values = {
        variant: 100 * medians[f"lora {figure}"] / medians[f"whole {figure}"]
        for variant, medians in found.items()
        if medians.get(f"whole {figure}", 0) > 0  # below is noise
    }
    return Row(goal, limit, values, " %")
