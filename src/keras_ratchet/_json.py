"""Numbers in strict JSON, which has no NaN and no infinity: they are written as strings.

`float` reads the strings back. Where a reader has to tell them from other strings, the states of
criteria and callbacks, they are tagged there (`policy.criterion`, `_engine.resume.state_codec`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def number(value: float) -> float | str:
    """Return a number as strict JSON can hold it.

    Example:
        >>> number(0.5), number(float("nan")), number(float("-inf"))
        (0.5, 'nan', '-inf')
    """
    return value if math.isfinite(value) else str(value)


def plain(value: Any) -> Any:
    """Return data as strict JSON can hold it: keys are strings, tuples become lists.

    Example:
        >>> plain({"loss": float("nan"), 1: (2, None)})
        {'loss': 'nan', '1': [2, None]}
    """
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return number(value) if isinstance(value, float) else value
