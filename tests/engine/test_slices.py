"""Arrays that are split over processes, and the files that their ranks write; in one process."""

import itertools
import os

import numpy as np
import pytest

from keras_ratchet._backends.slices import SavedSlices, Slices, assembled, held_as, part_of
from keras_ratchet._engine.resume import slice_files
from keras_ratchet._storage.manifest import Manifest
from keras_ratchet._storage.snapshot_directory import SnapshotDraft
from keras_ratchet._storage.verify import verify
from keras_ratchet.errors import RankError

WHOLE = np.arange(24, dtype=np.float32).reshape(4, 6)
LEFT, RIGHT = ((0, 4), (0, 3)), ((0, 4), (3, 6))


def slices(*bounds, owned=True):
    flat = np.concatenate([part_of(WHOLE, b).reshape(-1) for b in bounds])
    count = len(bounds)
    return Slices(flat, WHOLE.shape, bounds, (owned,) * count, (False,) * count)


class Ranks:
    world_size = 2

    def __init__(self, left=None):
        self._left = left

    def who_left(self):
        return self._left


def save(tmp_path, first, second, ranks=None):
    """Write what two ranks hold into a snapshot; return its path."""
    with SnapshotDraft(str(tmp_path), "snapshot") as draft:
        if second is not None:
            slice_files.write_fragment(draft.path, 1, {"w": second})
        slice_files.complete(draft, {"w": first}, ranks or Ranks())
        draft.commit(Manifest({}))
    return os.path.join(tmp_path, "snapshot")


def test_slices_are_an_array_for_arithmetic_and_know_where_they_are():
    held = slices(LEFT)
    copied = np.empty_like(held, order="C")
    np.copyto(copied, held)
    doubled = copied.copy() * 2
    for found in (copied, doubled, held.astype(np.float64)):
        assert isinstance(found, Slices)
        assert (found.whole, found.bounds) == (WHOLE.shape, (LEFT,))
    assert np.array_equal(doubled.read(LEFT), 2 * WHOLE[:, :3])
    assert held.read(LEFT).base is not None  # a view
    with pytest.raises(KeyError):
        held.read(RIGHT)
    other = held_as(WHOLE + 1, held)
    assert np.array_equal(other.read(LEFT), WHOLE[:, :3] + 1)
    parts = itertools.chain(held.owned_parts(), slices(RIGHT).owned_parts())
    assert np.array_equal(assembled(held, parts), WHOLE)
    assert not list(slices(LEFT, owned=False).owned_parts())


def test_any_slice_of_a_snapshot_can_be_read_and_only_the_files_that_hold_it_are(tmp_path):
    path = save(tmp_path, slices(LEFT), slices(RIGHT))
    assert verify(path)
    saved = slice_files.read_slices(path)["w"]
    assert (saved.shape, saved.dtype) == (WHOLE.shape, WHOLE.dtype)
    cuts = [(start, stop) for stop in range(1, 5) for start in range(stop)]
    for rows, columns in itertools.product(cuts, [(0, 6), (0, 2), (2, 4), (4, 6)]):
        assert np.array_equal(saved.read((rows, columns)), part_of(WHOLE, (rows, columns)))
    assert np.array_equal(np.asarray(saved), WHOLE)
    assert np.array_equal(np.asarray(saved.astype(np.float16)), WHOLE.astype(np.float16))

    def fail():
        raise AssertionError("this slice is not needed")

    half = SavedSlices(WHOLE.shape, np.float32, [(LEFT, lambda: WHOLE[:, :3]), (RIGHT, fail)])
    assert np.array_equal(half.read(LEFT), WHOLE[:, :3])
    with pytest.raises(AssertionError, match="not needed"):
        half.read(((0, 4), (2, 4)))


def test_a_snapshot_can_be_read_after_it_was_deleted(tmp_path):
    path = save(tmp_path, slices(LEFT), slices(RIGHT))
    saved = slice_files.read_slices(path)["w"]
    for name in os.listdir(path):
        os.unlink(os.path.join(path, name))
    assert np.array_equal(np.asarray(saved), WHOLE)


@pytest.mark.parametrize("second", [slices(LEFT), slices(RIGHT, owned=False)])
def test_slices_that_are_not_a_whole_array_together_are_not_committed(tmp_path, second):
    with pytest.raises(RankError, match="not whole arrays together: 'w'"):
        save(tmp_path, slices(LEFT), second)  # the same slice twice; or none
    assert not os.listdir(tmp_path)


def test_a_rank_that_has_left_or_does_not_come_is_not_waited_for(tmp_path, monkeypatch):
    with pytest.raises(RankError, match=r"rank 1 has left the run \(killed\)"):
        save(tmp_path, slices(LEFT), None, Ranks((1, "killed")))
    monkeypatch.setattr(slice_files, "TIMEOUT_S", 0.1)
    with pytest.raises(RankError, match="rank 1 has not written its slices"):
        save(tmp_path, slices(LEFT), None)
    assert not os.listdir(tmp_path)


def test_a_rank_whose_disk_is_full_says_so_without_space(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    draft = tmp_path / "draft"
    draft.mkdir()
    monkeypatch.setattr(slice_files, "write_arrays", full)
    with pytest.raises(OSError, match="No space"):
        slice_files.write_fragment(str(draft), 1, {"w": slices(RIGHT)})
    monkeypatch.undo()
    assert "failed-00001-28" in os.listdir(draft)
    with pytest.raises(OSError, match="rank 1 could not write its slices: No space") as caught:
        slice_files._wait(str(draft / "slices-00001.json"), 1, lambda: None)
    assert caught.value.errno == 28
