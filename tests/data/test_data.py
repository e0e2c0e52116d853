"""`keras_ratchet.data`: orders that are pure, sources with a state, what is not drawn again."""

import datetime
import os
import pickle
import random
import subprocess
import sys
import time
import warnings

import keras
import numpy as np
import pytest
from support.resuming import BATCH, PER_EPOCH, Kill, Script, arrays
from support.sources import Batches, Counting, dataset, generator, grain_data, loader, tf_data

import keras_ratchet
from keras_ratchet.data import ResumableDataset, resumable
from keras_ratchet.errors import ConfigError, ResumeError
from keras_ratchet.types import Seekable


def numbered(n=20, batch=4, **arguments):
    return ResumableDataset(np.arange(n), batch_size=batch, **arguments)


def epoch(ds):
    """Return the batches of one epoch as bytes."""
    return [b"".join(np.asarray(a).tobytes() for a in batch) for batch in ds]


def test_each_epoch_is_a_new_order_of_all_rows():
    ds = numbered(18)
    first, second = ([batch[0] for batch in ds] for _ in range(2))
    assert [len(b) for b in first] == [4, 4, 4, 4, 2]
    for rows in (first, second):
        assert sorted(np.concatenate(rows)) == list(range(18))
    assert np.concatenate(first).tolist() != np.concatenate(second).tolist()
    assert epoch(numbered(18)) == [b.tobytes() for b in first]


def test_the_order_depends_on_the_seed_and_on_nothing_else():
    keras.utils.set_random_seed(1)
    a = epoch(numbered(seed=3))
    keras.utils.set_random_seed(2)
    assert a == epoch(numbered(seed=3)) != epoch(numbered(seed=4))
    assert np.concatenate([b[0] for b in numbered(shuffle=False)]).tolist() == list(range(20))


@pytest.mark.parametrize("workers", [{"workers": 3}, {"workers": 2, "use_multiprocessing": True}])
def test_workers_change_nothing(workers):
    a, b = dataset(), dataset(**workers, max_queue_size=2)
    assert [epoch(a) for _ in range(3)] == [epoch(b) for _ in range(3)]


def test_an_index_is_a_batch_between_epochs_and_counts_calls_within_one():
    ds, again = numbered(), numbered()
    rows = [ds[i][0].tolist() for i in range(len(ds))]
    assert ds[-1][0].tolist() == rows[-1]
    again.on_epoch_begin()
    assert [again[i][0].tolist() for i in (3, 1, 4, 0, 2)] == rows
    with pytest.raises(IndexError):
        ds[5]


def test_structures_of_arrays_and_weights():
    x = {"a": np.arange(6), "b": (np.arange(6) * 2.0,)}
    ds = ResumableDataset(x, np.arange(6), 3, sample_weight=np.ones(6))
    (inputs, y, weights) = ds[0]
    assert (inputs["b"][0] == inputs["a"] * 2).all() and (y == inputs["a"]).all()
    assert weights.shape == (3,)
    tensors = ResumableDataset(keras.ops.arange(6), keras.ops.arange(6), 3)
    assert isinstance(tensors[0][0], np.ndarray)


@pytest.mark.parametrize(
    "arguments",
    [
        {"x": np.zeros(3), "y": np.zeros(4)},
        {"x": np.zeros(0)},
        {"x": 3},
        {"x": np.zeros(3), "batch_size": 0},
        {"x": np.zeros(3), "seed": -1},
        {"x": np.zeros(3), "workers": -1},
        {"x": np.zeros(3), "max_queue_size": 0},
        {"x": np.zeros(3), "sample_weight": np.zeros(3)},
    ],
)
def test_arguments_that_cannot_work_are_refused(arguments):
    with pytest.raises(ConfigError):
        ResumableDataset(**arguments)


def test_in_mid_epoch_what_is_done_is_not_computed_again():
    calls = []

    def note(x, y, rng):
        calls.append(x.tolist())
        return x, y

    whole = numbered(augment=note)
    state = whole.state_dict()
    list(whole)
    done = calls[:]
    calls.clear()
    ds = numbered(augment=note)
    ds.seek(state, 3)
    list(ds)
    assert calls == [done[3], *done[3:]]  # one for the shapes of what is skipped


def test_an_error_in_a_worker_is_raised():
    def fails(x, y, rng):
        raise ZeroDivisionError

    for how in ({}, {"workers": 2}):
        with pytest.raises(ZeroDivisionError):
            list(numbered(augment=fails, **how))


def test_a_data_set_can_be_pickled():
    ds = dataset(workers=2)
    list(ds)
    again = pickle.loads(pickle.dumps(ds))
    assert again.epoch == 1 and epoch(again) == epoch(ds)


