"""The batches that a run is trained on, as digests: of each row, so that an order can be told.

On torch and jax `fit` hands them to `train_function`, or lets it draw them; on tensorflow they
exist inside of a graph only, and cannot be seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import xxhash

from keras_ratchet.types import Model


class Batches:
    """Sees the batches of a model's steps.

    Args:
        model: The model in training.
    """

    def __init__(self, model: Model) -> None:
        self._model: Any = model
        self._function: Any = None
        self._seen: list[Any] = []

    def watch(self) -> None:
        """Look at what each step of `fit` is given, from now on."""
        function = getattr(self._model, "train_function", None)
        if function is None or self._function is not None or not self._can_see:
            return
        self._function = function
        self._model.train_function = self._step

    @property
    def _can_see(self) -> bool:
        return bool(keras.backend.backend() in ("torch", "jax"))

    def _step(self, *arguments: Any) -> Any:
        *state, data = arguments
        if isinstance(data, list):
            self._seen = [*data]
        else:
            self._seen = []
            data = self._noted(data)
        return self._function(*state, data)

    def _noted(self, batches: Iterator[Any]) -> Iterator[Any]:
        for batch in batches:
            self._seen.append(batch)
            yield batch

    def unwatch(self) -> None:
        """Give the model its function back."""
        if self._function is not None and self._model.train_function == self._step:
            self._model.train_function = self._function
        self._function = None

    def see(self, batch: Any) -> None:
        """Take a batch of a hand-written loop."""
        self._seen = [batch]

    def digests(self) -> tuple[str | None, list[str] | None]:
        """Return, once, digests of the batches of the last step, and of their rows in order."""
        seen, self._seen = self._seen, []
        rows: list[str] = []
        for batch in seen:
            leaves = [keras.ops.convert_to_numpy(x) for x in keras.tree.flatten(batch) if _has(x)]
            leaves = [leaf for leaf in leaves if leaf.ndim]
            for row in range(min((len(leaf) for leaf in leaves), default=0)):
                hasher = xxhash.xxh3_64()
                for leaf in leaves:
                    hasher.update(np.ascontiguousarray(leaf[row]).tobytes())
                rows.append(hasher.hexdigest())
        whole = xxhash.xxh3_64_hexdigest("".join(rows).encode())
        return (whole, rows) if rows else (None, None)


def _has(leaf: Any) -> bool:
    return leaf is not None and hasattr(leaf, "shape") and hasattr(leaf, "dtype")
