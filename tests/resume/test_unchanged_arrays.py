"""What does not change is written once, whatever a script does; and each snapshot is whole."""

import contextlib
import os
import random
import shutil
import warnings

import keras
import numpy as np
import pytest

import keras_ratchet
from keras_ratchet import _backends
from keras_ratchet._engine.capture.model_state import Places, named_extras
from keras_ratchet._engine.resume import snapshot_save, unchanged_arrays
from keras_ratchet._engine.resume.snapshot_paths import newest_first, read_state
from keras_ratchet._engine.saving.no_mirror import NoMirror
from keras_ratchet._storage import disk
from keras_ratchet._storage.snapshot_directory import list_snapshots
from keras_ratchet._storage.verify import verify
from keras_ratchet.errors import CorruptError, RatchetError

NAME = unchanged_arrays.NAME
WIDTH = 64
UNFREEZES = keras.backend.backend() == "torch"  # elsewhere a step is traced with what trains
ROWS = np.random.default_rng(0).normal(size=(48, WIDTH)).astype("float32")


@pytest.fixture(autouse=True)
def _small_arrays_count(monkeypatch):
    if unchanged_arrays.MODE == "all":
        monkeypatch.setattr(unchanged_arrays, "MODE", "1")
    monkeypatch.setattr(unchanged_arrays, "_MIN_SIZE", 64)
    monkeypatch.setattr(unchanged_arrays, "_MIN_FILE_BYTES", 1)


def script(seed=1):
    """Return a model with a frozen base, statistics that change, and a head."""
    keras.utils.set_random_seed(seed)
    base = [keras.layers.Dense(WIDTH, activation="relu", name=f"base_{i}") for i in range(4)]
    model = keras.Sequential(
        [
            keras.Input((WIDTH,)),
            *base,
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.Dropout(0.2),
            keras.layers.Dense(1, name="head"),
        ]
    )
    model.compile(keras.optimizers.Adam(0.01), "mse", jit_compile=False)
    if UNFREEZES:
        model.optimizer.build(model.trainable_variables)
    for layer in base:
        layer.trainable = False
    return model


def sync(model):
    """Bring what jax has outside of the variables into them."""
    getattr(model, "jax_state_sync", lambda: None)()


class AtBatch(keras.callbacks.Callback):
    """Does something after a batch of the whole run."""

    def __init__(self, **actions):
        super().__init__()
        self.actions = {int(name.removeprefix("at_")): act for name, act in actions.items()}
        self.done = 0

    def on_train_batch_end(self, batch, logs=None):
        self.done += 1
        if self.done in self.actions:
            sync(self.model)
            self.actions[self.done](self.model)


class Cut(Exception):
    pass


def cut(model):
    raise Cut


def train(directory=None, epochs=3, background=True, **actions):
    model = script()
    callbacks = []
    if directory is not None:
        callbacks = [
            keras_ratchet.BackupAndRestore(
                directory, 1, keep=2, background=background, delete_checkpoint=False
            )
        ]
    history = None
    with contextlib.suppress(Cut):
        history = model.fit(
            ROWS,
            ROWS[:, :1],
            batch_size=8,
            epochs=epochs,
            verbose=0,
            callbacks=[AtBatch(**actions), *callbacks],
        )
    if callbacks:
        callbacks[0].flush()
    return model, history


def values(model):
    variables = [*model.variables, *model.optimizer.variables]
    return [np.array(keras.ops.convert_to_numpy(v)).tobytes() for v in variables]


def snapshots(directory):
    return newest_first(str(directory), NoMirror())


def inode(snapshot):
    return os.stat(os.path.join(snapshot, NAME)).st_ino


@pytest.fixture
def written(monkeypatch):
    """Sizes of the files of unchanged arrays that were written, not linked."""
    found = []

    def write(plan, draft, write=unchanged_arrays.Plan.write):
        write(plan, draft)
        if plan.new is not None:
            found.append(sum(array.nbytes for array in plan.new.values()))

    monkeypatch.setattr(unchanged_arrays.Plan, "write", write)
    return found


@pytest.mark.parametrize("background", [True, False])
def test_a_frozen_base_is_written_once_in_a_run_and_its_resume(tmp_path, background, written):
    train(tmp_path, background=background, at_8=cut)
    older = [inode(path) for path in snapshots(tmp_path)]
    model, history = train(tmp_path, background=background)
    assert {inode(path) for path in snapshots(tmp_path)} == set(older)
    base = 4 * WIDTH * (WIDTH + 1) * 4 * (3 if UNFREEZES else 1)  # with the optimizer's slots
    assert len(written) == 1 and base <= written[0] <= 1.1 * base
    for path in snapshots(tmp_path):
        assert verify(path)
        assert os.stat(os.path.join(path, "state.safetensors")).st_size < base * 0.6
    whole, expected = train()
    assert values(model) == values(whole)
    assert history.history == expected.history


def set_weights(model):
    layer = model.get_layer("base_1")
    layer.set_weights([w + 1 for w in layer.get_weights()])


