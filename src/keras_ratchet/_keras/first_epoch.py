"""The epoch that a `fit` begins with, as seen from the hooks that it calls.

| name | for | checked on |
|---|---|---|
| local `initial_epoch` of `Model.fit` | does this run go on? | 3.12.0, 3.15.1, 3.16 nightly |
| `model._initial_epoch` | the same, set by a BackupAndRestore | 3.12.0, 3.15.1, 3.16 nightly |
"""

from __future__ import annotations

import sys
from typing import Any

_MOST_FRAMES = 12


def initial_epoch(model: Any) -> int:
    """Return the index of the first epoch of the `fit` that is calling; 0 if there is none."""
    if restored := getattr(model, "_initial_epoch", None):
        return int(restored)
    frame = sys._getframe(1)
    for _ in range(_MOST_FRAMES):
        seen = frame.f_locals
        if frame.f_code.co_name == "fit" and seen.get("self") is model:
            return int(seen.get("initial_epoch") or 0)
        if frame.f_back is None:
            break
        frame = frame.f_back
    return 0
