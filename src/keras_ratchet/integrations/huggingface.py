"""Hugging Face Hub: the best file in a repository of models, while training goes on.

Checked with huggingface_hub 2.4, against a local stand-in for the Hub.
"""

from __future__ import annotations

import shutil
import tempfile
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from keras_ratchet.callbacks.model_checkpoint import ModelCheckpoint
from keras_ratchet.errors import ConfigError, explained
from keras_ratchet.integrations._news import News
from keras_ratchet.integrations._uploads import Upload, UploadingTracker, summary_of
from keras_ratchet.types import CheckpointInfo, StopReason

try:
    from huggingface_hub import HfApi
except ImportError as error:
    raise explained(
        ImportError(
            "keras_ratchet.integrations.huggingface needs huggingface_hub: "
            "pip install 'keras-ratchet[hf]'."
        ),
        see="missing-library",
    ) from error


class HubUploader(UploadingTracker):
    """Put the best file into a repository on the Hugging Face Hub.

    An upload runs on a thread of the client's, from a copy of the file; if a better file comes
    meanwhile it follows with the next epoch. The message of the commit has the metrics and the
    reason of the save. An upload that fails is a warning, and is tried again after the next epoch
    and at the end.

    Args:
        repo_id: The repository, such as "me/digits"; it is created if there is none.
        path_in_repo: The file's name there; by default the one that it has here.
        upload: When: after each epoch that has "improved" it, or at the "end" of training only.
        private: Whether a repository that is created is private.
        revision: The branch; it must exist. By default the main one.
        token: By default the one that is stored on this machine.
        checkpoint: The `ModelCheckpoint` whose file it is; by default the first of the list.

    Raises:
        ConfigError: If an argument cannot work.

    Example:
        ```py
        model.fit(x, y, callbacks=[backup, best, HubUploader("me/digits")])
        ```
    """

    _key = "huggingface"

    def __init__(
        self,
        repo_id: str,
        path_in_repo: str | None = None,
        *,
        upload: Upload = "improved",
        private: bool | None = None,
        revision: str | None = None,
        token: str | None = None,
        checkpoint: ModelCheckpoint | None = None,
    ) -> None:
        super().__init__(upload, checkpoint)
        if not repo_id:
            raise ConfigError(
                f"repo_id must be the name of a repository, such as 'me/digits'. Got: {repo_id!r}.",
                see="trackers",
            )
        self.repo_id = repo_id
        self.path_in_repo = path_in_repo
        self.private = private
        self.revision = revision
        self._token = token
        self._api: Any = None
        self._on_its_way: tuple[CheckpointInfo, Future[Any]] | None = None

    def _open(self) -> None:
        self._api = HfApi(token=self._token)

    def _tell(self, news: News) -> None:
        """Do nothing: the Hub hears of files only."""

    def _put_if_new(self) -> None:
        """Start to upload the best file, unless another upload is on its way."""
        if self._on_its_way is not None:
            if not self._on_its_way[1].done():
                return
            self._tries(self._settle)
        best = self.best_checkpoint()
        if best is not None and best.saved_at > self._uploaded_at:
            self._put(best)

    def _put(self, best: CheckpointInfo) -> None:
        self._on_its_way = best, self._api.run_as_future(self._upload, best)

    def _settle(self) -> None:
        """Wait for the upload that is on its way; raise what it has raised."""
        if self._on_its_way is not None:
            (best, future), self._on_its_way = self._on_its_way, None
            future.result()
            self._uploaded_at = best.saved_at

    def _upload(self, best: CheckpointInfo) -> None:
        self._api.create_repo(self.repo_id, private=self.private, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="ratchet-") as directory:
            # the next best file takes the place of this one while it is read
            path = shutil.copyfile(best.path, Path(directory, best.name))
            self._api.upload_file(
                path_or_fileobj=path,
                path_in_repo=self.path_in_repo or best.name,
                repo_id=self.repo_id,
                revision=self.revision,
                commit_message=f"Epoch {best.position.epoch}: {summary_of(best)}",
                commit_description=best.reason,
            )

    def _finish(self, stops: list[StopReason], ended: bool) -> None:
        if ended:  # else a process that has to end would wait for an upload
            self._tries(self._settle)  # if it has failed, it is tried again now
            super()._finish(stops, ended)
            self._settle()

    def _without_run(self) -> dict[str, Any]:
        return {**super()._without_run(), "_api": None, "_on_its_way": None}
