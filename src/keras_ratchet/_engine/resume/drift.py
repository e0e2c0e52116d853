"""Ranks that should have the same weights and do not: found by digests, said once in a run.

What is compared is what is trained, and the optimizers' variables. Statistics of batches
(BatchNormalization), running metrics and random streams may differ: each rank has its own data.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_ratchet import _backends
from keras_ratchet._backends.slices import Slices
from keras_ratchet._engine.capture.model_state import Places
from keras_ratchet._engine.resume.rank_states import digest
from keras_ratchet._warn import warn
from keras_ratchet.types import Model

_MOST = 3


def alike(named: Mapping[str, Any]) -> list[str]:
    """Return the names of variables that have to be the same on all ranks: those not split.

    Args:
        named: The variables, by place.
    """
    is_split = _backends.current().is_split
    return [
        name
        for name, variable in named.items()
        if (name.startswith("optimizer/") or (name.startswith("model/") and variable.trainable))
        and not is_split(variable)
    ]


def apart(digests: Sequence[Mapping[str, bytes]], names: Collection[str]) -> dict[int, list[str]]:
    """Return, for each rank that differs from most others, the names of its other variables.

    Args:
        digests: Of each rank, by name.
        names: What to compare.
    """
    found: dict[int, list[str]] = {}
    for name in names:
        values = [own.get(name) for own in digests]
        usual = Counter(values).most_common(1)[0][0]  # of as many of each, rank 0's
        for rank, value in enumerate(values):
            if value != usual:
                found.setdefault(rank, []).append(name)
    return found


class DriftWatch:
    """Warns, once in a run and on rank 0, of ranks whose weights are not those of the others."""

    def __init__(self) -> None:
        self._is_told = False

    def start(self) -> None:
        """Begin a run."""
        self._is_told = False

    def check(self, ranks: Any, model: Model, places: Places, has_trained: bool) -> None:
        """Compare the weights of all ranks, which all call it.

        Args:
            ranks: The coordinator.
            model: The model.
            places: The names of its variables.
            has_trained: Whether a step was made.
        """
        backend = _backends.current()
        named = places.variables(model, ("model", "optimizer"))
        values = {name: backend.view(named[name]) for name in alike(named)}
        own = {n: digest(value) for n, value in values.items() if not isinstance(value, Slices)}
        whole = digest(np.frombuffer(b"".join(own.values()), np.uint8))
        if len(set(ranks.gather(whole, "digest of the weights"))) > 1:
            self.look(ranks, ranks.gather(own, "digests of the weights"), own, has_trained)

    def look(
        self,
        ranks: Any,
        digests: Sequence[Mapping[str, bytes]],
        names: Collection[str],
        has_trained: bool,
    ) -> None:
        """Warn if digests of variables differ.

        Args:
            ranks: The coordinator.
            digests: Of each rank, by name.
            names: What has to be the same.
            has_trained: Whether a step was made.
        """
        if self._is_told or not digests:
            return
        found = apart(digests, names)
        self._is_told = bool(found)
        if found and ranks.rank == 0:
            warn(_message(found, len(names), has_trained))


def _message(found: Mapping[int, list[str]], count: int, has_trained: bool) -> str:
    which = "; ".join(
        f"rank {rank}: {len(names)} of {count} ({', '.join(names[:_MOST])}"
        f"{', ...' if len(names) > _MOST else ''})"
        for rank, names in found.items()
    )
    if not has_trained:
        return (
            "The ranks start from different weights: variables that are not those of the other "
            f"ranks: {which}. Unless the first step makes them equal, the ranks train different "
            "models. Give all ranks one seed (keras.utils.set_random_seed) or one file before "
            "the model is made, or wrap it in DistributedDataParallel first."
        )
    return (
        "The ranks have drifted apart: the weights should be the same on all of them, but these "
        f"variables are not those of the other ranks: {which}. From here on each trains a model "
        f"of its own, and what is saved as the model is rank 0's. {_cause()}"
    )


def _cause() -> str:
    if keras.backend.backend() == "torch":
        return (
            "Likely causes: nothing averages the gradients (`fit` does so from Keras 3.16 on, "
            f"this is {keras.__version__}; a hand-written loop has to call the "
            "DistributedDataParallel, not the model in it), or one rank alone has changed its "
            "weights or its learning rate."
        )
    return "The likely cause: one rank alone has changed its weights or its learning rate."
