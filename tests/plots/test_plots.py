"""Pictures of a run: what of the journal becomes which mark."""

import contextlib
import shutil

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.checkpoints import note
from support.models import Curve, dense, fit

import keras_ratchet
from keras_ratchet.errors import ConfigError, LoadError
from keras_ratchet.plots._runs import last_run

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")

from matplotlib import pyplot  # noqa: E402  the backend comes first


@pytest.fixture(autouse=True)
def no_figures_left():
    yield
    pyplot.close("all")


def journal(*events, series="a.keras", start=0.0):
    """Return events with a series and rising times."""
    return [{"time": start + n, "series": series, **event} for n, event in enumerate(events)]


def epoch(number, **metrics):
    return {"event": "epoch", "epoch": number, "metrics": metrics}


def save(number, name="a.keras", **more):
    ranking = [["val_loss", "min"]]
    return {"event": "save", "epoch": number, "name": name, "ranking": ranking, **more}


BEGIN, END = {"event": "begin"}, {"event": "end"}


def marks(axes):
    """Return the points of a plot by label: [(x, y), ...]."""
    return {
        line.get_label(): list(zip(line.get_xdata(), line.get_ydata(), strict=True))
        for line in axes.get_lines()
    }


def label(axes, begins):
    return next(points for name, points in marks(axes).items() if name.startswith(begins))


def test_a_run_has_curves_saves_best_and_stop():
    events = journal(
        BEGIN,
        epoch(1, loss=4.0, val_loss=3.0),
        save(1),
        epoch(2, loss=3.0, val_loss=2.0),
        save(2),
        epoch(3, loss=2.0, val_loss=2.5),
        {"event": "skip", "epoch": 3},
        {"event": "stop", "epoch": 3, "kind": "patience"},
        END,
    )
    axes = keras_ratchet.plots.run(events)
    assert marks(axes)["training"] == [(1, 4.0), (2, 3.0), (3, 2.0)]
    assert marks(axes)["validation"] == [(1, 3.0), (2, 2.0), (3, 2.5)]
    assert marks(axes)["saved, still there"] == [(2, 2.0)]
    assert label(axes, "saved, replaced") == [(1, 3.0)]
    assert label(axes, "best: 2 in epoch 2") == [(2, 2.0)]
    assert marks(axes)["stopped (patience)"][0][0] == 3
    assert axes.get_xlabel() == "epoch" and axes.get_ylabel() == "loss"


def test_going_back_cuts_of_the_rate_and_the_average_are_marked():
    events = journal(
        BEGIN,
        epoch(1, loss=4.0, val_loss=3.0),
        {"event": "rollback", "epoch": 1, "batch": 6},
        epoch(2, loss=3.0, val_loss=2.0),
        {"event": "reduce_lr", "epoch": 2},
        {"event": "rollback", "epoch": 2, "batch": 1},
        epoch(3, loss=2.0, val_loss=2.5),
        {"event": "average", "metric": "val_loss", "value": 1.5, "members": ["a", "b"], "epoch": 2},
        END,
    )
    axes = keras_ratchet.plots.run(events)
    assert marks(axes)["rolled back"][0][0] == 1.5
    assert [line.get_xdata()[0] for line in axes.get_lines()].count(2.5) == 1
    assert marks(axes)["learning rate cut"][0][0] == 2
    assert marks(axes)["mean of 2 epochs: 1.5"] == [(3, 1.5)]
    other = marks(keras_ratchet.plots.run(events, metric="loss"))
    assert "rolled back" in other and not any(name.startswith("mean of") for name in other)


def test_an_average_that_was_not_taken_is_no_mark():
    refused = {"event": "average", "metric": "loss", "value": 1.5, "members": ["a"], "epoch": 1}
    run = last_run(journal(BEGIN, epoch(1, loss=4.0), refused, END))
    assert run.average is None and run.turns == {"rollback": (), "reduce_lr": ()}


def test_a_killed_run_that_goes_back_again_at_the_same_batch_has_one_mark():
    back = {"event": "rollback", "epoch": 1, "batch": 6}
    first = journal(BEGIN, epoch(1, loss=9.0), {"event": "rollback", "epoch": 0, "batch": 2}, back)
    second = journal(BEGIN, back, epoch(2, loss=7.0), END, start=100)
    assert last_run(first + second).turns["rollback"] == (0.5, 1.5)


