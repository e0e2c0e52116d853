"""Are the numbers of a model still numbers?"""

from __future__ import annotations

import logging
from typing import Any

from keras_ratchet import _backends
from keras_ratchet._backends.base import all_finite
from keras_ratchet._engine.best_weights import weights_of

_log = logging.getLogger("keras_ratchet")


class FiniteWatch:
    """Looks at the weights and the optimizer's variables of a model.

    What is not finite at first is a constant, such as a mask of minus infinities, and left out.

    Attributes:
        ignored: The places of those constants among the variables.
    """

    def __init__(self) -> None:
        self.ignored: set[int] = set()

    def begin(self, model: Any, optimizer: Any) -> None:
        """Note what is not finite at first."""
        variables = _watched(model, optimizer)
        self.ignored = {i for i, v in enumerate(variables) if not _is_finite(v)}
        for i in sorted(self.ignored):
            _log.warning("%s is not finite at first, so it is not watched", _name(variables[i]))

    def problem(self, model: Any, optimizer: Any) -> str | None:
        """Say what is not finite now and was at first, or return None."""
        for i, variable in enumerate(_watched(model, optimizer)):
            if i not in self.ignored and not _is_finite(variable):
                return f"{_name(variable)} is not finite"
        return None


def _watched(model: Any, optimizer: Any) -> list[Any]:
    return [*(weights_of(model) or ()), *getattr(optimizer, "variables", ())]


def _is_finite(variable: Any) -> bool:
    return all_finite(_backends.current().view(variable))


def _name(variable: Any) -> str:
    return str(getattr(variable, "path", variable.name))
