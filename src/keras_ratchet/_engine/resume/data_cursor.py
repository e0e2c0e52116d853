"""Where the data stands: the state of each source, and the batches to skip.

Every source is brought back to the start of the epoch, and the batches that were done are then
drawn and thrown away. What a source needs for that differs (docs/resume.md has the table): arrays
need the host's random streams only; tf.data as many iterators made as before; an iterator that
lives over epochs an object that owns it (`keras_ratchet.data.resumable`). For all of them, and for
the validation data likewise, what is reachable and has changed is saved (`data_states`).
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import xxhash
from numpy.typing import NDArray

from keras_ratchet import _backends
from keras_ratchet._engine.capture import rng
from keras_ratchet._engine.resume import tf_pipeline
from keras_ratchet._engine.resume.data_states import DataStates
from keras_ratchet._engine.resume.state_codec import fingerprint, owned
from keras_ratchet._keras import fit
from keras_ratchet._warn import warn
from keras_ratchet.types import Seekable, Stateful

_WRAP = "Wrap it: keras_ratchet.data.resumable(...)."
_WHOLE_BYTES = 1 << 28  # some hundredths of a second
_ROWS = 4096
_PATIENCE_S = 3.0
_UNKNOWN = (
    "Resume may not be exact: the global random stream of {streams} has moved in this epoch, and "
    "the batches that are done do not draw from it. TensorFlow reads ahead, so it is unknown "
    "whether the data had drawn for later ones; it is set to where it was. Give the data, or what "
    "else draws from it, a generator of its own, such as np.random.default_rng(seed)."
)


class DataCursor:
    """Captures the state of the data of a `fit` at the start of an epoch, and restores it.

    Args:
        iterator: The `EpochIterator` of `fit`, or None in a custom loop.
        data: The data set, where the user named it.
        model: The model, whose variables are saved elsewhere.
    """

    def __init__(self, iterator: Any, data: Any = None, model: Any = None) -> None:
        self._iterator = iterator
        self.kind, found = fit.data_source(iterator)
        self.source = found if data is None else data
        if self.kind == "loop" and hasattr(data, "batch_sampler"):
            self.kind = "torch_loader"
        self.loader = self.source  # a hand-written loop shows it with its first batch
        self._train = SourceState(self.kind, self.source, model=model)
        self._fit = fit.validation_of_fit()
        self._validation: SourceState | None = None
        if self._fit is not None:
            kind = fit.kind_of(self._fit.x)
            steps = self._fit.arguments["steps_per_epoch"]
            self._validation = SourceState(kind, self._fit.x, True, steps, model)
        self._states = DataStates(self._roots(), list(getattr(model, "variables", ())))
        self._epochs = self._iterators = self._validations = 0
        self._before_skip: dict[str, str] = {}
        self._watches: bool | None = None
        self._arrays = ""

    def _roots(self) -> dict[str, Any]:
        """Return what to look into, by a name for people."""
        roots = {}
        for state, words in ((self._train, ""), (self._validation, "validation ")):
            if state is not None and state.kind != "array" and not state.is_stateful:
                roots[words + type(state.source).__name__] = state.source
        return roots

    @property
    def is_stateful(self) -> bool:
        """Whether the training data has a state of its own."""
        return self._train.is_stateful

    def facts(self) -> dict[str, Any]:
        """Return what has to be the same in a run that resumes."""
        adapter = getattr(self._iterator, "data_adapter", None)
        return {
            "data": self.kind,
            "batch_size": getattr(adapter, "batch_size", None),
            "batches_per_epoch": getattr(self._iterator, "steps_per_epoch", None)
            or getattr(adapter, "num_batches", None),
        }

    def start_skip(self) -> None:
        """Before the batches that were done are drawn again: note where the host's streams are."""
        self._before_skip = _digests(rng.capture()) if self._draws_ahead() else {}

    def drawn_from(self, saved: Mapping[str, Any]) -> Collection[str]:
        """Return from which streams the skipped batches were drawn, and more may have been.

        Such a stream is where the data needs it. What else drew from it is unknown. For one that
        has moved in the saved run, but not now, the thread that reads ahead is waited for, which
        is the only one that draws here: it may not have come to a batch that draws from it.

        Args:
            saved: The streams where the run before had them.
        """
        before = self._before_skip
        moved = {name for name, at in _digests(saved).items() if before.get(name, at) != at}
        give_up_at = time.monotonic() + _PATIENCE_S
        while moved - (drawn := self._moved()):
            if time.monotonic() > give_up_at:
                warn(_UNKNOWN.format(streams=" and ".join(sorted(moved - drawn))))
                break
            time.sleep(0.01)
        return drawn

    def _moved(self) -> set[str]:
        now = _digests(rng.capture()) if self._before_skip else {}
        return {name for name, digest in self._before_skip.items() if now.get(name) != digest}

    def _draws_ahead(self) -> bool:
        """Return whether the data may draw for batches to come, on a thread of its own."""
        tensorflow = _backends.tensorflow_loading()
        if tensorflow is not None and tensorflow.is_pipeline(self.source):
            return bool(tensorflow.runs_python(self.source))
        return keras.backend.backend() == "tensorflow" and self.kind not in ("array", "loop")

    def completed(self, batch: int) -> int:
        """Return how many batches are done at the end of the step that `fit` counts as `batch`.

        Where several are done at once, the last step of an epoch may hold fewer than it counts.
        """
        return min(batch + 1, getattr(self._iterator, "num_batches", None) or batch + 1)

    def start_epoch(self) -> None:
        """Before the first epoch here, look at what cannot be saved, to see whether it changes."""
        if self._watches is None:
            self._states.watch()
            self._arrays = digest_of(fit.arrays_of(self._iterator))
            self._watches = True

    def end_epoch(self, epoch: int) -> None:
        """Count an epoch and its validation; after the first one warn of what cannot be saved."""
        self._epochs += 1
        self._iterators += fit.iterators_made(self._iterator)
        self._validations += self._fit is not None and self._fit.follows(epoch)
        lost = self._states.lost() if self._watches else {}
        if self._watches and self._arrays != digest_of(fit.arrays_of(self._iterator)):
            lost["the arrays passed to fit"] = True
        self._watches = False
        if lost:  # the value says whether these are rows that the user may have shuffled
            shuffle = "Shuffle row numbers, not the table: an array of indices is saved. Or give"
            cure = shuffle if any(lost.values()) else "Give"
            warn(
                f"Resume will not be exact: the first epoch has changed {', '.join(lost)}, which "
                f"cannot be saved. {cure} the data set state_dict() and load_state_dict()."
            )

    def capture(self) -> dict[str, Any]:
        """Return the sources' state; call it between two epochs."""
        return {
            "batches": getattr(self._iterator, "num_batches", None),
            "passes": fit.passes(self._iterator),
            "epochs": self._epochs,
            "iterators": self._iterators,
            "validations": self._validations,
            "reached": self._states.capture(),
            "validation": self._validation.capture() if self._validation is not None else {},
            **self._train.capture(),
        }

    def capture_at(self, batch: int, begin: Mapping[str, Any]) -> dict[str, Any]:
        """Return the sources' state in the middle of an epoch.

        Args:
            batch: Batches of the epoch that are done.
            begin: What `capture` returned when the epoch began.
        """
        return {**begin, **self._train.capture_at(batch)}

    def restore(self, state: Mapping[str, Any], epoch: int, batch: int = 0) -> None:
        """Bring the sources to the start of an epoch; the batches that are done will be skipped.

        Args:
            state: What `capture` or `capture_at` returned.
            epoch: Index of the epoch.
            batch: Batches of the epoch that are done.
        """
        self._epochs = state.get("epochs", epoch)
        self._iterators = state.get("iterators", self._epochs)
        self._validations = state.get("validations", 0)
        self._train.restore(state, batch)
        self._restore_validation(state)
        if self.kind == "tf_dataset":
            fit.advance_dataset(self._iterator, self.source, self._iterators)
        self._states.load(state.get("reached", {}))  # making iterators may have changed it
        if state.get("passes") is not None:
            fit.set_passes(self._iterator, state["passes"])
        if state.get("batches") is not None:
            fit.set_num_batches(self._iterator, state["batches"])

    def _restore_validation(self, state: Mapping[str, Any]) -> None:
        if self._fit is None or self._validation is None or self._iterator is None:
            return
        if self._validations:
            iterator = self._fit.iterator(self._iterator)
            if self._validation.kind == "tf_dataset":
                fit.advance_validation(iterator, self._validation.source, self._validations)
            if getattr(self._validation.source, "persistent_workers", False):
                iter(self._validation.source)  # only the first iterator of all draws a seed
        self._validation.restore(state.get("validation", {}), 0)

    def warn(self) -> None:
        """Warn of data whose state an interruption will lose, with the cure."""
        if unproved := fit.unproved():
            warn(
                f"Resume may not be exact: {unproved} Use one of these versions, or a newer "
                "keras-ratchet."
            )
        for complaint in self.complaints():
            warn(f"Resume will not be exact. {complaint}")

    def complaints(self) -> list[str]:
        """Return, for what cannot be resumed exactly, the reason and the cure."""
        found = []
        if self._partial_epochs():
            found.append(
                "steps_per_epoch divides the data into epochs that are not whole passes. Wrap "
                "it: keras_ratchet.data.resumable(...)."
            )
        elif complaint := self._train.complaint():
            found.append(complaint)
        elif self.kind == "array" and fit.draws_unseeded(self._iterator):
            found.append(
                "TensorFlow shuffles arrays with a seed of its own, which cannot be read. Call "
                "keras.utils.set_random_seed(...) first, or use "
                "keras_ratchet.data.ResumableDataset."
            )
        if self._validation is not None and not self._validates_in_order():
            complaint = self._validation.complaint()
            found += [f"Validation: {complaint}"] if complaint else []
            steps = getattr(self._iterator, "steps_per_epoch", None)
            both = tf_pipeline.complaint_of_both(self.source, self._validation.source, steps)
            found += [both] if both and not found else []
        return found

    def _validates_in_order(self) -> bool:
        """Return whether a DataLoader whose workers persist has an order without state."""
        assert self._validation is not None
        sampler = getattr(self._validation.source, "sampler", None)
        return type(sampler).__name__ == "SequentialSampler"

    def _partial_epochs(self) -> bool:
        steps = getattr(self._iterator, "steps_per_epoch", None)
        whole = getattr(getattr(self._iterator, "data_adapter", None), "num_batches", None)
        return bool(steps) and steps != whole


