"""Large pieces of memory go to the disk from where they are; the file is the same in every case."""

import contextlib
import errno
import mmap
import os

import numpy as np
import pytest
import xxhash

from keras_ratchet._formats.safetensors import read_arrays, write_arrays
from keras_ratchet._storage import atomic, disk

PAGE = 4096


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(atomic, "_BLOCK_BYTES", 4 * PAGE)
    monkeypatch.setattr(atomic, "_CHUNK_BYTES", PAGE)
    monkeypatch.setattr(atomic, "_spare", [])  # blocks of another size


class Watched(disk.Disk):
    """Notes the addresses and lengths of all writes; some of them fall short, or fail.

    Args:
        fault: The name of a fault, or "".
    """

    def __init__(self, fault=""):
        self.writes, self._fault, self._direct = [], fault, False

    def bypass_cache(self, fd, on):
        self._direct = on
        return True

    def write(self, fd, data):
        self.writes.append((atomic._address(data), len(data), self._direct))
        if self._fault == "EINVAL" and self._direct:
            raise OSError(errno.EINVAL, "refused")
        if self._fault == "ENOSPC" and len(self.writes) == 3:
            raise OSError(errno.ENOSPC, "full")
        if self._fault == "short":
            data = data[: max(1, len(data) // 3)]
        elif self._fault == "short by pages":
            data = data[: max(PAGE, len(data) // 2 // PAGE * PAGE)]
        return os.write(fd, data)


def paged(size, shift=0):
    """Return random bytes that begin a page, or do not."""
    memory = mmap.mmap(-1, size + PAGE)
    memory[shift : shift + size] = np.random.default_rng(size).bytes(size)
    return memoryview(memory)[shift : shift + size]


def write(path, pieces, watched, monkeypatch):
    monkeypatch.setattr(disk, "current", watched)
    with contextlib.closing(atomic.HashingFile(str(path))) as file:
        for piece in pieces:
            assert file.write(piece) == len(piece)
        file.sync()
        return file.entry()


@pytest.mark.parametrize("fault", ["", "EINVAL", "short", "short by pages"])
@pytest.mark.parametrize(
    "pieces",
    [
        [paged(16 * PAGE)],
        [paged(16 * PAGE + 77)],
        [paged(4 * PAGE), paged(5 * PAGE + 1), paged(9)],
        [paged(4 * PAGE - 1), paged(4 * PAGE)],
        [paged(33), paged(8 * PAGE)],
        [paged(2 * PAGE), paged(8 * PAGE)],
        [paged(8 * PAGE, shift=8)],
        [paged(8 * PAGE), paged(7 * PAGE, shift=64), paged(4 * PAGE)],
        [paged(0), paged(9 * PAGE)],
    ],
    ids=lambda pieces: "+".join(str(len(p)) for p in pieces),
)
def test_a_file_has_the_bytes_and_the_digest_of_its_pieces(pieces, fault, tmp_path, monkeypatch):
    entry = write(tmp_path / "file", pieces, Watched(fault), monkeypatch)
    data = b"".join(pieces)
    assert (tmp_path / "file").read_bytes() == data
    assert (entry.size_bytes, entry.digest) == (len(data), xxhash.xxh3_128_hexdigest(data))


def test_whole_pages_are_written_from_where_they_are(tmp_path, monkeypatch):
    piece, watched = paged(10 * PAGE + 5), Watched()
    write(tmp_path / "file", [piece], watched, monkeypatch)
    start = atomic._address(piece)
    assert watched.writes[:3] == [
        (start, 4 * PAGE, True),
        (start + 4 * PAGE, 4 * PAGE, True),
        (start + 8 * PAGE, 2 * PAGE, True),
    ]
    assert [size for _, size, _ in watched.writes[3:]] == [5]


def test_arrays_that_fill_pages_are_written_from_where_they_are(tmp_path, monkeypatch):
    """The header of the file ends a page, whatever its length."""
    memory, watched = np.frombuffer(paged(20 * PAGE), np.float32), Watched()
    arrays = {f"{'name' * 99}/{i}": memory[i * 512 : (i + 1) * 512] for i in range(40)}
    monkeypatch.setattr(disk, "current", watched)
    with contextlib.closing(atomic.HashingFile(str(tmp_path / "file"))) as file:
        write_arrays(arrays, file)
        file.sync()
    start = atomic._address(memory.data.cast("B"))
    assert {start + i * 4 * PAGE for i in range(5)} <= {place for place, _, _ in watched.writes}
    found = read_arrays(str(tmp_path / "file"))
    for name, array in arrays.items():
        assert found[name].tobytes() == array.tobytes()


def test_pages_that_begin_elsewhere_in_the_file_are_gathered(tmp_path, monkeypatch):
    piece, watched = paged(8 * PAGE), Watched()
    write(tmp_path / "file", [b"x", piece], watched, monkeypatch)
    inside = range(atomic._address(piece), atomic._address(piece) + len(piece))
    assert not any(start in inside for start, _, _ in watched.writes)


def test_a_full_disk_is_reported_in_the_middle_of_the_pages(tmp_path, monkeypatch):
    with pytest.raises(OSError, match="full"):
        write(tmp_path / "file", [paged(20 * PAGE)], Watched("ENOSPC"), monkeypatch)
