"""One flipped bit, anywhere: `verify` finds it, and loading falls back."""

import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from support.models import dense, stamp_of
from support.scenarios import commit, facts
from support.weight_files import save_model

import keras_ratchet
from keras_ratchet._storage import snapshot_directory
from keras_ratchet._storage.single_file import METADATA
from keras_ratchet.errors import CorruptError

PLACES = 200
SUFFIXES = [".keras", ".weights.h5", ".h5"]


def flip(path, rng):
    """Flip one random bit of a file; return the bytes as they were."""
    whole = path.read_bytes()
    data = bytearray(whole)
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    return whole


def missed(flipped, checkpoint):
    """Return at how many of the places a flip was not found; the file is whole again then."""
    rng = random.Random(0)
    found = 0
    for _ in range(PLACES):
        whole = flip(flipped, rng)
        outcome = keras_ratchet.verify(str(checkpoint))
        found += outcome.status == "corrupt" and bool(outcome.problem)
        flipped.write_bytes(whole)
    assert keras_ratchet.verify(str(checkpoint))
    return PLACES - found


def saved(root, suffix, *numbers):
    """Save models whose weights are these numbers, each better than the one before."""
    model = dense()
    for number in numbers:
        model.set_weights([np.full_like(w, number) for w in model.get_weights()])
        save_model(model, f"{root}/epoch-{number}{suffix}", facts(number))
    return Path(root, f"epoch-{numbers[-1]}{suffix}")


def manifest_of(path):
    [manifest] = Path(path.parent, METADATA).glob(f"{path.name}.*.json")
    return manifest


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_flipped_bit_of_a_file_is_found(suffix, quick_path):
    path = saved(quick_path, suffix, 1)
    assert missed(path, path) == 0


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_flipped_bit_of_its_manifest_is_found(suffix, quick_path):
    path = saved(quick_path, suffix, 1)
    assert missed(manifest_of(path), path) == 0


@pytest.mark.parametrize("name", ["state.bin", "state.json", snapshot_directory.MANIFEST])
def test_a_flipped_bit_of_a_snapshot_is_found(name, quick_path):
    commit(quick_path, "step-1", 1)
    path = Path(quick_path, "step-1")
    assert missed(path / name, path) == 0


def load(root, suffix, which):
    """Load from a directory; return the number that the weights hold."""
    if suffix != ".weights.h5":
        # compile=False: Keras cannot find the loss "mse" of a .h5 file again
        return stamp_of(keras_ratchet.load_model(root, which, compile=False))
    model = dense()
    keras_ratchet.load_weights(model, root, which)
    return stamp_of(model)


@pytest.mark.parametrize("which", ["best", "latest"])
@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("what", ["the file", "its manifest"])
def test_loading_falls_back_to_the_next_one_and_says_so(what, suffix, which, quick_path):
    path = saved(quick_path, suffix, 1, 2, 3)
    assert load(quick_path, suffix, which) == 3
    flip(path if what == "the file" else manifest_of(path), random.Random(1))
    with pytest.warns(UserWarning, match=r"epoch-3.*corrupt.*Loading epoch-2"):
        assert load(quick_path, suffix, which) == 2


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("what", ["the file", "its manifest"])
def test_a_corrupt_file_that_is_asked_for_by_name_is_refused(what, suffix, quick_path):
    path = saved(quick_path, suffix, 1, 2)
    flip(path if what == "the file" else manifest_of(path), random.Random(1))
    with pytest.raises(CorruptError, match=r"epoch-2.*corrupt"):
        load(str(path), suffix, "best")
    with pytest.raises(CorruptError, match=r"epoch-2.*corrupt"):
        load(quick_path, suffix, path.name)


def test_a_manifest_that_rots_does_not_change_what_is_best(quick_path):
    """Flipped digits of a metric are what the seal is for: they are valid JSON."""
    saved(quick_path, ".weights.h5", 1, 2)
    manifest = manifest_of(Path(quick_path, "epoch-1.weights.h5"))
    text = manifest.read_text()
    assert '"val_loss": 1.0' in text
    manifest.write_text(text.replace('"val_loss": 1.0', '"val_loss": 0.0'))
    model = dense()
    with pytest.warns(UserWarning, match=r"epoch-1.*damaged.*Loading epoch-2"):
        keras_ratchet.load_weights(model, quick_path, "best")
    assert stamp_of(model) == 2


def test_a_file_in_the_place_of_another_is_found(quick_path):
    saved(quick_path, ".keras", 1, 2)
    shutil.copy(Path(quick_path, "epoch-1.keras"), Path(quick_path, "epoch-2.keras"))
    assert keras_ratchet.verify(f"{quick_path}/epoch-2.keras").status == "corrupt"