def behind_the_back(model):
    """Change one value of a frozen weight in a way that the framework does not notice."""
    value = model.get_layer("base_2").kernel
    if keras.backend.backend() == "torch":
        value.value.data[3, 5] = 7.0
    else:
        changed = np.array(value)
        changed[3, 5] = 7.0
        value.assign(changed)


def unfreeze(model):
    model.get_layer("base_0").trainable = UNFREEZES
    model.get_layer("base_0").kernel.assign(model.get_layer("base_0").kernel * 2)


def swap(model):
    one, other = model.get_layer("base_1"), model.get_layer("base_3")
    first, second = one.get_weights(), other.get_weights()
    one.set_weights(second)
    other.set_weights(first)


@pytest.mark.parametrize("change", [set_weights, behind_the_back, unfreeze, swap])
def test_a_frozen_weight_that_something_changes_is_saved_as_it_is(tmp_path, change):
    whole, expected = train(at_5=change)
    train(tmp_path, at_5=change, at_8=cut)
    model, history = train(tmp_path)
    assert values(model) == values(whole)
    assert history.history == expected.history


def test_statistics_of_torchs_own_batch_norm_are_found_though_torch_counts_no_change(tmp_path):
    torch = pytest.importorskip("torch")
    if keras.backend.backend() != "torch":
        pytest.skip("a torch module is a layer on torch only")

    def run(directory, **actions):
        keras.utils.set_random_seed(3)
        norm = keras.layers.TorchModuleWrapper(torch.nn.BatchNorm1d(WIDTH))
        model = keras.Sequential([keras.Input((WIDTH,)), norm, keras.layers.Dense(1)])
        model.compile("sgd", "mse")
        callbacks = [AtBatch(**actions)]
        if directory:
            backup = keras_ratchet.BackupAndRestore(
                directory, 1, background=True, delete_checkpoint=False
            )
            callbacks.append(backup)
        with pytest.raises(Cut) if actions else warnings.catch_warnings():
            model.fit(ROWS, ROWS[:, :1], batch_size=8, epochs=2, verbose=0, callbacks=callbacks)
        if directory:
            backup.flush()
        return norm.module.running_mean.numpy().tobytes(), values(model)

    run(tmp_path, at_8=cut)
    assert run(tmp_path) == run(None)


class Wild:
    """Does at random what scripts do to frozen and other weights."""

    def __init__(self, seed):
        self.rng = random.Random(seed)

    def act(self, model):
        layers = [layer for layer in model.layers if layer.name.startswith("base")]
        for layer in self.rng.sample(layers, self.rng.randint(0, 2)):
            kind = self.rng.randrange(5)
            if kind == 0 and UNFREEZES:
                layer.trainable = not layer.trainable
            elif kind == 1:
                layer.kernel.assign(layer.kernel + self.rng.random())
            elif kind == 2:
                changed = np.array(keras.ops.convert_to_numpy(layer.kernel))
                changed[self.rng.randrange(WIDTH), self.rng.randrange(WIDTH)] += 1
                layer.kernel.assign(changed)
            elif kind == 3:
                layer.bias.assign(-layer.bias)


def live(model):
    """Return the values that a snapshot of this moment has."""
    places, backend = Places(), _backends.current()
    named = places.variables(model) | named_extras(model)
    return {name: np.array(backend.view(variable)) for name, variable in named.items()}


