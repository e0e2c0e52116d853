"""A state through strict JSON and the array file, and back: the same values, never code."""

import contextlib
import io
import json
import math
import random
import struct
from collections import deque

import ml_dtypes
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from keras_ratchet._engine.resume.state_codec import RANDOM, decode, encode, random_state
from keras_ratchet._engine.resume.train_state import TrainState
from keras_ratchet._formats.safetensors import read_arrays, write_arrays
from keras_ratchet.errors import LoadError
from keras_ratchet.types import Position


@pytest.mark.parametrize(
    ("epoch", "batch", "said"),
    [
        (1, 17, "1 epoch and 17 batches"),
        (2, 1, "2 epochs and 1 batch"),
        (0, 0, "0 epochs and 0 batches"),
    ],
)
def test_a_state_says_how_much_is_done_and_one_is_singular(epoch, batch, said):
    assert TrainState(Position(epoch, batch), {}).done == said


HELD = ["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?"]
OTHERS = ["c8", "c16", "<U3", "S4", "M8[ns]", "m8[s]", ">f4", ">i2"]
SMALL = [ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2]
SHAPES = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)
arrays = st.sampled_from(HELD + OTHERS).flatmap(lambda d: hnp.arrays(np.dtype(d), SHAPES))
scalars = arrays.filter(lambda a: a.size).map(lambda a: a.ravel()[0])
keys = st.one_of(
    st.text(max_size=3), st.integers(), st.booleans(), st.none(), st.tuples(st.integers())
)
leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**130), 2**130),
    st.floats(),
    st.text(),
    st.binary(max_size=9),
    arrays,
    scalars,
    st.frozensets(st.integers()),
)
values = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.tuples(inner, inner),
        st.dictionaries(keys, inner, max_size=3),
        st.dictionaries(st.sampled_from(["$", "value", "a", "a/b", "b"]), inner, max_size=4),
        st.builds(deque, st.lists(inner, max_size=3), st.sampled_from([None, 5])),
        st.sets(st.text(max_size=2)),
    ),
    max_leaves=8,
)


def same(a, b):
    """Say whether two values are equal in type and bits."""
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray | np.generic):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, float):
        return a == b or (math.isnan(a) and math.isnan(b))
    if isinstance(a, dict):
        pairs = zip(a.items(), b.items(), strict=True)
        return len(a) == len(b) and all(same(k, m) and same(v, w) for (k, v), (m, w) in pairs)
    if isinstance(a, deque) and a.maxlen != b.maxlen:
        return False
    if isinstance(a, list | tuple | deque):
        return len(a) == len(b) and all(same(v, w) for v, w in zip(a, b, strict=True))
    if isinstance(a, RANDOM):
        return same(random_state(a), random_state(b))
    return a == b


def through_files(value, tmp_path):
    """Return a value after a way through JSON text and an array file."""
    named = {}
    text = json.dumps(encode(value, named, "x"), allow_nan=False)
    with open(tmp_path / "arrays", "wb") as file:
        write_arrays(named, file)
    return decode(json.loads(text), read_arrays(str(tmp_path / "arrays")))


@given(value=values)
@example(value=[np.str_(""), np.bytes_(b""), np.array(["", ""])])
def test_every_plain_value_comes_back_as_it_was(value, tmp_path_factory):
    back = through_files(value, tmp_path_factory.getbasetemp())
    assert same(value, back), (value, back)


@pytest.mark.parametrize("kind", ["MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64"])
def test_numpy_generators_go_on_where_they_were(kind, tmp_path):
    rng = np.random.Generator(getattr(np.random, kind)(3))
    rng.random(5), rng.integers(3, dtype=np.uint8)
    back = through_files(rng, tmp_path)
    assert back is not rng and rng.random(4).tolist() == back.random(4).tolist()


def test_old_generators_go_on_where_they_were(tmp_path):
    legacy, python = np.random.RandomState(2), random.Random(2)
    legacy.normal(), python.gauss(0, 1)  # each has one more number in store
    new_legacy, new_python = through_files([legacy, python], tmp_path)
    assert legacy.normal(size=3).tolist() == new_legacy.normal(size=3).tolist()
    assert [python.gauss(0, 1) for _ in "abc"] == [new_python.gauss(0, 1) for _ in "abc"]


@pytest.mark.parametrize(
    "value",
    [object(), lambda: 0, np.array([object()]), {"a": [open]}, np.ma.masked_array([1]), 1j],
    ids=["object", "function", "object array", "inside", "masked", "complex"],
)
def test_what_cannot_be_kept_is_refused_with_its_place(value):
    with pytest.raises(TypeError, match=r"x.*cannot be saved"):
        encode(value, {}, "x")


