"""Optuna: pruning stops a trial with a reason, and a trial that was killed goes on.

Checked with optuna 5.0.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Mapping
from typing import Any

from keras_ratchet._json import number
from keras_ratchet._storage.objects.location import is_url
from keras_ratchet._warn import warn
from keras_ratchet.callbacks._logs import metrics_of
from keras_ratchet.callbacks.base import RatchetCallback
from keras_ratchet.errors import explained
from keras_ratchet.types import StopReason

try:
    import optuna
except ImportError as error:
    raise explained(
        ImportError(
            "keras_ratchet.integrations.optuna needs optuna: pip install 'keras-ratchet[optuna]'."
        ),
        see="missing-library",
    ) from error

_Retry: Any = (
    getattr(optuna.storages, "RetryHeartbeatStaleTrialCallback", None)
    or optuna.storages.RetryFailedTrialCallback
)

_STUDY = ".optuna-study"


class OptunaPruning(RatchetCallback):
    """Report a metric to a trial after each epoch, and stop training if the trial is pruned.

    Training ends as it does after `EarlyStopping`: files, the best weights and the journal are
    complete. Then `raise_if_pruned` tells Optuna. In a trial that was started again no epoch is
    reported twice, and those that only the interrupted one had reported are reported to it.

    Args:
        trial: The trial; of several processes rank 0 asks it, and the others may pass None.
        monitor: Key of the metric in the logs. Epochs that do not have it are not reported.

    Attributes:
        stop_reason: A `StopReason` of the kind "pruned" once the trial was pruned, else None.

    Example:
        ```py
        def objective(trial):
            directory = trial_directory("runs/study", trial)
            backup = BackupAndRestore(f"{directory}/backup", delete_checkpoint=False)
            pruning = OptunaPruning(trial, monitor="val_loss")
            history = build(trial).fit(x, y, validation_split=0.2, callbacks=[backup, pruning])
            pruning.raise_if_pruned()
            return min(history.history["val_loss"])
        ```
    """

    def __init__(self, trial: optuna.trial.Trial | None, monitor: str = "val_loss") -> None:
        super().__init__()
        self.trial = trial
        self.monitor = monitor
        self.stop_reason: StopReason | None = None
        self._values: dict[int, float] = {}
        self._known: set[int] | None = None

    def on_train_begin(self, logs: Any = None) -> None:
        """Start a run; a resume comes after this."""
        super().on_train_begin(logs)
        self.stop_reason, self._values, self._known = None, {}, None

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Report what the trial has not heard of before an interruption."""
        super().on_epoch_begin(epoch, logs)
        if self._known is None and self.trial is not None and not self._ranks.rank:
            trials = self.trial.study.get_trials(deepcopy=False)
            self._known = set(trials[self.trial.number].intermediate_values)
            for step, value in self._values.items():
                self._report(step, value)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Report, and ask whether the trial is pruned."""
        super().on_epoch_end(epoch, logs)
        metrics = metrics_of(logs)
        if self.monitor not in metrics:
            return
        value = self._values[epoch] = metrics[self.monitor]
        is_pruned = False
        if not self._ranks.rank and self.trial is not None:
            self._report(epoch, value)
            is_pruned = self.trial.should_prune()
        if self._ranks.broadcast(is_pruned, "whether Optuna prunes the trial"):
            self._stop(epoch, value)

    def _report(self, step: int, value: float) -> None:
        assert self.trial is not None and self._known is not None
        if step not in self._known:
            self.trial.report(value, step)
            self._known.add(step)

    def _stop(self, epoch: int, value: float) -> None:
        pruner = "" if self.trial is None else f" by {type(self.trial.study.pruner).__name__}"
        sentence = f"Optuna has pruned the trial{pruner}: {self.monitor} is {value:.6g}"
        self.stop_reason = StopReason("pruned", sentence, {self.monitor: value}, epoch)
        self.model.stop_training = True

    def on_train_end(self, logs: Any = None) -> None:
        """Warn if the metric never came."""
        super().on_train_end(logs)
        if not self._values and self._known is not None:
            warn(
                f"OptunaPruning: {self.monitor} was in the logs of no epoch, so the trial was "
                "never asked. Pass validation data to fit, or choose another monitor."
            )

    def raise_if_pruned(self) -> None:
        """Tell Optuna that the trial was pruned; call it after `fit`.

        Raises:
            optuna.TrialPruned: If it was.
        """
        if self.stop_reason is not None:
            raise optuna.TrialPruned(str(self.stop_reason))

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a resumed run needs."""
        stop = None if self.stop_reason is None else self.stop_reason.to_dict()
        values = [[step, number(value)] for step, value in self._values.items()]
        return {"values": values, "stop_reason": stop}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned; training has started."""
        self._values = {step: float(value) for step, value in state["values"]}
        self.stop_reason = StopReason.from_dict(state["stop_reason"])


def trial_directory(
    directory: str | os.PathLike[str], trial: optuna.trial.Trial | optuna.trial.FrozenTrial
) -> str:
    """Return the directory of a trial, which is the same one when the trial is started again.

    Args:
        directory: Of the study.
        trial: The trial, in its objective, or afterwards, as `study.best_trial`. If Optuna has
            made it to retry one that was interrupted, the directory is that one's.

    Warns:
        If the directory is that of another study: its trials would be taken for those of this one.
    """
    frozen = trial
    if isinstance(trial, optuna.trial.Trial):
        frozen = trial.study.get_trials(deepcopy=False)[trial.number]
        _check_study(os.fspath(directory), trial.study.study_name)
    with _no_warning():
        first = _Retry.retried_trial_number(frozen)
    return os.path.join(directory, f"trial-{trial.number if first is None else first:05d}")


def _check_study(directory: str, name: str) -> None:
    """Note which study a directory is of; warn if it is of another one."""
    if is_url(directory):
        return
    path = os.path.join(directory, _STUDY)
    try:
        with open(path, encoding="utf-8") as file:
            before = file.read()
    except FileNotFoundError:
        os.makedirs(directory, exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(name)
        return
    if before != name:
        warn(
            f"{directory!r} has the trials of the study {before!r}, and this one is {name!r}: a "
            "trial goes on where the one of the same number ended there, and returns its value. "
            "Give each study a directory, and one that is to be continued a storage and a name."
        )


def retry_interrupted(study: optuna.study.Study) -> int:
    """Put the trials that a killed process has left running up for retry; return how many.

    Call it before `study.optimize`, and only if no other process works on the study: Optuna cannot
    tell a trial that runs elsewhere from one whose process is dead. For several processes give the
    storage a `heartbeat_interval` and Optuna's callback that retries stale trials.

    Args:
        study: The study, loaded from its storage.
    """
    running = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,))
    for trial in running:
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        with _no_warning():
            _Retry()(study, trial)
    return len(running)


@contextlib.contextmanager
def _no_warning() -> Any:
    """Let pass that Optuna calls its retries experimental."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield
