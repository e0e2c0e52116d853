"""Loading: verified first, with a fall-back that says so; one clear error if there is none."""

import functools
import math
import os
import signal
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from support.models import dense, stamp_of
from support.scenarios import facts
from support.weight_files import save_model

import keras_ratchet
from keras_ratchet._storage.single_file import METADATA, adopt
from keras_ratchet.errors import CorruptError, LoadError

SUFFIXES = [".keras", ".weights.h5", ".h5"]


def stamped(number):
    model = dense()
    model.set_weights([np.full_like(w, number) for w in model.get_weights()])
    return model


def saved(root, name, number, **changes):
    """Save a model whose weights are all `number`; val_loss is 1 / number."""
    path = os.path.join(root, name)
    save_model(stamped(number), path, replace(facts(number), **changes))
    return path


def damage(path):
    data = bytearray(Path(path).read_bytes())
    data[len(data) // 2] ^= 1
    Path(path).write_bytes(data)


def loaded(path, which="best", name=None):
    """Load in the way that the file asks for; return the number that the weights hold."""
    name = name or str(path)
    if name.endswith(".weights.h5"):
        model = dense()
        keras_ratchet.load_weights(model, path, which)
        return stamp_of(model)
    return stamp_of(keras_ratchet.load_model(path, which, compile=False))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_loads_without_a_word(suffix, tmp_path):
    path = saved(tmp_path, f"best{suffix}", 3)
    assert loaded(path) == 3
    assert loaded(Path(path), name=path) == 3


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_directory_has_a_best_a_latest_and_names(suffix, tmp_path):
    for number, loss in ((1, 0.5), (2, 0.1), (3, 0.3)):
        saved(tmp_path, f"epoch-{number}{suffix}", number, metrics={"val_loss": loss})
    name = f"epoch-1{suffix}"
    assert loaded(tmp_path, "best", name) == 2
    assert loaded(tmp_path, "latest", name) == 3
    assert loaded(tmp_path, name, name) == 1


def test_best_means_what_the_training_watched(tmp_path):
    ranking = (("val_accuracy", "max"), ("val_loss", "min"))
    numbers = {1: (0.9, 0.5), 2: (0.9, 0.4), 3: (0.8, 0.1), 4: (math.nan, 0.0)}
    for number, (accuracy, loss) in numbers.items():
        metrics = {"val_accuracy": accuracy, "val_loss": loss}
        saved(tmp_path, f"{number}.keras", number, metrics=metrics, ranking=ranking)
    assert loaded(tmp_path) == 2


def test_the_optimizer_comes_back_too(tmp_path):
    model = dense(optimizer="adam")
    model.fit(np.ones((8, 4)), np.ones((8, 1)), verbose=0)
    save_model(model, str(tmp_path / "m.keras"), facts(1))
    again = keras_ratchet.load_model(tmp_path / "m.keras")
    assert int(again.optimizer.iterations) == int(model.optimizer.iterations) == 1
    for ours, theirs in zip(again.optimizer.variables, model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_keras_itself_loads_the_same(suffix, tmp_path):
    path = saved(tmp_path, f"best{suffix}", 3)
    if suffix == ".weights.h5":
        model = dense()
        model.load_weights(path)
    else:
        model = keras.models.load_model(path, compile=False)
    assert stamp_of(model) == 3


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("which", ["best", "latest"])
def test_a_damaged_one_is_passed_over_with_one_warning_that_names_it(which, suffix, tmp_path):
    for number in (1, 2, 3):
        saved(tmp_path, f"epoch-{number}{suffix}", number)
    damage(tmp_path / f"epoch-3{suffix}")
    with pytest.warns(UserWarning, match="digest differs") as record:
        assert loaded(tmp_path, which, f"epoch-3{suffix}") == 2
    ours = [str(entry.message) for entry in record if "epoch-3" in str(entry.message)]
    assert len(ours) == 1
    assert f"Loading epoch-2{suffix} instead" in ours[0]


def test_when_none_verifies_one_error_names_each_problem(tmp_path):
    for number in (1, 2, 3):
        saved(tmp_path, f"epoch-{number}.keras", number)
    damage(tmp_path / "epoch-1.keras")
    os.truncate(tmp_path / "epoch-2.keras", 100)
    Path(tmp_path, "epoch-3.keras").write_bytes(b"")
    for which in ("best", "latest"):
        with pytest.raises(CorruptError) as error:
            keras_ratchet.load_model(tmp_path, which)
        text = str(error.value)
        assert "digest differs" in text
        assert "epoch-2.keras has 100 bytes where" in text
        assert "epoch-3.keras has 0 bytes where" in text


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_plain_keras_file_loads_unverified_with_one_warning(suffix, tmp_path):
    path = tmp_path / f"plain{suffix}"
    model = stamped(5)
    model.save_weights(path) if suffix == ".weights.h5" else model.save(path)
    for place in (path, tmp_path):
        with pytest.warns(UserWarning, match="unverified") as record:
            assert loaded(place, "latest", str(path)) == 5
        assert sum("unverified" in str(entry.message) for entry in record) == 1
    assert keras_ratchet.verify(str(path)).status == "unverified"
    adopt(str(path), facts(5))
    assert keras_ratchet.verify(str(path))
    assert loaded(path) == 5


def test_files_that_nothing_is_known_of_are_never_the_best(tmp_path):
    stamped(5).save(tmp_path / "plain.keras")
    with pytest.raises(LoadError, match="No file there says by which metric"):
        keras_ratchet.load_model(tmp_path, "best")
    saved(tmp_path, "ours.keras", 1)
    assert loaded(tmp_path) == 1


def test_what_is_not_there_is_an_error_that_helps(tmp_path):
    with pytest.raises(LoadError, match="there is no"):
        keras_ratchet.load_model(tmp_path / "nothing.keras")
    for which in ("best", "latest"):
        with pytest.raises(LoadError, match=r"there are no checkpoints in .*: no .keras") as caught:
            keras_ratchet.load_model(tmp_path, which)
        assert caught.value.anchor == "no-checkpoint"
    saved(tmp_path, "epoch-1.keras", 1)
    with pytest.raises(LoadError, match=r"no checkpoint 'epoch-2.keras'.*There are: epoch-1.keras"):
        keras_ratchet.load_model(tmp_path, "epoch-2.keras")
    with pytest.raises(LoadError, match="no checkpoint"):
        keras_ratchet.verify(str(tmp_path / "nothing.keras"))
    with pytest.raises(LoadError, match="no directory"):
        keras_ratchet.checkpoints(str(tmp_path / "nowhere"))


def test_a_near_name_is_suggested(tmp_path):
    path = saved(tmp_path, "b.keras", 1)
    for load in (keras_ratchet.load_model, lambda path: keras_ratchet.load_weights(dense(), path)):
        with pytest.raises(
            LoadError, match=r"no checkpoint '.*b\.kera'\. Did you mean 'b\.keras'\?"
        ):
            load(path.removesuffix("s"))
    with pytest.raises(LoadError) as caught:
        keras_ratchet.load_model(tmp_path / "elsewhere.h5")
    assert "Did you mean" not in str(caught.value)


ADVICE = r"Build the model, then keras_ratchet\.load_weights\(model, "


@pytest.mark.parametrize("which", ["best", "latest"])
def test_a_directory_of_weights_is_no_model_and_says_how_to_load_them(which, tmp_path):
    saved(tmp_path, "b.weights.h5", 3)
    with pytest.raises(
        LoadError, match=f"only weights, such as 'b.weights.h5'. {ADVICE}"
    ) as caught:
        keras_ratchet.load_model(tmp_path, which)
    assert caught.value.anchor == "not-a-model"
    assert repr(str(tmp_path)) in str(caught.value).split("load_weights")[1]
    assert loaded(tmp_path, which, "b.weights.h5") == 3


@pytest.mark.filterwarnings("ignore:.*unverified")
@pytest.mark.parametrize("by_keras", [True, False])
@pytest.mark.parametrize("name", [None, "b.weights.h5"])
def test_a_file_of_weights_is_no_model_and_says_how_to_load_it(name, by_keras, tmp_path):
    path = tmp_path / "b.weights.h5"
    stamped(3).save_weights(path) if by_keras else saved(tmp_path, path.name, 3)
    place = (path,) if name is None else (tmp_path, name)
    with pytest.raises(LoadError, match=f"holds weights, no whole model. {ADVICE}") as caught:
        keras_ratchet.load_model(*place)
    assert caught.value.anchor == "not-a-model"


def test_a_model_is_a_model_whatever_its_name(tmp_path):
    ours = keras_ratchet.ModelCheckpoint(tmp_path / "m.weights.h5")  # as in Keras: a whole model
    model = dense()
    model.fit(np.ones((8, 4)), np.ones((8, 1)), verbose=0, callbacks=[ours])
    again = keras_ratchet.load_model(tmp_path / "m.weights.h5")
    assert all(map(np.array_equal, again.get_weights(), model.get_weights()))


def test_snapshots_are_no_models_and_say_what_they_are(tmp_path):
    backup = keras_ratchet.BackupAndRestore(tmp_path / "backup", delete_checkpoint=False)
    dense().fit(np.ones((8, 4)), np.ones((8, 1)), verbose=0, shuffle=False, callbacks=[backup])
    snapshots = keras_ratchet.checkpoints(tmp_path / "backup")
    name, path = snapshots[-1].name, snapshots[-1].path
    for place, said in [
        ((tmp_path / "backup",), "there are only snapshots in"),
        ((tmp_path / "backup", "latest"), f"such as '{name}': BackupAndRestore"),
        ((tmp_path / "backup", name), "is a snapshot: BackupAndRestore"),
        ((path,), "is a snapshot: BackupAndRestore resumes a run from it.*ModelCheckpoint"),
    ]:
        for load in (
            keras_ratchet.load_model,
            functools.partial(keras_ratchet.load_weights, dense()),
        ):
            with pytest.raises(LoadError, match=said) as caught:
                load(*place)
            assert caught.value.anchor == "not-a-model"


def test_a_name_does_not_lead_out_of_the_directory(tmp_path):
    saved(tmp_path, "secret.keras", 1)
    (tmp_path / "runs").mkdir()
    with pytest.raises(LoadError, match="no checkpoint"):
        keras_ratchet.load_model(tmp_path / "runs", "../secret.keras")


def test_a_whole_model_is_not_looked_for_among_weights(tmp_path):
    saved(tmp_path, "a.weights.h5", 9)
    saved(tmp_path, "b.keras", 1)
    assert stamp_of(keras_ratchet.load_model(tmp_path, "best")) == 1
    model = dense()
    keras_ratchet.load_weights(model, tmp_path, "best")
    assert stamp_of(model) == 9


def test_a_link_is_verified_by_the_manifest_of_what_it_leads_to(tmp_path):
    path = saved(tmp_path, "epoch-3.keras", 3)
    (tmp_path / "elsewhere").mkdir()
    for link in (tmp_path / "latest.keras", tmp_path / "elsewhere" / "model.keras"):
        link.symlink_to(path)
        assert keras_ratchet.verify(str(link))
        assert loaded(link) == 3
    damage(path)
    assert keras_ratchet.verify(str(tmp_path / "latest.keras")).status == "corrupt"


def test_safe_mode_stays_on(tmp_path):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Lambda(lambda x: x * 2)])
    save_model(model, str(tmp_path / "m.keras"), facts(1))
    with pytest.raises(ValueError, match=r"(?i)lambda"):
        keras_ratchet.load_model(tmp_path / "m.keras")


