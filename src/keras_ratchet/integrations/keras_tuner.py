"""KerasTuner: a directory for each trial, and a trial that was interrupted goes on.

Checked with keras-tuner 1.4.8.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from keras_ratchet._storage import disk
from keras_ratchet.callbacks.backup_and_restore import BackupAndRestore
from keras_ratchet.errors import ConfigError, explained

try:
    import keras_tuner
except ImportError as error:
    raise explained(
        ImportError(
            "keras_ratchet.integrations.keras_tuner needs keras-tuner: "
            "pip install 'keras-ratchet[keras-tuner]'."
        ),
        see="missing-library",
    ) from error


class ResumableTrials:
    """Put before a tuner's class: a search that was interrupted goes on in the middle of a trial.

    Make the tuner and call `search` again as before, with the same `directory` and `project_name`:
    KerasTuner starts the interrupted trial again, and each of its executions goes on from its
    newest snapshot. The snapshots of a trial are deleted when it has ended, well or not, so a
    retry of a trial that has failed starts over.

    Args:
        *args: Arguments of the tuner.
        backup: Arguments of `BackupAndRestore`, such as `{"save_freq": 100}`.
        **kwargs: More arguments of the tuner.

    Raises:
        ConfigError: If `backup` has an argument that is not yours to choose.

    Example:
        ```py
        class Search(ResumableTrials, keras_tuner.RandomSearch):
            pass


        tuner = Search(build, "val_loss", max_trials=20, backup={"save_freq": 100})
        tuner.search(x, y, validation_split=0.2, epochs=50)
        ```
    """

    def __init__(self, *args: Any, backup: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        if not isinstance(self, keras_tuner.Tuner):
            raise ConfigError(
                "ResumableTrials is to stand before a tuner: "
                "class Search(ResumableTrials, keras_tuner.RandomSearch).",
                see="keras-tuner",
            )
        self.backup = dict(backup or {})
        taken = {"backup_dir", "delete_checkpoint"} & self.backup.keys()
        if taken:
            raise ConfigError(
                f"backup= must not have {' and '.join(sorted(taken))}: they are set.",
                see="keras-tuner",
            )
        self._execution = 0
        super().__init__(*args, **kwargs)

    def on_search_begin(self) -> None:
        """Save the tuner: KerasTuner does so after a trial only, and reloads no other search."""
        super().on_search_begin()  # type: ignore[misc]
        self.save()  # type: ignore[attr-defined]

    def run_trial(self, trial: Any, *args: Any, **kwargs: Any) -> Any:
        """Run all executions of a trial, or those that are left."""
        self._execution = 0
        return super().run_trial(trial, *args, **kwargs)  # type: ignore[misc]

    def _build_and_fit_model(self, trial: Any, *args: Any, **kwargs: Any) -> Any:
        """Run one execution; KerasTuner keeps this method for subclasses."""
        place = os.path.join(snapshot_directory(self, trial), f"execution-{self._execution}")
        self._execution += 1
        backup = BackupAndRestore(place, **self.backup, delete_checkpoint=False)
        callbacks = [backup, *(kwargs.pop("callbacks", None) or ())]
        return super()._build_and_fit_model(  # type: ignore[misc]
            trial, *args, callbacks=callbacks, **kwargs
        )

    def on_trial_end(self, trial: Any) -> None:
        """Delete the snapshots: KerasTuner has noted how the trial has ended."""
        super().on_trial_end(trial)  # type: ignore[misc]
        disk.discard_tree(snapshot_directory(self, trial))


def trial_directory(tuner: Any, trial: Any) -> str:
    """Return the directory of a trial, which is the same one when the search is started again.

    Args:
        tuner: The tuner.
        trial: The trial, or its id.
    """
    return str(tuner.get_trial_dir(getattr(trial, "trial_id", trial)))


def snapshot_directory(tuner: Any, trial: Any) -> str:
    """Return the directory of a trial's snapshots."""
    return os.path.join(trial_directory(tuner, trial), "ratchet")
