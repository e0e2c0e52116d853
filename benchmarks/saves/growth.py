"""How the cost of a save grows: with the state, with the number of layers, with old checkpoints."""

import statistics

from saves import model as models

import keras_ratchet


def measure(rounds, directory):
    """Return milliseconds in the hook, and until durable, for each situation."""
    found = {}
    for name, (model, width) in (
        ("30 MB in 8 layers", models.dense(30)),
        ("300 MB in 8 layers", models.dense(300)),
        ("30 MB in 1,000 layers", models.many_layers(30)),
    ):
        x, y = models.data(width, 2)
        model.fit(x, y, batch_size=models.BATCH, verbose=0)
        found[name] = _times(model, directory / name.replace(" ", "-"), rounds)
    model, _ = models.dense(1)
    for count in (10, 1000):
        where = directory / f"{count}-files"
        many = keras_ratchet.ModelCheckpoint(where / "{epoch}.weights.h5", save_weights_only=True)
        callbacks = models.begun(many, model)
        for epoch in range(count):
            callbacks.on_epoch_end(epoch, {"loss": 1.0})
        callbacks.on_train_end()
        found[f"one more after {count:,}"] = _times(model, where, rounds, keep_best=count + 99)
    return found


def _times(model, directory, rounds, **more):
    callback = keras_ratchet.ModelCheckpoint(
        directory / "x-{epoch}.weights.h5", monitor="loss", save_weights_only=True, **more
    )
    callbacks = models.begun(callback, model)
    hook, durable = [], []
    for number in range(rounds + 2):
        hook.append(models.timed(lambda: callbacks.on_epoch_end(number, {"loss": 1.0})))  # noqa: B023
        durable.append(hook[-1] + models.timed(lambda: models.settle(callbacks)))
    callbacks.on_train_end()
    return {
        "hook_ms": 1e3 * statistics.median(hook[2:]),
        "durable_ms": 1e3 * statistics.median(durable[2:]),
    }