@pytest.mark.slow
def test_worker_processes_end_with_the_training(tmp_path):
    code = (
        "import os, signal, sys, numpy as np; from support.sources import dataset; "
        "ds = dataset(workers=2, use_multiprocessing=True); it = iter(ds); next(it); "
        "print(*ds._ahead._executor._processes, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        check=False,  # it kills itself
        text=True,
        cwd=os.path.dirname(os.path.dirname(__file__)),
        timeout=120,
    )
    workers = [int(pid) for pid in run.stdout.split()]
    assert len(workers) == 2
    deadline = time.monotonic() + 30
    while any(_alive(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not any(_alive(pid) for pid in workers)


def _alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().split()[2] != "Z"
    except OSError:
        return False


SOURCES = {
    "tf.data": tf_data,
    "tf.data, repeat()": lambda: tf_data(repeat=True),
    "DataLoader": lambda: loader(noisy=True),
    "DataLoader, generator=": lambda: loader(own_generator=True),
    "StatefulDataLoader": lambda: loader(stateful=True, noisy=True),
    "grain map": grain_data,
    "grain iterator": lambda: iter(grain_data("repeat")),
    "generator function": lambda: generator,
    "generator": generator,
    "PyDataset": Batches,
    "Stateful": Counting,
}


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("n", [7, 10, 13])
def test_a_source_goes_on_from_any_place(name, n):
    """Epochs of a length that need not be that of a pass; states at all batches, each restored."""
    ds = resumable(SOURCES[name](), n)
    states, batches = {}, {}
    for e in range(3):
        states[e, 0] = ds.state_at(0)
        ds.on_epoch_begin()
        for b in range(n):
            batches[e, b] = [a.tobytes() for a in ds[b]]
            states[e, b + 1] = ds.state_at(b + 1)
        ds.on_epoch_end()
    for place in [(0, 0), (0, 3), (1, 0), (1, 5), (1, n), (2, 6)]:
        new = resumable(SOURCES[name](), n)
        new[0], new[1]  # what Keras draws to learn shapes
        random.seed(), np.random.seed(None)
        new.seek(states[place], place[1])
        got = {}
        for e in range(place[0], 3):
            new.on_epoch_begin()
            for b in range(n):
                got[e, b] = [a.tobytes() for a in new[b]]
            new.on_epoch_end()
        assert all(got[key] == batches[key] for key in got if key >= place), place


def test_a_source_leaves_the_programs_random_numbers_alone():
    import torch

    sources = [loader(noisy=True), Batches()]
    torch.manual_seed(1), random.seed(1), np.random.seed(1)
    expected = torch.rand(()), random.random(), np.random.random()
    torch.manual_seed(1), random.seed(1), np.random.seed(1)
    for source in sources:
        list(resumable(source))
    assert (torch.rand(()), random.random(), np.random.random()) == expected


def test_states_noted_before_training_are_those_of_their_batch_though_more_was_drawn():
    """As on tensorflow, which draws ahead."""
    ahead, exact = (resumable(Counting(), 10) for _ in range(2))
    for ds in (ahead, exact):
        ds.on_epoch_begin()
        ds[0], ds.state_at(1)
    for i in range(1, 9):
        ahead[i]
    for i in range(1, 4):
        exact[i]
    a, b = ahead.state_at(4), exact.state_at(4)
    assert (a["batch"], a["source"]["inner"]) == (b["batch"], b["source"]["inner"])
    assert a["source"]["inner"] == {"at": 4}


def test_an_epoch_that_was_cut_short_is_drawn_to_its_end():
    a, b = resumable(generator(), 10), resumable(generator(), 10)
    list(a)
    b.on_epoch_begin()
    for i in range(4):
        b[i]
    b.on_epoch_end()
    assert epoch(a) == epoch(b)


def test_what_cannot_be_turned_back_says_so():
    ds = resumable(generator(), 5)
    state = ds.state_dict()
    list(ds)
    with pytest.raises(ResumeError, match="Create it again"):
        ds.load_state_dict(state)
    again = resumable(generator, 5)
    state, first = again.state_dict(), epoch(again)
    again.load_state_dict(state)
    assert epoch(again) == first


def test_a_source_that_runs_out_says_so():
    with pytest.raises(ConfigError, match="run out of batches"):
        list(resumable(iter([(np.zeros((2, 4)),)] * 3), 5))


@pytest.mark.parametrize(
    ("source", "n", "match"),
    [
        (generator, None, "batches_per_epoch"),
        (np.zeros((4, 4)), None, "ResumableDataset"),
        (3, 5, "cannot be drawn"),
        (generator, 0, "at least 1"),
    ],
)
def test_what_is_no_source_is_refused(source, n, match):
    with pytest.raises(ConfigError, match=match):
        resumable(source, n)


def test_lengths_are_those_of_the_source():
    assert len(resumable(tf_data())) == len(resumable(loader())) == PER_EPOCH
    assert len(resumable(grain_data())) == len(resumable(Batches())) == PER_EPOCH
    ds = dataset()
    assert resumable(ds) is ds
    assert isinstance(ds, Seekable) and isinstance(resumable(loader()), Seekable)


def test_batches_of_lists_tensors_and_dicts():
    import torch

    batches = [{"a": torch.ones(2, 4), "b": [np.ones((2, 1)), None]}]
    batch = resumable(batches, 1)[0]
    assert isinstance(batch["a"], np.ndarray) and batch["b"][1] is None


def test_a_buffer_that_the_source_fills_again_is_copied_when_looked_at():
    def reusing():
        buffer = np.zeros((2, 4), "f4")
        while True:
            buffer += 1
            yield (buffer,)

    ds = resumable(reusing, 4)
    assert (ds[0][0][0, 0], ds[1][0][0, 0], ds[0][0][0, 0]) == (1, 2, 1)


def test_an_iterator_that_cannot_be_kept_is_warned_about_once(tmp_path):
    class Drawing(Batches):
        def __getitem__(self, index):
            return super().__getitem__(index)[0] * next(self.noise), next(self.noise) > 0

    def data():
        ds = Drawing(False)
        ds.noise = (np.random.default_rng(i).normal(size=(BATCH, 1)) for i in range(10**6))
        return {"x": ds}

    with pytest.warns(UserWarning, match=r"has changed Drawing\.noise, which") as caught:
        Script(str(tmp_path / "b"), data).run()
    said = [str(w.message) for w in caught if "will not be exact" in str(w.message)]
    assert len(said) == 1 and "Give the data set state_dict()" in said[0]
    assert "not the table" not in said[0]


def test_a_data_set_may_note_the_time(tmp_path):
    class Timed(Batches):
        def on_epoch_end(self):
            super().on_epoch_end()
            self.ended = datetime.datetime.now()

    script = Script(str(tmp_path / "b"), lambda: {"x": Timed()})
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Resume will not")
        script.run()


def test_steps_per_epoch_that_cut_a_pass_are_warned_about(tmp_path):
    script = Script(
        str(tmp_path / "b"), lambda: {"x": dataset(), "steps_per_epoch": 5}, fit={"epochs": 2}
    )
    with pytest.warns(UserWarning, match="steps_per_epoch"):
        script.run()


def test_fit_without_a_backup_trains_on_every_row_once_in_each_epoch():
    seen = []

    def note(x, y, rng):
        seen.append(x[:, 0].tolist())
        return x, y

    ds = ResumableDataset(*arrays(), BATCH, augment=note)
    Script("", lambda: {"x": ds}, fit={"epochs": 2}).run(backup=False)
    last = [row for rows in seen[-2 * PER_EPOCH :] for row in rows]
    column = sorted(arrays()[0][:, 0].tolist())
    assert sorted(last[: len(column)]) == sorted(last[len(column) :]) == column


def test_the_same_data_set_object_after_an_exception(tmp_path):
    """A notebook: the cell with `fit` is run again, the data set is the one of before."""
    ds = dataset()
    whole = Script(str(tmp_path / "w"), lambda: {"x": dataset()}).uninterrupted()
    script = Script(str(tmp_path / "b"), lambda: {"x": ds})
    assert script.chain(Kill(17), save_freq=3).differences(whole) == []


NAMED = {
    "tf.data": tf_data,
    "tf.data of unknown length": lambda: tf_data(unknown=True),
    "DataLoader, generator=": lambda: loader(own_generator=True),
    "PyDataset": Batches,
    "ResumableDataset": dataset,
}


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize("saves", [{"save_freq": 3}, {"save_freq": "epoch"}], ids=["mid", "epoch"])
def test_data_that_the_callback_is_given_too_goes_on_likewise(name, saves, tmp_path):
    script = Script(str(tmp_path / "b"), lambda: {"x": NAMED[name]()}, names_data=True)
    whole = script.uninterrupted(**saves)
    assert script.chain(Kill(17), **saves).differences(whole) == []


def test_tf_data_under_class_weights_goes_on_likewise(tmp_path):
    """Keras trains on a data set of its own then, made out of the one it was given."""
    fit = {"class_weight": {0: 0.3, 1: 2.0}}
    script = Script(str(tmp_path / "b"), lambda: {"x": tf_data()}, fit=fit, names_data=True)
    whole = script.uninterrupted()
    assert script.chain(Kill(17), save_freq=3).differences(whole) == []
    script.directory = str(tmp_path / "ends")
    assert script.chain(Kill(17)).differences(whole) == []


@pytest.mark.skipif(
    keras.backend.backend() == "tensorflow", reason="TensorFlow trains on a copy of the arrays"
)
@pytest.mark.parametrize("which", [0, 1])
def test_arrays_that_change_while_training_are_named_in_a_warning(which, tmp_path):
    found = arrays()

    class Relabels(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            found[which][-1] += 0.5

    data = {"x": found[0], "y": found[1]}
    script = Script(str(tmp_path / "b"), lambda: data, callbacks=lambda: [Relabels()])
    with pytest.warns(UserWarning, match="the first epoch has changed the arrays passed to fit"):
        script.run()


def test_the_names_are_public():
    assert keras_ratchet.data.resumable is resumable
