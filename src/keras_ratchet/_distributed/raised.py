"""An exception that one rank has raised, on its way to the others."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import Any, TypeVar

from keras_ratchet.errors import RankError, RatchetError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Raised:
    """An exception and where it was raised; one that cannot be pickled goes as text."""

    error: Exception
    rank: int

    def __reduce__(self) -> Any:
        error = self.error
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:
            see = error.anchor if isinstance(error, RatchetError) else None
            error = RankError(f"{type(error).__name__}: {error}", see=see)
        return Raised, (error, self.rank)


def result(outcome: T | Raised) -> T:
    """Return an outcome, or raise it."""
    if not isinstance(outcome, Raised):
        return outcome
    note = f"raised on rank {outcome.rank}"
    if note not in getattr(outcome.error, "__notes__", ()):
        outcome.error.add_note(note)
    raise outcome.error