@dataclass(frozen=True, slots=True)
class SourceState:
    """The state that a source has by itself.

    Args:
        kind: As `fit.data_source` names it.
        source: The source.
        validates: Whether it is what `fit` validates on.
        steps: Batches of a pass, where `fit` is told.
        model: The model that is trained on it.
    """

    kind: str
    source: Any
    validates: bool = False
    steps: int | None = None
    model: Any = None

    @property
    def is_stateful(self) -> bool:
        """Whether it returns its own state, so that its attributes need not be searched."""
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
        """Restore the state; so many batches of the epoch will be skipped."""
        if "state" not in state:
            return
        if isinstance(self.source, Seekable):
            self.source.seek(owned(state["state"]), batch)
        else:
            self.source.load_state_dict(owned(state["state"]))

    def complaint(self) -> str | None:
        """Return why it cannot be resumed exactly, and the cure."""
        if self.is_stateful:
            return tf_pipeline.complaint(getattr(self.source, "original", None), reads_to_end=True)
        if self.kind == "generator":
            return f"A Python generator cannot be rewound. {_WRAP}"
        if self.kind == "torch_loader" and getattr(self.source, "persistent_workers", False):
            return f"The workers of this DataLoader persist across epochs. {_WRAP}"
        if self.kind == "torch_loader" and hasattr(self.source, "state_dict"):
            return f"A StatefulDataLoader keeps its position across epochs. {_WRAP}"
        if self.kind == "unknown":
            return f"This kind of data is unknown. {_WRAP}"
        return tf_pipeline.complaint(
            self.source,
            steps=self.steps,
            is_drawn_by_fit=self.kind != "loop",
            is_looked_at=self.kind != "loop" and not self.validates,
            model=self.model,
        )