def test_what_happened_in_a_directory_of_saves_and_backups_is_told_of_the_run(tmp_path):
    """Both write one journal; only a ModelCheckpoint tells the epochs."""
    plateau = keras_ratchet.ReduceLROnPlateau(patience=1, min_delta=0.0)
    checkpoint = keras_ratchet.ModelCheckpoint(tmp_path / "last.keras")
    backup = keras_ratchet.BackupAndRestore(tmp_path, delete_checkpoint=False)
    for saves in ([checkpoint, backup], [backup, checkpoint]):
        fit(dense(), [Curve(val_loss=[1.0, 2.0, 3.0]), plateau, *saves], epochs=3)
        for path in tmp_path.glob("epoch-*"):
            shutil.rmtree(path)
        cuts = marks(keras_ratchet.plots.run(tmp_path))
        assert cuts["learning rate cut"][0][0] == 2


def test_dropped_files_are_hollow_also_when_pruned_long_after():
    events = journal(
        BEGIN, epoch(1, val_loss=3.0), save(1, "1"), epoch(2, val_loss=2.0), save(2, "2"), END
    )
    assert [s.stays for s in last_run(events).saves] == [True, True]
    drop = journal({"event": "drop", "name": "1", "epoch": 1}, start=1e6)
    assert [s.stays for s in last_run(events + drop).saves] == [False, True]


def test_the_last_run_is_drawn():
    first = journal(BEGIN, epoch(1, loss=9.0), epoch(2, loss=8.0), END)
    second = journal(BEGIN, epoch(1, loss=5.0), start=100)
    assert last_run(first + second).metrics == {1: {"loss": 5.0}}


def test_a_killed_and_resumed_run_goes_on_with_the_one_before():
    first = journal(BEGIN, epoch(1, loss=9.0), save(1), epoch(2, loss=8.0), epoch(3, loss=7.5))
    second = journal(BEGIN, epoch(3, loss=7.0), save(3), epoch(4, loss=6.0), END, start=100)
    run = last_run(first + second)
    assert [v["loss"] for v in run.metrics.values()] == [9.0, 8.0, 7.0, 6.0]
    assert run.resumed == (3,)
    assert [(s.at, s.stays) for s in run.saves] == [(1, False), (3, True)]
    assert "resumed" in marks(keras_ratchet.plots.run(first + second))


def test_callbacks_of_one_training_are_one_run_and_the_choosy_one_decides():
    best = journal(
        BEGIN, epoch(1, loss=1.0, acc=0.5), {"event": "skip"}, epoch(2, loss=2.0, acc=0.6), END
    )
    best.insert(
        4, {**save(2, "best"), "time": 3.5, "series": "a.keras", "ranking": [["acc", "max"]]}
    )
    last = journal(BEGIN, epoch(1, loss=1.0), save(1, "last"), epoch(2, loss=2.0), save(2, "last"))
    last = [{**event, "series": "last"} for event in last]
    for events in (best + last, last + best, sorted(best + last, key=lambda e: e["time"])):
        run = last_run(events)
        assert run.ranking[0] == ("acc", "max")
        assert run.metrics == {1: {"loss": 1.0, "acc": 0.5}, 2: {"loss": 2.0, "acc": 0.6}}
        assert sorted(s.at for s in run.saves) == [2, 2]  # what `last` replaced is no news
        assert run.best("acc") == 2


def test_parallel_folds_in_one_directory_are_not_mixed():
    first = journal(BEGIN, epoch(1, loss=1.0), epoch(2, loss=2.0), END, series="fold-1")
    second = journal(BEGIN, epoch(1, loss=7.0), epoch(2, loss=8.0), END, series="fold-2", start=0.5)
    events = sorted(first + second, key=lambda e: e["time"])
    assert last_run(events).metrics == {1: {"loss": 7.0}, 2: {"loss": 8.0}}


def test_nan_and_infinity_come_back_and_are_never_best():
    events = journal(
        BEGIN, epoch(1, val_loss="nan"), epoch(2, val_loss=3.0), epoch(3, val_loss="inf")
    )
    run = last_run(events)
    assert np.isnan(run.metrics[1]["val_loss"]) and np.isinf(run.metrics[3]["val_loss"])
    assert run.best("val_loss") == 2
    keras_ratchet.plots.run(events)


