"""PyTorch."""

from __future__ import annotations

import functools
import importlib
import operator
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import ml_dtypes
import numpy as np
import torch
from numpy.typing import NDArray

from keras_ratchet._backends import Foreign, Resolve, torch_data, torch_device
from keras_ratchet._backends.arena import Buffers
from keras_ratchet._keras.marks import tensors_of

# Dtypes that NumPy lacks: the dtype to view the memory as, and the one of ml_dtypes.
_FOREIGN: dict[torch.dtype, tuple[torch.dtype, Any]] = {
    torch.bfloat16: (torch.int16, ml_dtypes.bfloat16),
    torch.float8_e4m3fn: (torch.int8, ml_dtypes.float8_e4m3fn),
    torch.float8_e5m2: (torch.int8, ml_dtypes.float8_e5m2),
}
_DTENSORS = "torch.distributed.tensor"
_KERAS_PARAMETERS = "_torch_params"  # where a Keras layer lists its variables for torch
_OF_MODULE = torch.nn.Module.named_parameters  # Keras's layers override it


def view(variable: Any) -> NDArray[Any]:
    """Return the value; on the CPU a view of the tensor's own memory.

    Of a DTensor that is split over processes it is this process's `Slices`.
    """
    value = variable.value.detach()
    return _as_held(value, _array(_local(value).cpu()))


def is_on_host(variable: Any) -> bool:
    """Return whether it is a whole tensor in the host's memory."""
    value = variable.value
    return bool(value.device.type == "cpu") and _slices(value) is None


def _may_be_split() -> bool:
    """Return whether there can be DTensors."""
    return _DTENSORS in sys.modules


def _slices(value: torch.Tensor) -> Any:
    """Return the module for DTensors if a tensor is one; else nothing is imported."""
    if not _may_be_split() or not isinstance(value, sys.modules[_DTENSORS].DTensor):
        return None
    return importlib.import_module("keras_ratchet._backends.torch_slices")


def _local(value: torch.Tensor) -> torch.Tensor:
    """Return what this process holds of a tensor, which shares its memory."""
    return value if _slices(value) is None else value.to_local()


def _as_held(value: torch.Tensor, local: NDArray[Any]) -> NDArray[Any]:
    slices = _slices(value)
    return local if slices is None else slices.sliced(value, local)


def _array(value: torch.Tensor) -> NDArray[Any]:
    """Return a view of a tensor on the CPU."""
    if value.dtype in _FOREIGN:
        seen_as, dtype = _FOREIGN[value.dtype]
        return np.asarray(value.view(seen_as).numpy()).view(dtype)
    return np.asarray(value.numpy())


def capture(variables: Sequence[Any], buffers: Buffers) -> Resolve:
    """Copy into memory that is used again: fresh memory costs as much as the copy."""
    tensors = tensors_of(variables)
    is_split = _may_be_split() and sys.modules[_DTENSORS].DTensor in set(map(type, tensors))
    values = [_local(tensor.detach()) for tensor in tensors] if is_split else tensors
    if not all(map(_is_on_host, values)):
        buffers.places = None
        read = torch_device.capture([value.detach() for value in values], buffers)
        return lambda: [_as_held(t, _array(v)) for t, v in zip(tensors, read(), strict=True)]
    copies = buffers[0] if buffers else None
    if not isinstance(copies, _Copies) or not copies.serve(values, buffers):
        copies, buffers[:] = None, []  # freed before there are others
        copies = _Copies(values, buffers)
        buffers[:] = [copies]
    copies.fill(values)
    arrays = copies.arrays
    if not is_split:
        return lambda: list(arrays)
    return lambda: [_as_held(t, a) for t, a in zip(tensors, arrays, strict=True)]


class _Copies:
    """Copies of tensors of the host, each at its place in the memory of `buffers`.

    Attributes:
        arrays: The copies, as NumPy sees them.
    """

    def __init__(self, values: Sequence[torch.Tensor], buffers: Buffers) -> None:
        self._shapes = list(map(_shape, values))
        self._dtypes = list(map(_dtype, values))
        places = self._places = buffers.arrange([value.nbytes for value in values])
        memory = torch.from_numpy(buffers.memory)
        self.arrays: list[NDArray[Any]] = []
        self._targets: list[torch.Tensor] = []
        self._as_bytes: set[int] = set()  # those whose place would not do for their dtype
        for i, (value, start) in enumerate(zip(values, places.offsets, strict=True)):
            shape, dtype = value.shape, value.dtype
            self.arrays.append(buffers.array(i, tuple(shape), _in_numpy(dtype)))
            target = memory[start : start + value.nbytes]
            if start % value.itemsize:
                self._as_bytes.add(i)
            else:
                target = target.view(dtype).view(shape)
            self._targets.append(target)

    def serve(self, values: Sequence[torch.Tensor], buffers: Buffers) -> bool:
        """Return whether these tensors have such shapes and dtypes, and their places are wanted."""
        return (
            (buffers.wanted is None or buffers.wanted == self._places)
            and self._shapes == list(map(_shape, values))
            and self._dtypes == list(map(_dtype, values))
        )

    def fill(self, values: Sequence[torch.Tensor]) -> None:
        """Copy the values."""
        sources = list(values)
        with torch.no_grad():
            for i in self._as_bytes:
                sources[i] = sources[i].detach().reshape(-1).view(torch.uint8)
            if sources:
                torch._foreach_copy_(self._targets, sources)


