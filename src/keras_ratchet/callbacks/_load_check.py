"""`check_load=True`: what was saved first is loaded once, in a child process beside training."""

from __future__ import annotations

import logging
import sys
from typing import Any

import keras

from keras_ratchet._engine.saving.events import Listener
from keras_ratchet._formats.custom_objects import known_as, recorded
from keras_ratchet._formats.load_trial import LoadTrial, Outcome, without_model
from keras_ratchet._formats.readers import read_config
from keras_ratchet._storage import journal
from keras_ratchet._warn import warn
from keras_ratchet.errors import LoadError
from keras_ratchet.types import CheckpointInfo

_log = logging.getLogger("keras_ratchet")
_LIMIT_S = 600.0  # the child has a low priority, and training may take all there is
_WAIT_S = 60.0  # at the end of training
_NICE = 10
_IN_A_HURRY = ("signal", "deadline")


class LoadCheck:
    """A listener for saves that has the first one loaded, and tells once whether that worked.

    It takes a second copy of the model in the memory of the host, for as long as it lasts. A file
    that was replaced or deleted too soon is no answer: then the next one is loaded.

    Args:
        then: The user's own listener, or None.
        is_wanted: Whether to load anything.
    """

    def __init__(self, then: Listener | None = None, is_wanted: bool = True) -> None:
        self.listener: Listener | None = self if is_wanted else then
        self._then = then
        self._info = CheckpointInfo("", "")
        self._trial: LoadTrial | None = None
        self._is_done = False

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for copies and pickles, which have started nothing."""
        return {**vars(self), "_trial": None}

    def __call__(self, info: CheckpointInfo) -> None:
        """Hear of a save."""
        self.collect()
        if not self._is_done and self._trial is None:
            self._start(info)
        if self._then is not None:
            self._then(info)

    def _start(self, info: CheckpointInfo) -> None:
        self._info = info
        known = without_model(info.path)
        if known is not None:
            self._settle(known)
            return
        try:
            backend, modules = keras.backend.backend(), _modules(info.path)
            self._trial = LoadTrial(
                info.path, backend, modules, hopes=True, limit_s=_LIMIT_S, nice=_NICE
            )
        except (OSError, LoadError) as error:  # no process can be started, or it is gone already
            _log.warning("whether %s can be loaded was not tried: %s", info.name, error)

    def collect(self) -> None:
        """Tell of the outcome, if it is there."""
        outcome = None if self._trial is None else self._trial.poll()
        if outcome is not None:
            self._settle(outcome)

    def finish(self, callback_list: Any, waits: bool) -> None:
        """Wait for the outcome at the end of training, unless it has to end at once.

        Args:
            callback_list: The `CallbackList`, a callback of which may know that it has; or None.
            waits: Whether there is time otherwise: no exception has ended training.
        """
        callbacks = getattr(callback_list, "callbacks", ())
        reasons = [getattr(callback, "stop_reason", None) for callback in callbacks]
        waits &= not any(getattr(reason, "kind", "") in _IN_A_HURRY for reason in reasons)
        self.collect()
        if self._trial is not None and waits:
            self._settle(self._trial.wait(_WAIT_S))
        elif self._trial is not None:
            self._trial.kill()
            self._trial = None

    def _settle(self, outcome: Outcome) -> None:
        self._trial = None
        if outcome.status == "gone":
            return
        self._is_done = True
        reason = outcome.problem or _how(outcome)
        directory = self._info.path.rpartition(self._info.name)[0]
        journal.append(
            directory,
            "check_load",
            series=self._info.series,
            name=self._info.name,
            status=outcome.status,
            reason=reason,
        )
        if not outcome:
            warn(
                f"{self._info.name!r} was saved, but a new process "
                f"{_FAILED.get(outcome.status, 'cannot load it')}: {reason}"
            )


_FAILED = {"crashed": "crashes when it loads it", "hung": "has not loaded it"}


def _how(outcome: Outcome) -> str:
    needs = f" with {known_as(outcome.custom)}" if outcome.custom else ""
    return f"a new process can load it{needs}"


def _modules(path: str) -> list[str]:
    """Return the modules that the child imports: those of custom classes that are imported here."""
    named = {each.module for each in recorded(read_config(path)) if each.is_certain}
    return sorted(name for name in named - {"", "__main__"} if name in sys.modules)
