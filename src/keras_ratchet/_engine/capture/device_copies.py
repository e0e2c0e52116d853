"""Copies of variables in the memory of their devices, with the interface of `VariableCopies`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, get_args

import keras
import numpy as np
from numpy.typing import NDArray

from keras_ratchet import _backends
from keras_ratchet._backends.slices import held_as
from keras_ratchet.errors import ConfigError

KeepOn = Literal["host", "device"]


def check_keep_on(keep_on: object) -> None:
    """Raise a ConfigError unless a value says where weights are kept."""
    if keep_on not in get_args(KeepOn):
        raise ConfigError(
            'keep_on must be "host" (best weights are kept in host memory) or "device" (where the '
            f"model's weights are). Got: {keep_on!r}.",
            see="best-weights",
        )


class DeviceCopies:
    """Copies of a list of variables on their devices; of what is split over processes, on the host.

    Attributes:
        values: The copies: tensors of the backend, or arrays on the host.
    """

    def __init__(self) -> None:
        self._variables: list[Any] = []
        self._of: Callable[[], Sequence[Any]] | None = None
        self.values: Sequence[Any] = []

    @property
    def buffers(self) -> Sequence[NDArray[Any]]:
        """The copies as arrays, each of which comes to the host when it is asked for."""
        return _OnHost(self.values)

    def capture(self, variables: Sequence[Any], sources: Mapping[int, Any]) -> None:
        """Copy the values; `sources` maps the id of a variable to the one to read instead."""
        backend = _backends.current()
        read = [sources.get(id(variable), variable) for variable in variables]
        split = {i: backend.view(read[i]).copy() for i in _split(variables)}
        whole = [i for i in range(len(variables)) if i not in split]
        used = [value for value in self.values if not isinstance(value, np.ndarray)]
        held = _backends.device_copies().hold(
            [variables[i] for i in whole], [read[i] for i in whole], used
        )
        copies = split | dict(zip(whole, held, strict=True))
        self.values = [copies[i] for i in range(len(variables))]
        self._variables, self._of = list(variables), None

    def restore(self) -> None:
        """Assign the values to the variables that they belong to."""
        backend, device = _backends.current(), _backends.device_copies()
        if self._of is not None:
            self._variables, self._of = list(self._of()), None
        for variable, value in zip(self._variables, self.values, strict=True):
            put = backend.assign if isinstance(value, np.ndarray) else device.put_back
            put(variable, value)

    def load(self, variables: Callable[[], Sequence[Any]], values: Sequence[NDArray[Any]]) -> None:
        """Take over values from another process, and bring them to the device.

        Args:
            variables: Returns the variables they belong to. If a first step has to make them, the
                values wait for it on the host.
            values: The values, as `buffers` had them.
        """
        self._variables, self._of = [], variables if values else None
        self.values = [np.array(value) for value in values]
        held = list(variables()) if values else []
        if len(held) == len(values):
            backend, split = _backends.current(), _split(held)
            self.values = [
                held_as(array, backend.view(held[i])) if i in split else _on_device(array)
                for i, array in enumerate(self.values)
            ]


def _split(variables: Sequence[Any]) -> list[int]:
    is_split = _backends.current().is_split
    return [i for i, variable in enumerate(variables) if is_split(variable)]


def _on_device(array: NDArray[Any]) -> Any:
    return keras.ops.convert_to_tensor(array, dtype=array.dtype.name)


class _OnHost(Sequence[Any]):
    """Tensors, seen as a sequence of arrays."""

    def __init__(self, values: Sequence[Any]) -> None:
        self._values = values

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return _OnHost(self._values[index])
        value = self._values[index]
        return value if isinstance(value, np.ndarray) else keras.ops.convert_to_numpy(value)

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))
