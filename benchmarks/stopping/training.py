"""Runs, recorded in one compiled piece: Keras's layers, losses and Adam in a scan of JAX.

What `fit` does, batch by batch in the same order, without its Python in between (a step takes
some 0.1 ms): tests/test_stopping_study.py compares the two.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np

from stopping.networks import Network
from stopping.records import BATCH, Record, sample_losses
from stopping.tasks import Split


class Trainer:
    """Trains and measures one kind of model.

    Args:
        network: Its layers.
        features: Number of inputs.
        classes: Number of classes, or 0 for a regression.
    """

    def __init__(self, network: Network, features: int, classes: int) -> None:
        self._new = functools.partial(network.build, features, classes)
        self._model = self._new()
        self._optimizer = self._model.optimizer
        self._optimizer.build(self._model.trainable_variables)
        self._run = jax.jit(self._train)
        self._measure = jax.jit(self._results)
        self._classes = classes

    def record(self, split: Split, seed: int, epochs: int) -> Record:
        """Train a model to the budget.

        Args:
            split: The data.
            seed: Of the first weights, of the order of the batches and of dropout.
            epochs: The budget.
        """
        keras.utils.set_random_seed(seed)
        state = _values(self._new())
        order = shuffles(len(split.train[0]), epochs, seed)
        logs, val, test, weights = jax.device_get(
            self._run(state, split.train, split.val, split.test, _padded(order))
        )
        metrics = {"loss": logs, "val_loss": val["loss"].mean(axis=1)}
        if self._classes:
            metrics["val_accuracy"] = val["accuracy"].mean(axis=1)
        test = {name: values.mean(axis=1) for name, values in test.items()}
        return Record(metrics, val["loss"], test, weights)

    def losses(self, weights: list[np.ndarray], data: tuple) -> dict[str, float]:
        """Return loss (and accuracy) of weights on data."""
        found = self._measure(weights, *data)
        return {name: float(values.mean()) for name, values in jax.device_get(found).items()}

    def _results(self, weights: Any, x: Any, y: Any) -> dict[str, Any]:
        """Return the loss (and with classes the hit) of each sample."""
        state = [v.value for v in self._model.non_trainable_variables]
        output, _ = self._model.stateless_call(weights, state, x, training=False)
        results = {"loss": sample_losses(y, output)}
        if self._classes:
            results["accuracy"] = (jnp.argmax(output, axis=-1) == y).astype("float32")
        return results

    def _train(self, state: Any, train: Any, val: Any, test: Any, batches: Any) -> Any:
        """Return training loss, results on validation and test data, and weights, by epoch."""
        weights, others = state
        slots = [v.value for v in self._optimizer.variables]

        def epoch(state: Any, batches: Any) -> Any:
            state, (losses, counts) = jax.lax.scan(
                functools.partial(self._step, *train), state, batches
            )
            results = [self._results(state[0], *data) for data in (val, test)]
            return state, ((losses * counts).sum() / counts.sum(), *results, state[0])

        return jax.lax.scan(epoch, (weights, others, slots), batches)[1]

    def _step(self, x: Any, y: Any, state: Any, batch: Any) -> Any:
        """Take one step; places of a batch that hold no sample have weight 0."""
        weights, others, slots = state
        index, counts = batch
        gradient = jax.value_and_grad(self._loss, has_aux=True)
        (loss, others), slopes = gradient(weights, others, x[index], y[index], counts)
        weights, slots = self._optimizer.stateless_apply(slots, slopes, weights)
        return (weights, others, slots), (loss, counts.sum())

    def _loss(self, weights: Any, others: Any, x: Any, y: Any, counts: Any) -> Any:
        output, others = self._model.stateless_call(weights, others, x, training=True)
        return (sample_losses(y, output) * counts).sum() / counts.sum(), others


def trainer(network: Network, features: int, classes: int) -> Trainer:
    """Return the trainer of a kind of model; what it has compiled is used again."""
    return _trainer(replace(network, name="", noisy=False), features, classes)


_trainer = functools.lru_cache(maxsize=3)(Trainer)


def shuffles(samples: int, epochs: int, seed: int) -> np.ndarray:
    """Return the order of the samples in each epoch, (epochs, samples)."""
    rng = np.random.default_rng([seed, 1])
    return np.stack([rng.permutation(samples) for _ in range(epochs)])


def _padded(order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return indices and weights of (epochs, batches, BATCH) places; the last may be empty."""
    epochs, samples = order.shape
    steps = -(-samples // BATCH)
    index = np.zeros((epochs, steps * BATCH), "int32")
    index[:, :samples] = order
    counts = np.zeros(index.shape, "float32")
    counts[:, :samples] = 1
    return tuple(array.reshape(epochs, steps, BATCH) for array in (index, counts))


def _values(model: Any) -> tuple[list[Any], list[Any]]:
    lists = (model.trainable_variables, model.non_trainable_variables)
    return tuple([v.value for v in variables] for variables in lists)
