"""TrainState: everything that an exact resume needs, taken out of a training and put back.

| part | what | where it is put back |
|---|---|---|
| `model/*` | trainable and other variables of the model, SeedGenerators among them | train begin |
| `optimizer/*` | slots, iterations, learning rate, averages, loss scale | train begin |
| `metrics/*` | running sums of the metrics | first epoch's begin, after Keras's reset |
| `rng` | streams now: Python, NumPy, the backend, Keras's global seeds | see `epoch_rng` |
| `epoch_rng` | the same at the begin of the epoch | first epoch's begin; `rng` at its batch |
| `callbacks` | states of all callbacks, History included | train begin and first epoch's begin |
| `loop` | what a hand-written loop adds: its torch optimizer | train begin |
| `cursor` | state of data sources that have one | first epoch's begin |
| `logs` | the last batch's logs | returned by the skipped steps |

Variables are kept by collection and order, with a check of shapes: names differ between two
builds of one model. Nothing is pickled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_ratchet import _backends
from keras_ratchet._engine.holding import Holder
from keras_ratchet._engine.plain import decode, encode
from keras_ratchet.errors import LoadError, ResumeError
from keras_ratchet.types import Position

COLLECTIONS = ("model", "optimizer", "metrics")
_PARTS = ("rng", "epoch_rng", "callbacks", "cursor", "loop", "logs", "facts")


@dataclass(slots=True)
class TrainState:
    """One moment of a training, as arrays and plain data.

    Until `settle` the variables may be held where they are cheapest to hold.
    """

    position: Position
    variables: dict[str, NDArray[Any]]
    rng: dict[str, Any] = field(default_factory=dict)
    epoch_rng: dict[str, Any] = field(default_factory=dict)
    callbacks: dict[str, dict[str, Any]] = field(default_factory=dict)
    cursor: dict[str, Any] = field(default_factory=dict)
    loop: dict[str, Any] = field(default_factory=dict)
    logs: dict[str, float] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    elapsed_s: float = 0.0
    finished: str = ""
    held: Callable[[], Mapping[str, NDArray[Any]]] | None = None

    def settle(self) -> None:
        """Take the values that are held; those that were put in by hand stay."""
        if self.held is not None:
            self.variables = {**self.held(), **self.variables}
            self.held = None

    def pack(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Return the state as data for strict JSON and named arrays."""
        arrays = dict(self.variables)
        data = {
            "position": asdict(self.position),
            "elapsed_s": self.elapsed_s,
            "finished": self.finished,
            "variables": list(self.variables),
        }
        for part in _PARTS:
            data[part] = encode(getattr(self, part), arrays, part)
        return data, arrays

    @classmethod
    def unpack(cls, data: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> TrainState:
        """Return the state that `pack` described.

        Raises:
            LoadError: If the data is of another shape.
        """
        try:
            decoded = {part: decode(data.get(part, {}), arrays) for part in _PARTS}
            return cls(
                position=Position(**data["position"]),
                variables={name: arrays[name] for name in data["variables"]},
                elapsed_s=float(data["elapsed_s"]),
                finished=str(data["finished"]),
                **decoded,
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise LoadError(f"the training state cannot be read: {error!r}") from error


def collections_of(model: Any) -> dict[str, list[Any]]:
    """Return the variables that training changes, by collection, each in a fixed order."""
    optimizer = getattr(model, "optimizer", None)
    return {
        "model": [*model.trainable_variables, *model.non_trainable_variables],
        "optimizer": list(getattr(optimizer, "variables", ())),
        "metrics": list(getattr(model, "metrics_variables", ())),
    }


def hold_variables(
    model: Any, holder: Holder, lasting: bool
) -> Callable[[], Mapping[str, NDArray[Any]]]:
    """Take the values of all variables; return what gives them, named by collection and order.

    Args:
        model: The model.
        holder: How they are taken.
        lasting: Whether training goes on before they are asked for.
    """
    named = [
        (f"{collection}/{i:05d}", variable)
        for collection, variables in collections_of(model).items()
        for i, variable in enumerate(variables)
    ]
    values = holder.hold([variable for _, variable in named], lasting)
    return lambda: dict(zip([name for name, _ in named], values.arrays(), strict=True))


def capture_variables(
    model: Any, collections: Iterable[str] = COLLECTIONS
) -> dict[str, NDArray[Any]]:
    """Return owned copies of variables, named by collection and order."""
    backend = _backends.current()
    return {
        f"{collection}/{i:05d}": np.array(backend.view(variable))
        for collection, variables in collections_of(model).items()
        if collection in collections
        for i, variable in enumerate(variables)
    }


def restore_variables(model: Any, saved: Mapping[str, NDArray[Any]]) -> None:
    """Put all variables back.

    Raises:
        ResumeError: If number or shapes differ; then no variable has been touched.
    """
    problems = variable_differences(model, saved)
    if problems:
        raise ResumeError("; ".join(problems))
    backend = _backends.current()
    for collection, variables in collections_of(model).items():
        for i, variable in enumerate(variables):
            value = saved[f"{collection}/{i:05d}"]
            dtype = backend.view(variable).dtype
            backend.assign(variable, value if value.dtype == dtype else value.astype(dtype))


def variable_differences(model: Any, saved: Mapping[str, NDArray[Any]]) -> list[str]:
    """Return a sentence for each collection whose variables do not fit those that were saved."""
    problems = []
    for collection, variables in collections_of(model).items():
        names = sorted(name for name in saved if name.startswith(f"{collection}/"))
        if len(names) != len(variables):
            problems.append(
                f"{collection}: {len(names)} variables were saved, and there are {len(variables)}"
            )
            continue
        for name, variable in zip(names, variables, strict=True):
            if tuple(saved[name].shape) != tuple(variable.shape):
                problems.append(
                    f"{collection}: {getattr(variable, 'path', name)} has shape "
                    f"{tuple(variable.shape)}, and {saved[name].shape} was saved"
                )
    return problems
