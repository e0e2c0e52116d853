"""One source of data: its own state, and why it cannot be resumed exactly, if so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras

from keras_ratchet import _backends
from keras_ratchet._engine.resume.state_codec import owned
from keras_ratchet.types import Seekable, Stateful

_CUTS = ("_TakeDataset", "_TakeWhileDataset")
_AHEAD = ("_PrefetchDataset",)
_WRAP = "Wrap it: keras_ratchet.data.resumable(...)."


@dataclass(frozen=True, slots=True)
class SourceState:
    """The state that a source has by itself.

    Args:
        kind: As `data_adapters.data_source` names it.
        source: The source.
        validates: Whether it is what `fit` validates on.
        steps: Batches of a pass, where `fit` is told.
    """

    kind: str
    source: Any
    validates: bool = False
    steps: int | None = None

    @property
    def is_stateful(self) -> bool:
        """Whether it hands its state out; then nobody needs to look into it."""
        return isinstance(self.source, Stateful) and self.kind != "torch_loader"

    def capture(self) -> dict[str, Any]:
        """Return the state between two epochs."""
        return {"state": owned(dict(self.source.state_dict()))} if self.is_stateful else {}

    def capture_at(self, batch: int) -> dict[str, Any]:
        """Return the state after so many batches of an epoch, where that is known."""
        if isinstance(self.source, Seekable):
            return {"state": owned(dict(self.source.state_at(batch)))}
        return {}

    def restore(self, state: Mapping[str, Any], batch: int) -> None:
        """Put the state back; so many batches of the epoch will be skipped."""
        if "state" not in state:
            return
        if isinstance(self.source, Seekable):
            self.source.seek(owned(state["state"]), batch)
        else:
            self.source.load_state_dict(owned(state["state"]))

    def complaint(self) -> str | None:
        """Return why it cannot be resumed exactly, and the cure."""
        if self.is_stateful:
            original = getattr(self.source, "original", None)
            return _race(original) or _cut_short(original, None)
        if self.kind == "generator":
            return f"A Python generator cannot be set back from outside. {_WRAP}"
        if self.kind == "torch_loader" and getattr(self.source, "persistent_workers", False):
            return f"The workers of this DataLoader live over epochs. {_WRAP}"
        if self.kind == "torch_loader" and hasattr(self.source, "state_dict"):
            return f"A StatefulDataLoader keeps its place from epoch to epoch. {_WRAP}"
        if self.kind == "unknown":
            return f"Nothing is known about data of this kind. {_WRAP}"
        found = _race(self.source) or _cut_short(self.source, self.steps)
        return found or (None if self.validates else _looked_at(self.source))


def _race(pipeline: Any) -> str | None:
    tensorflow = _backends.tensorflow_loading()
    if tensorflow is None or not tensorflow.races(pipeline):
        return None
    return (
        "Several calls of a function in this tf.data pipeline draw random numbers at a time, "
        "so that no two trainings are alike. Use map() without num_parallel_calls for it, or "
        "tf.config.experimental.enable_op_determinism()."
    )


def _cut_short(pipeline: Any, steps: int | None) -> str | None:
    tensorflow = _backends.tensorflow_loading()
    if tensorflow is None:
        return None
    if not (tensorflow.draws_for(pipeline, _CUTS) or (steps and tensorflow.draws(pipeline))):
        return None
    return (
        "When a pass over this tf.data pipeline is cut short (take, steps), nobody knows for how "
        "many rows it has drawn random numbers ahead, so that no two trainings are alike. Let "
        "take() come before the map() that draws."
    )


def _looked_at(pipeline: Any) -> str | None:
    tensorflow = _backends.tensorflow_loading()
    if tensorflow is None or keras.backend.backend() == "tensorflow":
        return None
    if not tensorflow.draws_for(pipeline, _AHEAD):
        return None
    return (
        "Keras draws a batch to learn shapes, and nobody knows for how many more this tf.data "
        f"pipeline has drawn random numbers ahead (prefetch). {_WRAP}"
    )
