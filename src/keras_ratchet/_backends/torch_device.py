"""Torch's tensors on an accelerator: to the host while training goes on, and copies that stay.

On CUDA a capture has three steps, in two queues of the device:

1. training's queue: the tensors are copied to a staging area, on the device, at its own speed;
2. our queue, once 1 is done: the area is copied to pinned host memory, at the speed of the bus;
3. the host: whoever reads the values waits for 2.

The hook queues 1 and 2 and returns. Training's next steps come after 1 in its queue, so they cannot
change what is copied. The next capture's 1 waits, on the device, for this one's 2: the area is
used again. If there is no room for an area, the tensors are copied over the bus in training's
queue, and the hook waits for that.

Which memory must outlive what: the tensors are read in training's queue only, where the caching
allocator orders a later use of their memory by itself. The area belongs to that queue, too, but is
read in ours; `record_stream` tells the allocator, which then does not give the memory away before 2
is done, even if the buffers are freed and nobody waits. Host memory is pinned, and so the allocator
of pinned memory notes 2 as well.
"""

from __future__ import annotations

import itertools
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import keras
import torch

from keras_ratchet._backends import Foreign

_log = logging.getLogger("keras_ratchet")
_ALIGNMENT = 256  # of each tensor in the area, as of any that the device allocates
_SPARE = 0.1  # the share of the device's memory that stays free
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class Streams:
    """The two queues of a CUDA device, and its memory: the seam at which tests stand in for it.

    Args:
        device: The device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._ours = torch.cuda.Stream(device)

    def run(self, work: Callable[[], None]) -> Any:
        """Queue work where training is queued; return the event of its end."""
        with torch.cuda.device(self._device):
            work()
            return torch.cuda.current_stream().record_event(torch.cuda.Event(blocking=True))

    def run_beside(self, work: Callable[[], None], after: Any, reads: torch.Tensor) -> Any:
        """Queue work that training does not wait for; return the event of its end.

        Args:
            work: What to queue.
            after: The event that it waits for.
            reads: The memory that it reads, which must not be used otherwise before.
        """
        with torch.cuda.stream(self._ours):
            self._ours.wait_event(after)
            work()
            reads.record_stream(self._ours)
            return self._ours.record_event(torch.cuda.Event(blocking=True))

    def hold(self, until: Any) -> None:
        """Have what is queued from now on where training is queued wait for an event."""
        torch.cuda.current_stream(self._device).wait_event(until)

    def wait(self, until: Any) -> None:
        """Wait here, on any thread, for an event."""
        until.synchronize()

    def free_bytes(self) -> tuple[int, int]:
        """Return how much of the device's memory is free, and how much there is.

        What torch keeps for the next step does not count as free, so training has its peak.
        """
        free, total = torch.cuda.mem_get_info(self._device)
        return int(free), int(total)

    def on_host(self, size: int) -> torch.Tensor:
        """Return so many bytes of pinned memory."""
        return torch.empty(size, dtype=torch.uint8, pin_memory=True)

    def on_device(self, size: int) -> torch.Tensor:
        """Return so many bytes of the device's memory."""
        return torch.empty(size, dtype=torch.uint8, device=self._device)


def is_apart(value: torch.Tensor) -> bool:
    """Return whether a tensor is in the memory of an accelerator."""
    return str(value.device.type) != "cpu"


def streams_of(device: torch.device) -> Streams | None:
    """Return the queues of a device; None if it is not CUDA's."""
    return Streams(device) if device.type == "cuda" else None


def capture(
    values: Sequence[torch.Tensor], areas: list[Any]
) -> Callable[[], Iterator[torch.Tensor]]:
    """Capture tensors, some of which are on accelerators.

    Args:
        values: The tensors.
        areas: Memory to use again, one area for each device; filled by the first call.

    Returns:
        A function that yields the captured tensors in host memory, in order. It may be called on
        any thread, until `areas` are used again.
    """
    places = defaultdict(list)
    for i, value in enumerate(values):
        places[value.device].append(i)
    groups = [[values[i] for i in found] for found in places.values()]
    if len(areas) != len(groups) or not all(map(_serves, areas, groups)):
        areas[:] = []  # the old ones go before there are others
        areas[:] = map(Area, groups)
    ends = [area.fill(group) for area, group in zip(areas, groups, strict=True)]
    filled = list(zip(places.values(), areas, ends, strict=True))

    def read() -> Iterator[torch.Tensor]:
        held: list[Any] = [None] * len(values)
        for found, area, end in filled:
            for i, tensor in zip(found, area.read(end), strict=True):
                held[i] = tensor
        return iter(held)

    return read


