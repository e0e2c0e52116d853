"""One save under a ModelCheckpoint, from the hook to the file."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field

from keras_ratchet._engine.saving.model_file import FrozenModel
from keras_ratchet._storage.manifest import Manifest


@dataclass(slots=True)
class PendingSave:
    """One save, from the moment at which the model was frozen.

    `started_s` is when it began, by `time.perf_counter`, `blocked_s` for how long training waited
    until the model was frozen.
    """

    frozen: FrozenModel | None
    path: str
    manifest: Manifest
    size_bytes: int
    as_best: bool
    preserves_others: bool
    started_s: float
    blocked_s: float
    checked: threading.Event = field(default_factory=threading.Event)
    bad_weight: str | None = None

    def check(self) -> FrozenModel:
        """Check the weights where that matters; hand the model over, which frees it here."""
        frozen, self.frozen = self.frozen, None
        assert frozen is not None
        try:
            if self.as_best or os.path.exists(self.path):
                self.bad_weight = frozen.bad_weight()
        finally:
            self.checked.set()
        return frozen
