"""What is said of a resumed run that has nothing left to train.

Its last epoch was saved, so whatever was corrected in the script since then has no effect, and what
only a step creates is not there.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from keras_ratchet._engine.capture import building
from keras_ratchet._engine.resume.resumer import Resumer
from keras_ratchet._engine.resume.snapshot_store import SnapshotStore
from keras_ratchet._storage import journal
from keras_ratchet._warn import warn
from keras_ratchet.errors import MetricError
from keras_ratchet.types import Model

_PATIENCE_S = 5.0  # for an upload, which puts the journal, too


def note_error(store: SnapshotStore, epoch: int, error: BaseException) -> None:
    """Add to the journal that an error has ended a run whose epochs are done.

    Args:
        store: The snapshots of the run.
        epoch: How many epochs are done.
        error: What ended it. Only a metric that never came shows that the epochs were decided by
            a mistake; after any other error the run is to end as it would have.
    """
    if not isinstance(error, MetricError) or not store.list_paths():
        return
    fields = {"reason": f"training ended with {type(error).__name__}", "problem": str(error)}
    if fields.items() <= next(reversed(_own_events(store)), {}).items():
        return  # `guard` tells of it once more
    store.note("end", **fields, epoch=epoch)
    if store.ranks.rank == 0 and store.writer.wait_for_upload(_PATIENCE_S):
        store.mirror.note_late("end", **fields, epoch=epoch)


def warn_of_error(store: SnapshotStore, epoch: int, epochs: int | None) -> None:
    """Warn if an error ended the run before, of which nothing is left to train.

    Args:
        store: The snapshots of the run.
        epoch: How many epochs are done.
        epochs: How many are planned, if that is known.
    """
    found = None if store.ranks.rank else _noted_error(store, epoch)
    if found is None:
        return
    has_all = epochs is not None and epoch >= epochs
    more = ", or raise `epochs` to train on" if has_all else ""
    warn(
        f"The run before {found} after its last epoch ({epoch}). Its epochs count as done, so "
        f"nothing is trained now. Delete {store.shown_directory!r} to train them again{more}."
    )


def warn_of_metrics(resumer: Resumer, model: Model) -> None:
    """Warn of metrics that were saved and that only a step would create.

    Args:
        resumer: What has restored the rest.
        model: The model.
    """
    assert resumer.state is not None
    known = resumer.places.variables(model)
    saved = (name for name in resumer.state.variables if name.startswith("metrics/"))
    lost = [name for name in saved if name not in known]
    if lost and resumer.store.ranks.rank == 0:
        warn(
            f"Resume will not be exact: nothing is left to train, and variables of metrics that "
            f"only a step creates are not there, such as {lost[0]!r}. {building.CURE}."
        )


def _noted_error(store: SnapshotStore, epoch: int) -> str | None:
    """Return what ended the run that did the last of these epochs, if it was an error.

    It may have been on another machine: the journals on the store are read, too.
    """
    events = [*_own_events(store), *_own(store.mirror.noted())]
    for event in reversed(sorted(events, key=journal.time_of)):
        if event["event"] == "save" and event.get("epoch") != epoch:
            return None  # it was trained after the errors that are older
        if event["event"] == "end" and event.get("epoch") == epoch:
            what = str(event.get("reason", "")).removeprefix("training ")
            return f"{what} ({event.get('problem', '')})"
    return None


def _own_events(store: SnapshotStore) -> list[dict[str, Any]]:
    return _own(journal.read(store.directory))


def _own(events: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the events of this callback; others may save into the same directory."""
    return [event for event in events if "series" not in event]
