"""Captures on an accelerator: what they wait for, their memory, and what if there is no room."""

import inspect
import logging

import pytest
import torch
from support.device_queues import Queues

from keras_ratchet._backends import torch_device

WAITS = ["after", "hold", "wait"]
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool]


@pytest.fixture
def device(monkeypatch):
    """Return a function that puts a simulated device in the place of the CPU."""

    def made(**arguments):
        queues = Queues(**arguments)
        monkeypatch.setattr(torch_device, "streams_of", lambda device: queues)
        return queues

    return made


def tensors():
    """Return tensors of many dtypes and shapes; transposed, empty and single ones among them."""
    torch.manual_seed(0)
    found = [(torch.randn(3, 5) * 9).to(dtype) for dtype in DTYPES]
    return [*found, torch.randn(4, 6).t(), torch.randn(()), torch.zeros(0, 3), torch.ones(1)]


def copies(values):
    return [value.clone() for value in values]


def equal(one, other):
    return all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(one, other, strict=True))


def step(values):
    for value in values:
        value.copy_(~value if value.dtype == torch.bool else value + 1)


def is_right(queues):
    """Return whether captures, with steps of training around them, have their own values.

    They come in pairs, and none is read before both are queued: that is more than is promised
    (a capture need not last beyond the next), and shows what the second one does too early.
    """
    values, areas, now = tensors(), [], tensors()
    outcome = True
    for _ in range(2):
        pair = []
        for _ in range(2):
            queues.train(lambda: step(values))
            step(now)
            pair.append((copies(now), torch_device.capture(values, areas)))
        for expected, read in pair:
            outcome = equal(read(), expected) and outcome
    return outcome


@pytest.mark.parametrize("first", ["training", "ours"])
def test_a_capture_has_the_values_of_its_moment_whichever_queue_is_faster(first, device):
    assert is_right(device(first=first))


@pytest.mark.parametrize("wait", WAITS)
def test_each_wait_that_is_left_out_shows(wait, device):
    assert not all(is_right(device(first=f, without=wait)) for f in ("training", "ours"))


def test_the_hook_waits_for_nothing_and_tells_the_allocator_what_is_read(device):
    queues = device()
    values = [torch.ones(1000), torch.ones(3, dtype=torch.int32)]
    read = torch_device.capture(values, [])
    assert queues.waits == 0 and queues.told == [4096 + 256]
    assert equal(read(), values) and queues.waits == 1


@pytest.mark.parametrize("is_full", [False, True])
def test_without_room_the_hook_waits_for_the_bus_and_says_so_once(is_full, device, caplog):
    queues = device(room=1 << 40 if is_full else 0, at_once=True)
    queues.is_full = is_full
    values, areas = tensors(), []
    with caplog.at_level(logging.INFO, "keras_ratchet"):
        for done in (1, 2):
            expected = copies(values)
            read = torch_device.capture(values, areas)
            assert queues.waits == done
            for value in values:
                value.zero_()
            assert equal(read(), expected)
    assert [r.message[:26] for r in caplog.records] == ["a save waits for the bus: "]
    assert not queues.told


def test_a_tenth_of_the_device_stays_free(device, monkeypatch):
    queues = device()
    for free, is_staged in ((1256, True), (1255, False)):
        monkeypatch.setattr(queues, "free_bytes", lambda free=free: (free, 10_000))
        queues.told.clear()
        torch_device.capture([torch.ones(64)], [])
        assert bool(queues.told) == is_staged


def test_memory_is_used_again_until_a_tensor_has_another_shape(device):
    device(at_once=True)
    values, areas = [torch.zeros(4), torch.ones(2)], []
    places = []
    for _ in range(3):
        places.append([tensor.data_ptr() for tensor in torch_device.capture(values, areas)()])
        if len(places) == 2:
            values[1] = torch.ones(3)
    assert places[0] == places[1]
    assert len(areas) == 1
    assert equal(torch_device.capture(values, areas)(), values)


def test_devices_without_queues_are_waited_for(monkeypatch):
    monkeypatch.setattr(torch_device, "streams_of", lambda device: None)
    monkeypatch.setattr(torch_device, "is_apart", lambda value: True)
    waited = []
    monkeypatch.setattr(torch.accelerator, "synchronize", waited.append)
    values = tensors()
    read = torch_device.capture(values, [])
    assert waited == [torch.device("cpu")]
    assert equal(read(), values)


def test_what_is_asked_of_cuda_exists():
    """Without a device this is all that can be said of `Streams` itself."""
    for name in ("wait_event", "record_event"):
        assert hasattr(torch.cuda.Stream, name)
    assert "blocking" in inspect.signature(torch.cuda.Event.__new__).parameters
    assert {n for n in vars(Queues) if n[0] != "_"} - {"train"} == {
        n for n in vars(torch_device.Streams) if n[0] != "_"
    }
