"""Run by tests/test_stopping_study.py on jax: how far the study's scan is from `fit`, as JSON."""

import json

import keras
import numpy as np
from stopping import tasks
from stopping.networks import NETWORKS
from stopping.records import BATCH, Recorder
from stopping.training import shuffles, trainer

EPOCHS, SEED = 8, 3


def fitted(network, task, split, orders):
    """Return the record of `fit` on batches in this order."""
    keras.utils.set_random_seed(SEED)
    model = network.build(task.x.shape[1], task.classes)
    recorder = Recorder(split.val, split.test)
    given = {"validation_data": split.val, "callbacks": [recorder], "verbose": 0}
    for epoch, order in enumerate(orders):
        x, y = (array[order] for array in split.train)
        model.fit(x, y, BATCH, epochs=epoch + 1, initial_epoch=epoch, shuffle=False, **given)
    return recorder.record()


def distances(one, other):
    """Return the largest relative difference of each curve, and of the weights."""
    pairs = {name: (one.metrics[name], other.metrics[name]) for name in one.metrics}
    pairs |= {f"test_{name}": (one.test[name], other.test[name]) for name in one.test}
    pairs["val_samples"] = (one.val_samples, other.val_samples)
    for i, weights in enumerate(zip(one.weights, other.weights, strict=True)):
        pairs[f"weight {i}"] = weights
    return {
        name: float(np.max(np.abs(np.asarray(a, "float64") - b)) / np.max(np.abs(b)))
        for name, (a, b) in pairs.items()
    }


def main():
    found = {}
    for name in ("iris", "diabetes"):
        task, network = tasks.load(name), NETWORKS[0]
        split = tasks.split(task, SEED)
        scan = trainer(network, task.x.shape[1], task.classes).record(split, SEED, EPOCHS)
        orders = shuffles(len(split.train[0]), EPOCHS, SEED)
        found[name] = distances(scan, fitted(network, task, split, orders))
        if name == "iris":
            backwards = orders[:, ::-1]
            found["iris, other order"] = distances(scan, fitted(network, task, split, backwards))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