def test_a_metric_of_unknown_direction_has_no_best():
    axes = keras_ratchet.plots.run(journal(BEGIN, epoch(1, f1=0.1)), metric="f1")
    assert not any(name.startswith("best") for name in marks(axes))


def test_saves_within_an_epoch_stand_between_the_epochs():
    events = journal(BEGIN, epoch(1, val_loss=4.0), save(1, batch=7), epoch(2, val_loss=2.0))
    assert marks(keras_ratchet.plots.run(events))["saved, still there"] == [(1.5, 3.0)]


def test_a_wide_range_is_drawn_on_a_log_scale():
    narrow = keras_ratchet.plots.run(journal(BEGIN, epoch(1, loss=2.0), epoch(2, loss=1.0)))
    wide = keras_ratchet.plots.run(journal(BEGIN, epoch(1, loss=200.0), epoch(2, loss=1.0)))
    below = keras_ratchet.plots.run(journal(BEGIN, epoch(1, loss=200.0), epoch(2, loss=-1.0)))
    assert [a.get_yscale() for a in (narrow, wide, below)] == ["linear", "log", "linear"]


def test_it_draws_on_given_axes_and_makes_its_own():
    events = journal(BEGIN, epoch(1, loss=2.0))
    axes = pyplot.subplots()[1]
    assert keras_ratchet.plots.run(events, axes=axes) is axes
    assert keras_ratchet.plots.run(iter(events)) is not axes


def test_what_cannot_be_drawn_is_said(tmp_path):
    with pytest.raises(LoadError, match="no run has"):
        keras_ratchet.plots.run(tmp_path)
    with pytest.raises(LoadError, match="no epoch"):
        keras_ratchet.plots.run(journal(BEGIN, END))
    with pytest.raises(ConfigError, match=r"'f1'.*There are: loss"):
        keras_ratchet.plots.run(journal(BEGIN, epoch(1, loss=1.0)), metric="f1")


def test_a_real_training_is_drawn_from_its_directory(tmp_path):
    keras.utils.set_random_seed(0)
    stopper = keras_ratchet.EarlyStopping(monitor="val_loss", patience=2)
    checkpoint = keras_ratchet.ModelCheckpoint(tmp_path / "e-{epoch}.keras", keep_best=1)
    last = keras_ratchet.ModelCheckpoint(tmp_path / "last.keras")
    losses = Curve(val_loss=[3.0, 1.0, 2.0, 2.5, 9.0])
    fit(dense(), [losses, stopper, checkpoint, last], epochs=5)
    axes = keras_ratchet.plots.run(tmp_path)
    assert [x for x, _ in marks(axes)["validation"]] == [1, 2, 3, 4]
    assert label(axes, "best: 1 in epoch 2") == [(2, 1.0)]
    assert marks(axes)["stopped (patience)"][0][0] == 4
    assert sorted(x for x, _ in marks(axes)["saved, still there"]) == [2, 4, 4]
    pyplot.savefig(tmp_path / "x.png")


def test_importing_plots_loads_no_matplotlib():
    import subprocess
    import sys

    code = (
        "import sys, keras_ratchet; keras_ratchet.plots.run; "
        "assert not {'matplotlib', 'numpy', 'keras'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["nan", 10**400])
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
kinds = st.sampled_from(
    ["begin", "epoch", "save", "skip", "drop", "stop", "end", "rollback", "average", "?"]
)
keys = st.sampled_from(
    [
        "time",
        "epoch",
        "batch",
        "series",
        "name",
        "metrics",
        "ranking",
        "kind",
        "reason",
        "members",
        "value",
        "metric",
    ]
)


@settings(max_examples=60)
@given(st.lists(st.tuples(kinds, st.dictionaries(keys, anything)), max_size=8))
def test_a_journal_of_a_stranger_is_read_or_refused(rows):
    events = [{**facts, "event": kind} for kind, facts in rows]
    with contextlib.suppress(LoadError, ConfigError):
        keras_ratchet.plots.run(events, axes=pyplot.figure(num=7, clear=True).subplots())


def test_the_journal_on_disk_is_what_is_read(tmp_path):
    note(tmp_path, *journal(BEGIN, epoch(1, val_loss=float("nan")), epoch(2, val_loss=1.0)))
    assert label(keras_ratchet.plots.run(str(tmp_path)), "best: 1 in epoch 2")
