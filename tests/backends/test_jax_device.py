"""Captures on JAX with an accelerator: copied there before the next step gets the memory."""

import logging
import os
import subprocess
import sys
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from keras_ratchet._backends import jax_device

DTYPES = ["float32", "bfloat16", "float16", "int32", "uint8", "bool"]
step = jax.jit(lambda values: [v + jnp.ones((), v.dtype) for v in values], donate_argnums=0)


@pytest.fixture(autouse=True)
def apart(monkeypatch):
    """Have the CPU pass for an accelerator with room."""
    monkeypatch.setattr(jax_device.Device, "is_apart", True)
    monkeypatch.setattr(jax_device.Device, "has_room", lambda self, size: True)


def arrays():
    rng = np.random.default_rng(0)
    found = [jnp.asarray(rng.normal(size=(3, 5)) * 9).astype(dtype) for dtype in DTYPES]
    return [*found, jnp.float32(3.5), jnp.zeros((0, 3)), jnp.ones(1)]


def bits(values):
    return [(np.asarray(v).dtype.name, np.asarray(v).tobytes()) for v in values]


def owned(values):
    return [np.array(v) for v in values]


def test_the_next_steps_do_not_change_what_was_captured():
    values, memory = arrays(), []
    for _ in range(3):
        expected = owned(values)
        read = jax_device.capture(values, memory)
        given = values
        for _ in range(2):
            values = step(values)
        assert given[0].is_deleted()
        assert bits(read()) == bits(expected) == bits(read())


def test_without_copies_it_would_be_lost(monkeypatch):
    monkeypatch.setattr(jax_device, "copied", lambda values: values)
    values = arrays()
    read = jax_device.capture(values, [])
    step(values)
    with pytest.raises(RuntimeError, match="deleted"):
        read()


def test_copies_have_memory_of_their_own_until_they_are_read(monkeypatch):
    copies = []
    original = jax_device.copied
    monkeypatch.setattr(jax_device, "copied", lambda v: copies.extend(original(v)) or copies)
    monkeypatch.setattr(jax_device.jax_slices, "on_host", np.array)  # a view would keep them
    values = arrays()
    read = jax_device.capture(values, [])
    places = {v.unsafe_buffer_pointer() for v in values if v.size}
    assert len(copies) == len(values)
    assert not places & {v.unsafe_buffer_pointer() for v in copies if v.size}
    alive = [weakref.ref(copy) for copy in copies]
    copies.clear()
    assert all(one() is not None for one in alive)
    found = read()
    assert not any(one() is not None for one in alive)
    assert bits(found) == bits(values)


class Told:
    """A device that says how much memory it has."""

    platform = "gpu"

    def __init__(self, **stats):
        self.stats = stats

    def memory_stats(self):
        return self.stats or None


@pytest.mark.parametrize(
    ("stats", "room"),
    [
        ({"bytes_limit": 10_000, "bytes_in_use": 1_000, "peak_bytes_in_use": 7_000}, 2_000),
        ({"bytes_limit": 10_000, "bytes_in_use": 7_000}, 2_000),
        ({}, -1),  # it does not say
    ],
)
def test_a_tenth_of_the_device_stays_free_beside_the_most_that_training_needs(
    stats, room, monkeypatch
):
    monkeypatch.undo()
    device = jax_device.Device(Told(**stats))
    assert device.is_apart
    assert [size for size in (0, room, room + 1) if device.has_room(size)] == [0, room][: 1 + room]


def test_the_processor_is_no_accelerator_and_has_room(monkeypatch):
    monkeypatch.undo()
    device = jax_device.Device(jax.devices("cpu")[0])
    assert not device.is_apart and device.has_room(1)
    values = arrays()
    found = jax_device.capture(values, [])()
    assert found[0].ctypes.data == values[0].unsafe_buffer_pointer()


def no_room(monkeypatch):
    monkeypatch.setattr(jax_device.Device, "has_room", lambda self, size: False)


def full(monkeypatch):
    def copied(values):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

    monkeypatch.setattr(jax_device, "copied", copied)


@pytest.mark.parametrize("cause", [no_room, full])
def test_without_room_the_hook_waits_for_the_bus_and_says_so_once(cause, monkeypatch, caplog):
    cause(monkeypatch)
    values, memory = arrays(), []
    with caplog.at_level(logging.INFO, "keras_ratchet"):
        for _ in range(2):
            expected = owned(values)
            read = jax_device.capture(values, memory)
            values = step(values)
            assert bits(read()) == bits(expected)
    assert [r.message[:26] for r in caplog.records] == ["a save waits for the bus: "]


SEVERAL = """
import jax, jax.numpy as jnp, numpy as np
from types import SimpleNamespace as Variable
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from keras_ratchet._backends import jax_device

jax_device.Device.is_apart = True
jax_device.Device.has_room = lambda self, size: True
mesh = Mesh(np.array(jax.devices()), ("x",))
whole, split = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ("x",)))
values = [jnp.arange(8.0), *(jax.device_put(jnp.arange(8.0), place) for place in (whole, split))]
held = jax_device.hold([Variable(value=v) for v in values], [Variable(value=v) for v in values], [])
read = jax_device.capture(values, [])
for value in values:
    jax.jit(lambda v: v + 1, donate_argnums=0)(value)
assert all(v.is_deleted() for v in values)
assert [h.sharding for h in held[1:]] == [whole, split]
for found in (*held, *read()):
    np.testing.assert_array_equal(found, np.arange(8.0))
"""


def test_arrays_on_several_devices_are_captured_and_held_too():
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    environment = os.environ | flags | {"KERAS_BACKEND": "jax"}
    done = subprocess.run(
        [sys.executable, "-c", SEVERAL],
        check=False,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
