"""The networks: small, large, with dropout; and large on noisy labels."""

from __future__ import annotations

from dataclasses import dataclass

import keras


@dataclass(frozen=True, slots=True)
class Network:
    """A multilayer perceptron and what it is trained on.

    Attributes:
        name: What it is called in the tables.
        units: Widths of the hidden layers.
        dropout: Share that is left out after each of them.
        noisy: Whether labels are made noisy.
        learning_rate: Of Adam.
    """

    name: str
    units: tuple[int, ...]
    dropout: float = 0.0
    noisy: bool = False
    learning_rate: float = 1e-3

    def build(self, features: int, classes: int) -> keras.Sequential:
        """Return a new compiled model; its weights depend on Keras's random seed."""
        layers = [keras.Input((features,))]
        for units in self.units:
            layers.append(keras.layers.Dense(units, activation="relu"))
            if self.dropout:
                layers.append(keras.layers.Dropout(self.dropout))
        model = keras.Sequential([*layers, keras.layers.Dense(classes or 1)])
        loss = "mse"
        if classes:
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(
            keras.optimizers.Adam(self.learning_rate), loss, metrics=["accuracy"] if classes else []
        )
        return model


NETWORKS = (
    Network("small", (16,), learning_rate=3e-3),
    Network("large", (128, 128)),
    Network("dropout", (128, 128), dropout=0.4),
    Network("label noise", (128, 128), noisy=True),
)