def _digests(streams: Mapping[str, Any]) -> dict[str, str]:
    return {name: fingerprint(streams[name])[0] for name in rng.OF_DATA if name in streams}


def digest_of(arrays: Iterable[NDArray[Any]]) -> str:
    """Return a digest of arrays; of one beyond 256 MiB that of rows spread over all of it.

    Arrays of Python objects, and those that lie in a file, are left out.
    """
    hasher = xxhash.xxh3_128()
    for array in arrays:
        if array.dtype.hasobject or isinstance(array, np.memmap):
            continue
        rows = array
        if array.nbytes > _WHOLE_BYTES and array.ndim:
            rows = array[np.linspace(0, len(array) - 1, _ROWS).astype(int)]
        hasher.update(np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data)
    return str(hasher.hexdigest())


def warn_of_unnamed_state(source: Any) -> bool:
    """Warn of data with a state of its own that was not named; return whether it has one.

    Args:
        source: What a hand-written loop iterates over.
    """
    if isinstance(source, Stateful):
        warn(
            f"Resume will not be exact. This {type(source).__name__} has a state of its own, such "
            "as the epoch that it is in. Make it once, and pass it: Run(..., data=...)."
        )
        return True
    torch = _backends.torch_loading()
    if torch is None or not hasattr(source, "batch_sampler") or not torch.generators(source):
        return False
    warn(
        "Resume will not be exact. This DataLoader has its own generator. Pass it: Run(..., "
        "data=loader)."
    )
    return True
