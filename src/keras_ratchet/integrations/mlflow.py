"""MLflow: metrics, what the callbacks were made with, decisions as tags, the best file.

A resumed run goes on in the run of MLflow that it had begun.

Checked with mlflow-skinny 3.17.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from keras_ratchet.callbacks.model_checkpoint import ModelCheckpoint
from keras_ratchet.errors import explained
from keras_ratchet.integrations._news import News, arguments_of
from keras_ratchet.integrations._uploads import Upload, UploadingTracker, summary_of
from keras_ratchet.types import CheckpointInfo, StopReason

try:
    from mlflow import MlflowClient, active_run
    from mlflow.entities import Metric, Param, RunTag
except ImportError as error:
    raise explained(
        ImportError(
            "keras_ratchet.integrations.mlflow needs mlflow or mlflow-skinny: "
            "pip install 'keras-ratchet[mlflow]'."
        ),
        see="missing-library",
    ) from error

_MOST_CHARACTERS = 5000  # in a tag
_MOST_PARAMS = 100  # in a call


class MLflowTracker(UploadingTracker):
    """Tell MLflow of each epoch, of every decision, and what came out.

    Metrics have the number of completed epochs as their step. Decisions are the tags
    `decisions.00001` and so on; why training stopped is in `stop_reason` and `stop_kind`. The best
    file is an artifact, with its metrics in the tags `best_checkpoint` and `best_reason`.

    Args:
        experiment: Name of the experiment; it is created if there is none.
        run_name: Name of the run.
        tracking_uri: Where MLflow is; by default what MLflow is set to.
        upload: When the best file becomes an artifact: at the "end" of training, after each epoch
            that has "improved" it too, or "never".
        tags: More tags of the run.
        checkpoint: The `ModelCheckpoint` whose file it is; by default the first of the list.

    Attributes:
        run_id: MLflow's name of the run, once an epoch has begun. If MLflow has an active run at
            the time (`mlflow.start_run`), it is that one.

    Raises:
        ConfigError: If an argument cannot work.

    Example:
        ```py
        model.fit(x, y, callbacks=[backup, best, MLflowTracker("digits")])
        ```
    """

    _key = "mlflow"

    def __init__(
        self,
        experiment: str = "Default",
        run_name: str | None = None,
        *,
        tracking_uri: str | None = None,
        upload: Upload = "end",
        tags: Mapping[str, str] | None = None,
        checkpoint: ModelCheckpoint | None = None,
    ) -> None:
        super().__init__(upload, checkpoint)
        self.experiment = experiment
        self.run_name = run_name
        self.tracking_uri = tracking_uri
        self.tags = dict(tags or {})
        self._client: Any = None
        self._is_ours = True

    @property
    def run_id(self) -> str | None:
        """MLflow's name of the run."""
        return self._remote

    def _open(self) -> None:
        self._client = MlflowClient(self.tracking_uri)
        active = active_run()
        self._is_ours = active is None or active.info.run_id == self._remote
        if self._remote is not None:
            self._client.update_run(self._remote, status="RUNNING")
            return
        if active is not None:
            self._remote = active.info.run_id
        else:
            found = self._client.get_experiment_by_name(self.experiment)
            experiment = found.experiment_id if found else self._create_experiment()
            run = self._client.create_run(experiment, run_name=self.run_name, tags=self.tags)
            self._remote = run.info.run_id
        arguments = arguments_of(self._others)
        params = [Param(name, str(value)) for name, value in arguments.items()]
        for first in range(0, len(params), _MOST_PARAMS):
            self._client.log_batch(self._remote, params=params[first : first + _MOST_PARAMS])

    def _create_experiment(self) -> str:
        return str(self._client.create_experiment(self.experiment))

    def _tell(self, news: News) -> None:
        values = {**news.metrics, **{f"best_{name}": v for name, v in news.best.items()}}
        values |= {f"save_{name}": value for name, value in news.save_seconds.items()}
        now_ms = int(time.time() * 1000)
        metrics = [Metric(name, value, now_ms, news.epoch) for name, value in values.items()]
        tags = []
        if news.decisions:
            text = f"epoch {news.epoch}\n{news.text}"[:_MOST_CHARACTERS]
            tags = [RunTag(f"decisions.{news.number + 1:05d}", text)]
        self._client.log_batch(self._remote, metrics=metrics, tags=tags)

    def _put(self, best: CheckpointInfo) -> None:
        self._client.log_artifact(self._remote, best.path, "checkpoints")
        tags = {"best_checkpoint": f"checkpoints/{best.name}", "best_reason": best.reason}
        for name, value in (tags | {"best_metrics": summary_of(best)}).items():
            self._client.set_tag(self._remote, name, value[:_MOST_CHARACTERS])

    def _finish(self, stops: list[StopReason], ended: bool) -> None:
        if stops:
            self._client.set_tag(self._remote, "stop_reason", "\n".join(map(str, stops)))
            kinds = "+".join(kind for stop in stops for kind in stop.kinds)
            self._client.set_tag(self._remote, "stop_kind", kinds)
        super()._finish(stops, ended)

    def _close(self, error: BaseException | None, ended: bool) -> None:
        if self._is_ours:  # else who has started the run ends it
            failed = isinstance(error, Exception)
            status = "FINISHED" if ended else "FAILED" if failed else "KILLED"
            self._client.set_terminated(self._remote, status)

    def _without_run(self) -> dict[str, Any]:
        return {**super()._without_run(), "_client": None}
