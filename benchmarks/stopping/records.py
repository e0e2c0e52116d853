"""What is recorded of a run, from which every rule is replayed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_ratchet.callbacks._logs import _RunningMeans
from keras_ratchet.policy import Moment, Position

BATCH = 32


@dataclass(frozen=True, slots=True)
class Record:
    """A run to its budget of epochs.

    Attributes:
        metrics: What Keras logs, by name: "loss", "val_loss", and with classes "val_accuracy";
            (epochs,) each.
        val_samples: The loss of each validation sample, (epochs, samples).
        test: What a rule never sees, by name: "loss", and with classes "accuracy".
        weights: The weights after each epoch, in the order of `model.trainable_weights`, with the
            epochs as the first axis.
    """

    metrics: dict[str, np.ndarray]
    val_samples: np.ndarray
    test: dict[str, np.ndarray]
    weights: list[np.ndarray]

    @property
    def epochs(self) -> int:
        """Number of epochs."""
        return len(self.metrics["val_loss"])

    def at(self, epoch: int) -> list[np.ndarray]:
        """Return the weights after an epoch (index from 0)."""
        return [values[epoch] for values in self.weights]

    def moments(self) -> list[Moment]:
        """Return what a criterion sees at the end of each epoch."""
        return [
            Moment(
                Position(epoch + 1),
                {name: float(values[epoch]) for name, values in self.metrics.items()},
                batches={"val_loss": _batches(self.val_samples[epoch])},
            )
            for epoch in range(self.epochs)
        ]


def _batches(losses: np.ndarray) -> list[float]:
    """Return the losses of validation batches, as they are recovered from what Keras logs."""
    ends = [*range(BATCH, len(losses), BATCH), len(losses)]
    sums = np.cumsum(losses, dtype="float64")
    means = _RunningMeans()
    for batch, end in enumerate(ends):
        means.add(batch, {"loss": float(sums[end - 1] / end)})
    return means.values["loss"]


class Recorder(keras.callbacks.Callback):
    """Records a run of `fit`; slower than `training`, and what that is compared with.

    Args:
        val: Validation data, those of `fit`.
        test: Test data.
    """

    def __init__(self, val: tuple, test: tuple) -> None:
        super().__init__()
        self._val, self._test = val, test
        self._rows: list[dict[str, Any]] = []

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Note logs and weights."""
        x, y = self._val
        output = keras.ops.convert_to_tensor(self.model.predict(x, batch_size=BATCH, verbose=0))
        row = {
            "logs": dict(logs),
            "samples": keras.ops.convert_to_numpy(sample_losses(y, output)),
            "test": self.model.evaluate(*self._test, verbose=0, return_dict=True),
            "weights": [np.array(keras.ops.convert_to_numpy(w)) for w in self.model.weights],
        }
        self._rows.append(row)

    def record(self) -> Record:
        """Return the record."""
        rows = self._rows
        logs, test = (
            {name: np.array([row[part][name] for row in rows]) for name in rows[0][part]}
            for part in ("logs", "test")
        )
        weights = [np.stack(values) for values in zip(*(row["weights"] for row in rows))]
        return Record(logs, np.stack([row["samples"] for row in rows]), test, weights)


def sample_losses(y: Any, output: Any) -> Any:
    """Return the loss of each sample: squared error, or cross-entropy of logits."""
    if "int" in str(y.dtype):
        return keras.losses.sparse_categorical_crossentropy(y, output, from_logits=True)
    return keras.losses.mean_squared_error(y, output)