def test_custom_objects_are_passed_on(tmp_path):
    class Twice(keras.layers.Layer):
        def call(self, x):
            return 2 * x

    model = keras.Sequential([keras.Input((4,)), Twice()])
    save_model(model, str(tmp_path / "m.keras"), facts(1))
    again = keras_ratchet.load_model(tmp_path / "m.keras", custom_objects={"Twice": Twice})
    assert isinstance(again.layers[0], Twice)


WRITE = """
import sys
sys.path.insert(0, sys.argv[2])
from support.scenarios import single_file, retain, save

for version in range(1, 10**6):
    save(sys.argv[1], "best.keras", 1 + version % 50)
    save(sys.argv[1], f"ckpt-{version % 6}.keras", 1 + version % 50)
    if version % 3 == 0:
        single_file.delete_file(f"{sys.argv[1]}/ckpt-{version % 6}.keras")
    if version == 6:
        print("going", flush=True)
"""


def test_a_reader_beside_a_writer_never_sees_a_damaged_checkpoint(quick_path):
    """Files are replaced and deleted while they are listed and verified."""
    tests = str(Path(__file__).parent)
    command = [sys.executable, "-c", WRITE, quick_path, tests]
    writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert writer.stdout.readline() == "going\n"
        for _ in range(300):
            assert keras_ratchet.verify(f"{quick_path}/best.keras")
            for info in keras_ratchet.checkpoints(quick_path):
                _verify_if_still_there(info.path)
        assert writer.poll() is None
    finally:
        os.kill(writer.pid, signal.SIGKILL)
        writer.communicate()


def _verify_if_still_there(path):
    try:
        outcome = keras_ratchet.verify(path)
    except LoadError:
        return
    assert outcome.status != "corrupt" or not os.path.exists(path), outcome.problem


def test_listing_a_directory_reads_no_checkpoint(tmp_path):
    path = saved(tmp_path, "best.keras", 3)
    damage(path)
    [info] = keras_ratchet.checkpoints(tmp_path)
    assert (info.name, info.has_manifest, info.metrics) == ("best.keras", True, {"val_loss": 1 / 3})
    assert info.size_bytes == os.path.getsize(path)
    assert info.reason == "epoch 3 ended"


def test_no_warning_escapes_a_good_load(tmp_path):
    saved(tmp_path, "best.keras", 3)
    Path(tmp_path, METADATA, "notes.txt").write_text("mine")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        keras_ratchet.verify(str(tmp_path / "best.keras"))
        keras_ratchet.checkpoints(tmp_path)
