"""FRAMEWORKS: what differs between torch, tensorflow and jax, in a small module each."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, cast

from numpy.typing import NDArray

from keras_ratchet._backends.arena import Buffers

Resolve = Callable[[], list[NDArray[Any]]]


def current() -> Backend:
    """Return the module of the backend that Keras runs on; no other one is imported."""
    import keras

    name = f"{__name__}.{keras.backend.backend()}"
    return cast(Backend, importlib.import_module(name))


def device_copies() -> DeviceCopies:
    """Return the module for copies on the devices of the backend that Keras runs on."""
    import keras

    name = f"{__name__}.{keras.backend.backend()}_device"
    return cast(DeviceCopies, importlib.import_module(name))


def strategy(model: Any = None) -> Any:
    """Return TensorFlow's strategy that a model was made under, or in whose scope this is called.

    Args:
        model: The model, if there is one yet.

    Returns:
        None on other backends.
    """
    import keras

    if keras.backend.backend() != "tensorflow":
        return None
    return importlib.import_module(f"{__name__}.tensorflow").strategy(model)


def torch_loading() -> Any:
    """Return the helpers for torch's data loading if torch is in use, on whatever backend."""
    if "torch" not in sys.modules:
        return None
    return importlib.import_module(f"{__name__}.torch_data")


def tensorflow_loading() -> Any:
    """Return the helpers for `tf.data` if TensorFlow is in use, on whatever backend."""
    if not hasattr(sys.modules.get("tensorflow"), "data"):
        return None
    return importlib.import_module(f"{__name__}.tensorflow_data")


def torch_plain(state: Any) -> Any:
    """Return the state of a torch object with its tensors, if it has any, as arrays."""
    torch = torch_loading()
    return state if torch is None or state is None else torch.plain(state)


def torch_tensors(state: Any) -> Any:
    """Return what `torch_plain` was given."""
    torch = torch_loading()
    return state if torch is None or state is None else torch.tensors(state)


class Foreign:
    """A value of the framework, read and set as if it were a Keras variable.

    Args:
        name: Its name where it was found.
        is_stream: Whether it is the state of a random number generator.
    """

    def __init__(self, name: str, is_stream: bool = False) -> None:
        self.name = self.path = name
        self.is_stream = is_stream

    @property
    def value(self) -> Any:
        """The value, as the framework has it."""
        raise NotImplementedError

    @property
    def identity(self) -> Any:
        """What tells it from others; the same for all objects that represent this value."""
        raise NotImplementedError

    @property
    def trainable(self) -> bool:
        """Whether training changes it."""
        return False

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the value."""
        return tuple(self.value.shape)

    def assign(self, value: NDArray[Any]) -> None:
        """Set it to a copy of `value`."""
        raise NotImplementedError


class Backend(Protocol):
    """The functions of a backend module."""

    def view(self, variable: Any) -> NDArray[Any]:
        """Return a variable's value as an array that is valid until training continues.

        It may be a view of live memory: read it at once, never store or change it.
        """

    def is_on_host(self, variable: Any) -> bool:
        """Return whether all of a variable is in the host's memory, where `view` is cheap."""

    def capture(self, variables: Sequence[Any], buffers: Buffers) -> Resolve:
        """Capture the values of variables, so that they stay the same while training continues.

        Args:
            variables: The variables.
            buffers: Memory to copy to, if this backend has to copy; filled by the first call.

        Returns:
            A function that returns the values as arrays, in order. It may be called on any
            thread, until `buffers` are used again.
        """

    def assign(self, variable: Any, value: NDArray[Any]) -> None:
        """Set a variable to a copy of `value`."""

    def is_split(self, variable: Any) -> bool:
        """Return whether there is a process that does not hold all of a variable's value.

        `view`, `capture` and `assign` then deal with this process's Slices of it.
        """

    def state_of(self, thing: Any) -> list[Foreign] | None:
        """Return the values in a module, variable or generator of the framework, or None."""

    def replicas(self, variable: Any) -> list[Foreign]:
        """Return each replica's value of a variable that has several, or nothing."""

    def batch_norms(self, layers: Iterable[Any]) -> list[Any]:
        """Return the framework's modules with running statistics; `momentum` weights new values."""

    def random_ops(self, function: Any) -> list[str]:
        """Return the names of random ops in a step whose state cannot be read."""

    def unalias(self, variables: Iterable[Any], averages: Iterable[tuple[Any, Any]]) -> None:
        """Give each variable its own memory where two share one buffer.

        Args:
            variables: All variables of a model and its optimizer.
            averages: The pairs among them of a weight and its moving average.
        """

    def no_gradients(self) -> AbstractContextManager[Any]:
        """Return a block in which models are called without recording gradients."""

    def doubled(
        self, arguments: tuple[Any, ...], steps: int
    ) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Return the arguments of a step of `fit` twice, so that two steps get the same batches.

        Args:
            arguments: What `fit` calls `train_function` with.
            steps: How many batches a step takes.
        """

    def rng_state(self) -> dict[str, Any]:
        """Return the state of the backend's global random number streams on the host."""

    def set_rng_state(self, state: dict[str, Any]) -> None:
        """Restore that state; streams that are missing in it do not change."""


class DeviceCopies(Protocol):
    """What the module for a backend's devices offers on each of them."""

    def hold(
        self, variables: Sequence[Any], sources: Sequence[Any], held: list[Any]
    ) -> Sequence[Any]:
        """Return copies of values as tensors on their devices, without waiting for them.

        Args:
            variables: The variables.
            sources: What is read in place of each.
            held: What an earlier call returned for them, whose memory may be used again.
        """

    def put_back(self, variable: Any, held: Any) -> None:
        """Set a variable to a copy of a tensor on its device."""

    def all_finite(self, variables: Iterable[Any]) -> bool:
        """Return whether one sum on the device shows that all values are finite.

        A sum may overflow though they are, so False proves nothing.
        """
