"""Where the data stands: what a source has to remember, and the steps to skip.

Every source is brought back to the begin of the epoch, and the batches that were done are then
drawn and thrown away. What a source needs for that differs (docs/resume.md has the table):
arrays need the host's random streams only; a torch DataLoader its generators; tf.data as many
iterators made as before; a PyDataset its attributes; an iterator that lives over epochs an
object that owns it (`keras_ratchet.data.resumable`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_ratchet import _backends
from keras_ratchet._engine.callback_states import CallbackStates
from keras_ratchet._engine.plain import owned
from keras_ratchet._keras import data_adapters
from keras_ratchet.types import Seekable, Stateful


class DataCursor:
    """Takes the state of a `fit`'s data at the begin of an epoch, and puts it back.

    Args:
        iterator: The `EpochIterator` of `fit`, or None in a custom loop.
        data: The data set, where the user named it.
    """

    def __init__(self, iterator: Any, data: Any = None) -> None:
        self._iterator = iterator
        self.kind, found = data_adapters.data_source(iterator)
        self.source = found if data is None else data
        if self.kind == "loop" and hasattr(data, "batch_sampler"):
            self.kind = "torch_loader"
        self._attributes = CallbackStates([self.source] if self.kind == "py_dataset" else [])

    def facts(self) -> dict[str, Any]:
        """Return what has to be the same when training goes on."""
        adapter = getattr(self._iterator, "data_adapter", None)
        return {
            "data": self.kind,
            "batch_size": getattr(adapter, "batch_size", None),
            "batches_per_epoch": getattr(self._iterator, "steps_per_epoch", None)
            or getattr(adapter, "num_batches", None),
        }

    def completed(self, batch: int) -> int:
        """Return how many batches are done at the end of the step that `fit` counts as `batch`.

        Where several are done at once, the last step of an epoch may hold fewer than it counts.
        """
        return min(batch + 1, getattr(self._iterator, "num_batches", None) or batch + 1)

    def capture(self) -> dict[str, Any]:
        """Return the source's state; call it between two epochs."""
        return {
            "batches": getattr(self._iterator, "num_batches", None),
            "passes": data_adapters.passes(self._iterator),
            **self._state(),
        }

    def capture_at(self, batch: int, begin: Mapping[str, Any]) -> dict[str, Any]:
        """Return the source's state in the middle of an epoch.

        Args:
            batch: Batches of the epoch that are done.
            begin: What `capture` returned when the epoch began.
        """
        if isinstance(self.source, Seekable):
            return {**begin, "state": owned(dict(self.source.state_at(batch)))}
        return dict(begin)

    def _state(self) -> dict[str, Any]:
        if self._is_stateful():
            return {"state": owned(dict(self.source.state_dict()))}
        if self.kind == "torch_loader":
            states = [self._torch().generator_state(g) for g in self._generators()]
            return {"generators": states}
        if self.kind == "py_dataset":
            return {"attributes": self._attributes.capture()}
        return {}

    def restore(self, state: Mapping[str, Any], epoch: int, batch: int = 0) -> None:
        """Bring the source to the begin of an epoch; the batches that are done will be skipped.

        Args:
            state: What `capture` or `capture_at` returned.
            epoch: Index of the epoch.
            batch: Batches of the epoch that are done.
        """
        if isinstance(self.source, Seekable):
            self.source.seek(owned(state["state"]), batch)
        elif "state" in state:
            self.source.load_state_dict(owned(state["state"]))
        for generator, saved in zip(self._generators(), state.get("generators", ()), strict=False):
            self._torch().set_generator(generator, np.array(saved))
        if "attributes" in state:
            self._attributes.load(state["attributes"])
        if self.kind == "tf_dataset":
            data_adapters.advance_dataset(self._iterator, self.source, epoch, state.get("batches"))
        if state.get("passes") is not None:
            data_adapters.set_passes(self._iterator, state["passes"])
        if state.get("batches") is not None:
            data_adapters.set_num_batches(self._iterator, state["batches"])

    def _is_stateful(self) -> bool:
        return isinstance(self.source, Stateful) and self.kind != "torch_loader"

    def _generators(self) -> list[Any]:
        """Return the generators of its own that a torch DataLoader draws from, each once."""
        return self._torch().generators(self.source) if self.kind == "torch_loader" else []

    @staticmethod
    def _torch() -> Any:
        return _backends.torch_loading()

    def complaints(self) -> list[str]:
        """Return, for what cannot be resumed exactly, the reason and the cure."""
        wrap = "Wrap it: keras_ratchet.data.resumable(...)."
        if self._partial_epochs():
            return [f"steps_per_epoch cuts the data into epochs that are no whole pass. {wrap}"]
        if self._is_stateful():
            return []
        if self.kind == "generator":
            return [f"A Python generator cannot be set back from outside. {wrap}"]
        if self.kind == "torch_loader" and getattr(self.source, "persistent_workers", False):
            return [f"The workers of this DataLoader live over epochs. {wrap}"]
        if self.kind == "torch_loader" and hasattr(self.source, "state_dict"):
            return [f"A StatefulDataLoader keeps its place from epoch to epoch. {wrap}"]
        if self.kind == "unknown":
            return [f"Nothing is known about data of this kind. {wrap}"]
        if lost := [name for name in self._attributes.not_kept() if self._draws(name)]:
            return [
                f"{', '.join(lost)} cannot be kept. Use NumPy's random generators, or give the "
                f"data set state_dict() and load_state_dict()."
            ]
        if self.kind == "array" and data_adapters.draws_unseeded(self._iterator):
            return [
                "TensorFlow shuffles arrays by a seed of its own, which nobody can read. Call "
                "keras.utils.set_random_seed(...) first, or use keras_ratchet.data."
                "ResumableDataset."
            ]
        return []

    def _draws(self, name: str) -> bool:
        """Say whether an attribute, named as `Class.attribute`, is a random generator."""
        value = getattr(self.source, name.partition(".")[2])
        return type(value).__name__ in ("Generator", "SeedGenerator")

    def _partial_epochs(self) -> bool:
        steps = getattr(self._iterator, "steps_per_epoch", None)
        whole = getattr(getattr(self._iterator, "data_adapter", None), "num_batches", None)
        return bool(steps) and steps != whole
