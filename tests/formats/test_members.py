"""Weights in a `.keras` file are read where they lie, not again and again from the beginning."""

import contextlib
import random
import zipfile

import numpy as np
import pytest
from support.models import dense

from keras_ratchet._engine.saving.provenance import has_weights_of
from keras_ratchet._formats.zip_members import open_member

DATA = np.random.default_rng(0).bytes(100_000)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_member_is_read_at_any_place(method, tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("first", b"x" * 77)
        archive.writestr("it", DATA)
    rng = random.Random(0)
    with zipfile.ZipFile(path) as archive, contextlib.ExitStack() as stack:
        file = open_member(archive, "it", stack)
        for _ in range(50):
            start, count = rng.randrange(len(DATA)), rng.randrange(9_000)
            assert file.seek(start) == start
            assert file.read(count) == DATA[start : start + count]
        assert file.seek(0, 2) == len(DATA)
        assert file.read() == b""


def test_a_member_that_ends_after_its_file_is_refused(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("it", DATA)
    with zipfile.ZipFile(path) as archive, contextlib.ExitStack() as stack:
        member = archive.getinfo("it")
        member.file_size = member.compress_size = 2 * len(DATA)
        with pytest.raises(zipfile.BadZipFile):
            open_member(archive, "it", stack)


def test_a_look_for_the_models_weights_reads_nothing_through_the_zip(tmp_path, monkeypatch):
    model, path = dense(), str(tmp_path / "a.keras")
    model.save(path)
    monkeypatch.setattr(zipfile.ZipExtFile, "seek", None)  # would begin again from the beginning
    assert has_weights_of(model, path)
    model.layers[-1].set_weights([w + 1 for w in model.layers[-1].get_weights()])
    assert not has_weights_of(model, path)
