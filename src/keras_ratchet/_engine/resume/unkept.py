"""What of a model a snapshot cannot hold, said as soon as the first steps have shown it."""

from __future__ import annotations

from typing import Any

import keras

from keras_ratchet import _backends
from keras_ratchet._engine.capture.attributes import AttributeStates
from keras_ratchet._engine.capture.reach import Reach
from keras_ratchet._warn import warn
from keras_ratchet.types import Position

_RANDOM = (
    "draws random numbers from a state that TensorFlow hides. Use keras.random with a "
    "keras.random.SeedGenerator that the layer or model owns"
)


class Unkept:
    """Looks at each save for what cannot be kept, and warns once of each thing.

    Args:
        model: The model, when training begins.
    """

    def __init__(self, model: Any) -> None:
        self.attributes = AttributeStates(model)
        self._looked = False

    def look(self, model: Any, position: Position, found: Reach) -> dict[str, dict[str, Any]]:
        """Return the attributes to be kept; warn of what cannot be.

        Args:
            model: The model.
            position: What is done.
            found: What is reachable in the model now.
        """
        kept = self.attributes.capture(model, found)
        if not (position.epoch or position.batch):
            return kept
        eager = keras.backend.backend() == "torch" or bool(getattr(model, "run_eagerly", False))
        sentences = self.attributes.complaints(model, not eager, found)
        if not self._looked:
            self._looked = True
            if ops := _backends.current().random_ops(getattr(model, "train_function", None)):
                sentences.append(f"{', '.join(ops[:5])} {_RANDOM}.")
        if sentences:
            warn(f"Resume will not be exact. {' '.join(sentences)}")
        return kept
