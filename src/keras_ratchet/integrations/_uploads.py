"""Trackers that get the best file, too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from keras_ratchet.callbacks.model_checkpoint import ModelCheckpoint
from keras_ratchet.errors import ConfigError
from keras_ratchet.integrations._decisions import Tracker
from keras_ratchet.integrations._news import News
from keras_ratchet.types import CheckpointInfo, StopReason

Upload = Literal["end", "improved", "never"]


class UploadingTracker(Tracker):
    """The base of trackers that get the best file: each one once, after a resume too.

    Args:
        upload: When: at the "end" of training, after each epoch that has "improved" it too, or
            "never".
        checkpoint: The `ModelCheckpoint` whose file it is; by default the first of the list.

    Raises:
        ConfigError: If an argument cannot work.
    """

    def __init__(self, upload: Upload, checkpoint: ModelCheckpoint | None) -> None:
        super().__init__(checkpoint)
        if upload not in ("end", "improved", "never"):
            raise ConfigError(
                f'upload must be "end", "improved" or "never". Got: {upload!r}.', see="trackers"
            )
        self.upload = upload

    def _forget(self) -> None:
        super()._forget()
        self._uploaded_at = 0.0

    def _put(self, best: CheckpointInfo) -> None:
        """Give the tracker a file."""
        raise NotImplementedError

    def _tell_epoch(self, done: int, metrics: dict[str, float]) -> None:
        super()._tell_epoch(done, metrics)
        if self._is_open and self.upload == "improved":
            self._tries(self._put_if_new)

    def _finish(self, stops: list[StopReason], ended: bool) -> None:
        if ended and self.upload != "never":
            self._put_if_new()

    def _put_if_new(self) -> None:
        best = self.best_checkpoint()
        if best is not None and best.saved_at > self._uploaded_at:
            self._put(best)
            self._uploaded_at = best.saved_at

    def _tell(self, news: News) -> None:
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a resumed run needs."""
        return {**super().state_dict(), "uploaded_at": self._uploaded_at}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned; training has started."""
        if not self._has_begun:
            self._uploaded_at = state["uploaded_at"]
        super().load_state_dict(state)

    def _take_up(self, note: Mapping[str, Any]) -> None:
        super()._take_up(note)
        self._uploaded_at = max(self._uploaded_at, note["uploaded_at"])


def summary_of(best: CheckpointInfo) -> str:
    """Return the metrics of a file in words."""
    return ", ".join(f"{name}={value:.6g}" for name, value in best.metrics.items())
