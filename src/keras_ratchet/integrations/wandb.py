"""Weights & Biases: metrics, decisions, and the best file as an artifact.

A resumed run goes on in the run of W&B that it had begun, whose id we choose. What W&B is told it
keeps in a buffer of another process, which dies with ours (offline all of a killed process is
lost): so the history is part of our state, and a resumed run tells again what W&B does not have.
Unlike Keras's own callbacks for W&B this one needs no TensorFlow.

Checked with wandb 0.31, offline.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keras_ratchet._json import plain
from keras_ratchet.callbacks.model_checkpoint import ModelCheckpoint
from keras_ratchet.errors import explained
from keras_ratchet.integrations._news import News, arguments_of
from keras_ratchet.integrations._uploads import Upload, UploadingTracker
from keras_ratchet.types import CheckpointInfo, StopReason

try:
    import wandb
except ImportError as error:
    raise explained(
        ImportError(
            "keras_ratchet.integrations.wandb needs wandb: pip install 'keras-ratchet[wandb]'."
        ),
        see="missing-library",
    ) from error


class WandbTracker(UploadingTracker):
    """Tell Weights & Biases of each epoch, of every decision, and what came out.

    The step is the number of completed epochs. Decisions are texts in the history and in the log
    of the run; why training stopped is in the summary. The best file is an artifact of the type
    "model" with the aliases "best" and "latest".

    Args:
        project: Name of the project.
        upload: When the best file becomes an artifact: at the "end" of training, after each epoch
            that has "improved" it too, or "never".
        checkpoint: The `ModelCheckpoint` whose file it is; by default the first of the list.
        **arguments: More arguments of `wandb.init`, such as `name`, `entity`, `config`, `dir`
            and `mode="offline"`.

    Attributes:
        run_id: W&B's name of the run. If W&B has a run at the time (`wandb.init`), it is that one;
            then it is the script that has to start the same one after an interruption.

    Raises:
        ConfigError: If an argument cannot work.

    Example:
        ```py
        model.fit(x, y, callbacks=[backup, best, WandbTracker("digits", name="run-1")])
        ```
    """

    _key = "wandb"

    def __init__(
        self,
        project: str | None = None,
        *,
        upload: Upload = "end",
        checkpoint: ModelCheckpoint | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__(upload, checkpoint)
        self.project = project
        self.arguments = arguments
        self._tracked: Any = None
        self._is_ours = True

    def _forget(self) -> None:
        super()._forget()
        self._rows: list[tuple[int, dict[str, Any]]] = []
        self._kept = self._first = 0  # steps up to `_kept` are on the disk, or on the server

    @property
    def run_id(self) -> str | None:
        """W&B's name of the run."""
        return self._remote

    def _open(self) -> None:
        self._is_ours = wandb.run is None
        config = arguments_of(self._others)
        if wandb.run is not None:
            self._tracked = wandb.run
            self._tracked.config.update(config, allow_val_change=True)
        else:
            own = {"project": self.project, "id": self._remote or self._run, "resume": "allow"}
            given = dict(self.arguments)
            config |= given.pop("config", None) or {}
            self._tracked = wandb.init(**{**own, **given, "config": config})
        self._remote = self._tracked.id
        self._first = max(self._kept + 1, self._tracked.starting_step)
        if self._rows:
            self._uploaded_at = 0.0  # W&B compares files itself
        for step, values in self._rows:
            self._log(step, values)

    def _log(self, step: int, values: dict[str, Any]) -> None:
        if step >= self._first:
            self._tracked.log(values, step=step)

    def _tell(self, news: News) -> None:
        values: dict[str, Any] = dict(news.metrics)
        values |= {f"best/{name}": value for name, value in news.best.items()}
        values |= {f"save/{name}": value for name, value in news.save_seconds.items()}
        if news.metrics:
            values["epoch"] = news.epoch
        if news.decisions:
            values["decisions" if news.metrics else "decisions_at_end"] = news.text
        self._rows.append((news.epoch, values))
        self._log(news.epoch, values)

    def _put(self, best: CheckpointInfo) -> None:
        about = {**best.metrics, "epoch": best.position.epoch, "reason": best.reason}
        name = f"{self._remote}-{best.name.partition('.')[0]}"
        artifact = wandb.Artifact(name, type="model", metadata=about)
        artifact.add_file(best.path, name=best.name)
        self._tracked.log_artifact(artifact, aliases=["best", "latest"])

    def _finish(self, stops: list[StopReason], ended: bool) -> None:
        if stops:
            self._tracked.summary["stop_reason"] = "\n".join(map(str, stops))
            kinds = "+".join(kind for stop in stops for kind in stop.kinds)
            self._tracked.summary["stop_kind"] = kinds
        super()._finish(stops, ended)

    def _close(self, error: BaseException | None, ended: bool) -> None:
        if self._is_ours:  # else who has started the run ends it
            self._tracked.finish(exit_code=0 if ended else 1)
            self._kept = self._told
            self._write_note(ended)

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a resumed run needs."""
        return {**super().state_dict(), "rows": plain(self._rows), "journals": self._read_up_to()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned; training has started."""
        if not self._has_begun:
            self._rows = [(step, dict(values)) for step, values in state["rows"]]
            self._read_from(state["journals"])
        super().load_state_dict(state)

    def _to_note(self) -> dict[str, Any]:
        return {"run": self._run, "kept": self._kept}

    def _take_up(self, note: Mapping[str, Any]) -> None:
        self._kept = note["kept"]

    def _without_run(self) -> dict[str, Any]:
        return {**super()._without_run(), "_tracked": None}