_is_on_host = operator.attrgetter("is_cpu")
_shape = operator.attrgetter("shape")
_dtype = operator.attrgetter("dtype")


@functools.cache
def _in_numpy(dtype: torch.dtype) -> np.dtype[Any]:
    """Return the dtype of NumPy, or of ml_dtypes, for one of torch's."""
    return _array(torch.empty(0, dtype=dtype)).dtype


def assign(variable: Any, value: Any) -> None:
    """Set the variable; torch copies into the parameter. Each process sets what it holds."""
    held = variable.value.detach()
    slices = _slices(held)
    if slices is None:
        variable.assign(np.asarray(value))
        return
    with torch.no_grad():
        held.to_local().copy_(_tensor(slices.own_part(value, held)))


class _Tensor(Foreign):
    """A parameter or buffer of a module, by its name: modules replace the tensor."""

    def __init__(self, name: str, module: torch.nn.Module, attribute: str) -> None:
        super().__init__(name)
        self._module, self._attribute = module, attribute

    @property
    def value(self) -> Any:
        """The tensor."""
        return getattr(self._module, self._attribute)

    @property
    def identity(self) -> Any:
        """The module and the name."""
        return id(self._module), self._attribute

    @property
    def trainable(self) -> bool:
        """Whether it is a parameter that is not frozen."""
        return bool(self.value.requires_grad)

    def assign(self, value: NDArray[Any]) -> None:
        """Copy into the tensor, or into a new one if the shape differs."""
        tensor, found = _tensor(value), self.value
        if tuple(found.shape) == tuple(tensor.shape):
            with torch.no_grad():
                found.copy_(tensor)
        else:
            setattr(self._module, self._attribute, tensor.to(found.device, found.dtype))


def _tensor(value: NDArray[Any]) -> torch.Tensor:
    """Return a tensor with a copy of the value."""
    for dtype, (seen_as, foreign) in _FOREIGN.items():
        if value.dtype == foreign:
            bits = np.array(value).view(f"i{seen_as.itemsize}")
            return torch.from_numpy(bits).view(dtype)
    return torch.from_numpy(np.array(value))


def is_split(variable: Any) -> bool:
    """Return whether the variable is a DTensor of which a process holds a part."""
    value = variable.value
    slices = _slices(value)
    return slices is not None and slices.is_split(value)


def state_of(thing: Any) -> list[Foreign] | None:
    """Return a module's tensors (those of a Keras layer itself), or a generator's state."""
    if isinstance(thing, torch.Generator):
        return [torch_data.Stream(thing)]
    if not isinstance(thing, torch.nn.Module):
        return None
    found: list[Foreign] = []
    modules = [("", thing)]
    while modules:
        path, module = modules.pop(0)
        if module._parameters or module._buffers:
            own = [*_OF_MODULE(module, recurse=False), *module.named_buffers(recurse=False)]
            found += [_Tensor(f"{path}{name}", module, name) for name, _ in own]
        modules += [
            (f"{path}{name}.", child)
            for name, child in module.named_children()
            if not isinstance(child, keras.layers.Layer) and name != _KERAS_PARAMETERS
        ]
    return found


def replicas(variable: Any) -> list[Foreign]:
    """Return nothing: a variable has one value."""
    return []


def batch_norms(layers: Iterable[Any]) -> list[Any]:
    """Return torch's BatchNorm modules in layers."""
    modules = [module for layer in layers for module in torch.nn.Module.modules(layer)]
    kind = torch.nn.modules.batchnorm._BatchNorm
    return list({id(m): m for m in modules if isinstance(m, kind)}.values())


def random_ops(function: Any) -> list[str]:
    """Return nothing: no random numbers are drawn from hidden states."""
    return []


def unalias(variables: Iterable[Any], averages: Iterable[tuple[Any, Any]]) -> None:
    """Do nothing: torch copies on assignment."""


def no_gradients() -> Any:
    """Return a block in which torch records nothing."""
    return torch.no_grad()


def doubled(arguments: tuple[Any, ...], steps: int) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Return the arguments twice: they are the batches."""
    return arguments, arguments


def rng_state() -> dict[str, Any]:
    """Return the state of torch's global generators: dropout and shuffling draw from them."""
    state: dict[str, Any] = {"torch": torch.get_rng_state().numpy()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = [s.numpy() for s in torch.cuda.get_rng_state_all()]
    return state


def set_rng_state(state: dict[str, Any]) -> None:
    """Restore that state."""
    if "torch" in state:
        torch.set_rng_state(torch.from_numpy(np.array(state["torch"])))
    if "cuda" in state and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([torch.from_numpy(np.array(s)) for s in state["cuda"]])