@pytest.mark.parametrize(
    "data",
    [
        {"$": "object", "value": 1},
        {"$": "random", "value": {"$": "tuple", "value": ["RandomState", {}]}},
        {"$": "raw array", "value": ["|O", [1], {"$": "bytes", "value": "AAAAAAAAAAA="}]},
        {"$": "array", "value": "missing"},
        {"$": "float"},
        {"$": "random", "value": 3},
    ],
)
def test_forged_data_is_a_load_error(data):
    good, arrays_ = TrainState(Position(1), {}).pack()
    with pytest.raises(LoadError, match="training state"):
        TrainState.unpack({**good, "callbacks": {"c": data}}, arrays_)


@settings(max_examples=100)
@given(
    named=st.dictionaries(
        st.text(max_size=4).filter(lambda n: n != "__metadata__"),
        st.sampled_from(HELD).flatmap(lambda d: hnp.arrays(np.dtype(d), SHAPES)),
        max_size=4,
    ),
    step=st.sampled_from([1, 2, -1]),
)
def test_arrays_come_back_from_the_file(named, step, tmp_path_factory):
    named = {n: a[::step] if a.ndim else a for n, a in named.items()}  # not contiguous
    path = tmp_path_factory.getbasetemp() / "state.safetensors"
    with open(path, "wb") as file:
        write_arrays(named, file)
    back = read_arrays(str(path))
    assert list(back) == list(named)
    assert all(same(np.ascontiguousarray(named[n]).reshape(named[n].shape), back[n]) for n in named)


@pytest.mark.parametrize("dtype", SMALL)
def test_narrow_floats_come_back(dtype, tmp_path):
    array = np.arange(6).reshape(2, 3).astype(dtype)
    with open(tmp_path / "a", "wb") as file:
        write_arrays({"a": array, "b": array[:, 1], "c": array[0, 0].reshape(())}, file)
    back = read_arrays(str(tmp_path / "a"))
    assert same(back["a"], array) and same(back["b"], array[:, 1].copy()) and back["c"].shape == ()


def test_the_safetensors_library_reads_the_file(tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    named = {"a": np.arange(6.0).reshape(2, 3), "b": np.array(True), "c": np.zeros((0, 2), "i8")}
    with open(tmp_path / "s.safetensors", "wb") as file:
        write_arrays(named, file)
    back = safetensors.load_file(tmp_path / "s.safetensors")
    assert all(same(named[n], back[n]) for n in named) and set(back) == set(named)


def test_a_dtype_without_a_place_is_refused():
    with pytest.raises(ValueError, match="cannot be saved"):
        write_arrays({"a": np.zeros(1, "c8")}, io.BytesIO())


def _file(path, header, body=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + body)
    return str(path)


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("header", "length"),
    [
        ({"a": {**ENTRY, "dtype": "O"}}, None),
        ({"a": {**ENTRY, "shape": [3]}}, None),
        ({"a": {**ENTRY, "shape": [-2]}}, None),
        ({"a": {**ENTRY, "shape": [-1, -2]}}, None),
        ({"a": {**ENTRY, "shape": [2**70]}}, None),
        ({"a": {**ENTRY, "shape": [2**40], "data_offsets": [0, 2**42]}}, None),
        ({"a": {**ENTRY, "data_offsets": [8, 0]}}, None),
        ({"a": {**ENTRY, "data_offsets": [-8, 0]}}, None),
        ({"a": {**ENTRY, "data_offsets": [4, 12]}}, None),
        ({"a": {"dtype": "F32"}}, None),
        ({"a": 3}, None),
        ([1], None),
        (b"{", None),
        (b"\xff\xfe", None),
        (b"[" * 100_000, None),
        ({"a": ENTRY}, 2**62),
        ({"a": ENTRY}, 10_000),
    ],
)
def test_a_hostile_header_is_a_load_error(header, length, tmp_path):
    with pytest.raises(LoadError, match="not a state file"):
        read_arrays(_file(tmp_path / "f", header, b"\0" * 8, length))


@given(data=st.binary(max_size=80))
def test_random_bytes_are_a_load_error_or_no_arrays(data, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "noise"
    path.write_bytes(data)
    with contextlib.suppress(LoadError):
        assert isinstance(read_arrays(str(path)), dict)


def test_a_missing_or_empty_file_is_a_load_error(tmp_path):
    (tmp_path / "empty").touch()
    for name in ("empty", "absent"):
        with pytest.raises(LoadError):
            read_arrays(str(tmp_path / name))