class Area:
    """Memory for the tensors of one device: on the host and, if there is room, staged on it.

    Args:
        values: The tensors, to know their sizes.
    """

    def __init__(self, values: Sequence[torch.Tensor]) -> None:
        self._kinds = _kinds(values)
        ends = list(itertools.accumulate(-(-v.nbytes // _ALIGNMENT) * _ALIGNMENT for v in values))
        self._starts, self._size = [0, *ends[:-1]], ends[-1]
        self._streams = streams_of(values[0].device)
        if self._streams is None:
            self._host = torch.empty(self._size, dtype=torch.uint8)
        else:
            self._host = self._streams.on_host(self._size)
        self._targets = self._parts(self._host)
        self._staging = None if self._streams is None else _staging(self._streams, self._size)
        self._staged = None if self._staging is None else self._parts(self._staging)
        self._end: Any = None  # the event at which the staged tensors have left

    def serves(self, values: Sequence[torch.Tensor]) -> bool:
        """Return whether it was made for such tensors."""
        return self._kinds == _kinds(values)

    def _parts(self, memory: torch.Tensor) -> list[torch.Tensor]:
        """Return the tensors in a piece of memory."""
        sizes = [dtype.itemsize * shape.numel() for _, shape, dtype in self._kinds]
        return [
            memory[start : start + size].view(dtype).view(shape)
            for start, size, (_, shape, dtype) in zip(self._starts, sizes, self._kinds, strict=True)
        ]

    def fill(self, values: Sequence[torch.Tensor]) -> Any:
        """Copy tensors; return what `read` has to wait for."""
        if self._streams is None:
            _copy(self._targets, values)
            if is_apart(values[0]):
                torch.accelerator.synchronize(values[0].device)
            return None
        staging, staged = self._staging, self._staged
        if staging is None or staged is None:
            self._streams.wait(self._streams.run(lambda: _copy(self._targets, values)))
            return None
        if self._end is not None:
            self._streams.hold(self._end)
        begun = self._streams.run(lambda: _copy_at_once(staged, values))
        self._end = self._streams.run_beside(
            lambda: _copy([self._host], [staging]), begun, reads=staging
        )
        return self._end

    def read(self, end: Any) -> list[torch.Tensor]:
        """Return the tensors on the host, once they are there."""
        if end is not None:
            assert self._streams is not None
            self._streams.wait(end)
        return self._targets


def _serves(area: Any, values: Sequence[torch.Tensor]) -> bool:
    return isinstance(area, Area) and area.serves(values)


def _kinds(values: Iterable[torch.Tensor]) -> list[tuple[torch.device, torch.Size, torch.dtype]]:
    return [(value.device, value.shape, value.dtype) for value in values]


def _staging(streams: Streams, size: int) -> torch.Tensor | None:
    """Return a staging area, or None if the device has no room for it."""
    free, total = streams.free_bytes()
    if free - size >= _SPARE * total:
        try:
            return streams.on_device(size)
        except torch.OutOfMemoryError:
            pass
    _log.info(
        "a save waits for the bus: no room on the device for a copy of %.0f MB "
        "(%.0f of %.0f MB are free)",
        *(count / 1e6 for count in (size, free, total)),
    )
    return None


def _copy(targets: Sequence[torch.Tensor], values: Sequence[torch.Tensor]) -> None:
    for target, value in zip(targets, values, strict=True):
        target.copy_(value, non_blocking=True)


def _copy_at_once(targets: Sequence[torch.Tensor], values: Sequence[torch.Tensor]) -> None:
    """Copy in few kernels: those with one dtype go together, a mixed list would go one by one."""
    pairs = defaultdict(list)
    for target, value in zip(targets, values, strict=True):
        pairs[value.device, target.dtype, value.dtype].append((target, value))
    for found in pairs.values():
        torch._foreach_copy_([target for target, _ in found], [value for _, value in found])


def hold(
    variables: Sequence[Any], sources: Sequence[Any], held: list[torch.Tensor]
) -> list[torch.Tensor]:
    """Return copies of values on their devices, in the memory of `held` if they fit."""
    values = [variable.value.detach() for variable in variables]
    if _kinds(held) != _kinds(values):
        held = [torch.empty_like(value) for value in values]
    _copy_at_once(held, [source.value.detach() for source in sources])
    return held


def put_back(variable: Any, held: torch.Tensor) -> None:
    """Set a variable to a copy of a tensor on its device."""
    found = variable.value.detach()
    if not isinstance(variable, Foreign):
        variable.assign(held)
    elif found.shape == held.shape and not variable.is_stream:
        found.copy_(held)
    else:  # the module gets another tensor, the generator a state
        variable.assign(keras.ops.convert_to_numpy(held))


def all_finite(variables: Iterable[Any]) -> bool:
    """Return whether one sum for each device shows that all values are finite.

    A sum may overflow though they are, so False proves nothing.
    """
    sums = defaultdict(list)
    for variable in variables:
        value = variable.value.detach()
        if value.dtype in _FLOATS:
            sums[value.device].append(value.sum(dtype=torch.float32))
        elif value.is_floating_point() or value.is_complex():
            return False
    return all(bool(torch.stack(found).sum().isfinite()) for found in sums.values())