@pytest.mark.parametrize(("seed", "on_host"), [(0, True), (1, True), (2, False), (3, False)])
@pytest.mark.filterwarnings("ignore:This state of callbacks is lost")  # what they have seen
def test_each_snapshot_has_the_values_of_its_moment(tmp_path, seed, on_host, monkeypatch):
    """As on an accelerator, too, where values are looked at where they are written."""
    if not on_host:
        monkeypatch.setattr(_backends.current(), "is_on_host", lambda variable: False)
    wild, seen = Wild(seed), {}

    class Looks(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            sync(self.model)
            wild.act(self.model)
            seen[len(seen) + 1] = live(self.model)
            backup.flush()
            self.check()

        def on_epoch_end(self, epoch, logs=None):
            self.check()

        def check(self):
            for _, path in list_snapshots(str(tmp_path)):
                position = read_state(path).position
                number = position.epoch * 6 + position.batch
                if position.batch:
                    compare(read_state(path).variables, seen[number])
                assert verify(path)

    backup = keras_ratchet.BackupAndRestore(
        tmp_path, 1, keep=3, background=seed % 2 == 0, delete_checkpoint=False
    )
    model = script(seed)
    model.fit(ROWS, ROWS[:, :1], batch_size=8, epochs=3, verbose=0, callbacks=[Looks(), backup])


def compare(saved, expected):
    for name, value in expected.items():
        if not name.startswith("metrics/"):
            assert saved[name].tobytes() == value.tobytes(), name


def test_a_snapshot_is_whole_without_the_others(tmp_path):
    train(tmp_path / "a", at_8=cut)
    newest = snapshots(tmp_path / "a")[0]
    shutil.copytree(newest, tmp_path / "b" / os.path.basename(newest))
    for path in snapshots(tmp_path / "a"):
        shutil.rmtree(path)
    model, _ = train(tmp_path / "b")
    assert values(model) == values(train()[0])


def test_where_there_are_no_links_the_file_is_copied(tmp_path, monkeypatch):
    def refuse(self, source, target):
        raise PermissionError(1, "no hard links here")

    monkeypatch.setattr(disk.Disk, "link", refuse)
    train(tmp_path, at_8=cut)
    assert len({inode(path) for path in snapshots(tmp_path)}) == 2
    assert values(train(tmp_path)[0]) == values(train()[0])


@pytest.mark.parametrize("how", ["deleted", "replaced", "touched"])
def test_a_file_that_somebody_changes_between_two_saves_is_written_anew(tmp_path, how, written):
    def spoil(model):
        for path in snapshots(tmp_path):
            file = os.path.join(path, NAME)
            if how == "deleted":
                shutil.rmtree(path)
            elif how == "touched":
                os.utime(file, ns=(1, 1))
            else:
                os.unlink(file)
                with open(file, "wb") as new:
                    new.write(b"something else")

    class Spoils(AtBatch):
        def on_train_batch_begin(self, batch, logs=None):
            if self.done == 4:
                backup.flush()
                spoil(self.model)

    backup = keras_ratchet.BackupAndRestore(
        tmp_path, 1, keep=1, background=True, delete_checkpoint=False
    )
    model = script()
    with pytest.raises(Cut):
        model.fit(
            ROWS,
            ROWS[:, :1],
            batch_size=8,
            epochs=3,
            verbose=0,
            callbacks=[Spoils(at_8=cut), backup],
        )
    backup.flush()
    assert len(written) == 2
    assert verify(snapshots(tmp_path)[0])
    assert values(train(tmp_path)[0]) == values(train()[0])


@pytest.mark.parametrize("how", ["deleted", "replaced"])
def test_a_snapshot_that_is_deleted_while_the_next_is_written_costs_nothing(
    tmp_path, how, monkeypatch
):
    """What was not captured is in the older snapshot's file only."""
    write, done = snapshot_save.SnapshotSave.write, []

    def spoil(save, *arguments):
        for path in snapshots(tmp_path):
            done.append(path)
            if how == "deleted":
                shutil.rmtree(path)
            else:
                os.unlink(os.path.join(path, NAME))
                shutil.copy(__file__, os.path.join(path, NAME))
        return write(save, *arguments)

    monkeypatch.setattr(snapshot_save.SnapshotSave, "write", spoil)
    train(tmp_path, at_8=cut)
    monkeypatch.undo()
    assert len(done) >= 6 and verify(snapshots(tmp_path)[0])
    assert values(train(tmp_path)[0]) == values(train()[0])


def test_damage_to_the_shared_bytes_is_found_in_every_snapshot_that_has_them(tmp_path):
    train(tmp_path, at_8=cut)
    with open(os.path.join(snapshots(tmp_path)[0], NAME), "r+b") as file:
        file.seek(5000)
        file.write(b"\xff\x00\xff")
    for path in snapshots(tmp_path):
        outcome = verify(path)
        assert not outcome and NAME in outcome.problem
    with pytest.raises(CorruptError, match=NAME):
        train(tmp_path)


def test_a_base_that_is_half_unfrozen_is_not_kept_for_the_sake_of_the_rest(tmp_path, written):
    def unfreeze_half(model):
        for name in ("base_0", "base_1"):
            model.get_layer(name).trainable = UNFREEZES
            model.get_layer(name).kernel.assign(model.get_layer(name).kernel * 2)

    train(tmp_path, at_5=unfreeze_half)
    assert len(written) > 1 and written[1] < 0.6 * written[0]


def test_nothing_is_shared_if_the_environment_says_so(tmp_path, monkeypatch, written):
    monkeypatch.setattr(unchanged_arrays, "MODE", "0")
    train(tmp_path, at_8=cut)
    assert not written and not os.path.exists(os.path.join(snapshots(tmp_path)[0], NAME))
    assert values(train(tmp_path)[0]) == values(train()[0])


@pytest.mark.parametrize("defect", ["a digest of the shape alone", "what is left out is not told"])
def test_a_defect_is_found_by_these_tests(tmp_path, monkeypatch, defect):
    if defect.startswith("a digest"):
        monkeypatch.setattr(unchanged_arrays, "digest", lambda array: f"{array.shape!s:0>32.32}")
    else:
        look = unchanged_arrays.UnchangedArrays.look

        def forget(self, named, captures_all):
            looked = look(self, named, captures_all)
            return unchanged_arrays.Looked(looked.captured, looked.candidates, {})

        monkeypatch.setattr(unchanged_arrays.UnchangedArrays, "look", forget)
    train(tmp_path, at_5=set_weights, at_8=cut)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            model, _ = train(tmp_path)
        except RatchetError:
            return
    assert values(model) != values(train(at_5=set_weights)[0])
