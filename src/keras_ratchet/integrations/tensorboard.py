"""TensorBoard: curves of metrics, best values and saves, and every decision as text.

Event files are written by tensorboardX, which needs neither TensorFlow nor PyTorch.

Checked with tensorboardX 2.6.5, read with tensorboard 2.21.
"""

from __future__ import annotations

import os
import time
from typing import Any

from keras_ratchet.callbacks.model_checkpoint import ModelCheckpoint
from keras_ratchet.errors import explained
from keras_ratchet.integrations._decisions import Tracker
from keras_ratchet.integrations._news import News
from keras_ratchet.types import StopReason

try:
    from tensorboardX import summary
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event, SessionLog
except ImportError as error:
    raise explained(
        ImportError(
            "keras_ratchet.integrations.tensorboard needs tensorboardX: "
            "pip install 'keras-ratchet[tensorboard]'."
        ),
        see="missing-library",
    ) from error


class TensorBoardDecisions(Tracker):
    """Write metrics and decisions for TensorBoard, on any backend, without TensorFlow.

    The step of a curve is the number of completed epochs. Of a resumed run each step is there
    once. A run that starts from scratch in a directory with earlier events hides theirs: give each
    run a `log_dir` of its own.

    Args:
        log_dir: The directory.
        checkpoint: The `ModelCheckpoint` that counts; by default the first of the list.

    Example:
        ```py
        callbacks = [backup, best, early_stopping, TensorBoardDecisions("logs/run-1")]
        model.fit(x, y, callbacks=callbacks)
        ```
    """

    _key = "tensorboard"

    def __init__(
        self, log_dir: str | os.PathLike[str], checkpoint: ModelCheckpoint | None = None
    ) -> None:
        super().__init__(checkpoint)
        self.log_dir = os.fspath(log_dir)
        self._writer: Any = None

    def _open(self) -> None:
        os.makedirs(self.log_dir, exist_ok=True)
        # not a SummaryWriter: its `flush` leaves events in the queue of a thread
        self._writer = EventsWriter(os.path.join(self.log_dir, "events"), f".{os.getpid()}")
        # what an interrupted run has left beyond the last noted step does not count
        start = SessionLog(status=SessionLog.START)
        self._writer.write_event(Event(session_log=start, step=self._done + 1, **_now()))

    def _tell(self, news: News) -> None:
        scalars = {**news.metrics, **{f"best/{name}": v for name, v in news.best.items()}}
        scalars |= {f"save/{name}": value for name, value in news.save_seconds.items()}
        for name, value in scalars.items():
            self._add(summary.scalar(name, value), news.epoch)
        if news.decisions:
            lines = "\n".join(f"* {decision.sentence}" for decision in news.decisions)
            self._add(summary.text("decisions", lines), news.epoch)
        self._writer.flush()

    def _add(self, content: Any, step: int) -> None:
        self._writer.write_event(Event(summary=content, step=step, **_now()))

    def _finish(self, stops: list[StopReason], ended: bool) -> None:
        for stop in stops:
            text = f"{stop} (`{'+'.join(stop.kinds)}`)"
            self._add(summary.text("stop", text), stop.epoch + 1)

    def _close(self, error: BaseException | None, ended: bool) -> None:
        if error is not None:
            self._add(summary.text("stop", f"ended by {type(error).__name__}"), self._done)
        self._writer.close()

    def _without_run(self) -> dict[str, Any]:
        return {**super()._without_run(), "_writer": None}


def _now() -> dict[str, float]:
    return {"wall_time": time.time()}
