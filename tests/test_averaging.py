"""`keras_ratchet.soup` and `mean`: averages of checkpoints on the disk."""

import os
import warnings

import keras
import numpy as np
import pytest
from support.averages import TOLERANCE, best_first, bits, loss_of, network, oracle_soup, recorded
from support.checkpoints import flip_bit
from support.models import data, dense, fit
from support.weight_files import save_model

import keras_ratchet
from keras_ratchet._engine.saving.provenance import fingerprint
from keras_ratchet._storage.manifest import Manifest
from keras_ratchet.errors import (
    ConfigError,
    CorruptError,
    LoadError,
    MissingMetricError,
    UnknownDirectionError,
)
from keras_ratchet.types import Position

SUFFIXES = [".weights.h5", ".keras", ".h5"]


def save(model, path, epoch, ranking=(("val_loss", "min"),), **metrics):
    facts = Manifest(
        files={},
        position=Position(epoch),
        metrics=metrics,
        ranking=ranking,
        series="epoch-{epoch:02d}",
        saved_at=1_700_000_000.0 + epoch,
        fingerprint=fingerprint(model),
    )
    save_model(model, str(path), facts)
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A directory with the recorded snapshots, in the order in which they were trained."""
    root = tmp_path_factory.mktemp("run")
    model = network()
    for epoch, weights in enumerate(recorded()[0], 1):
        model.set_weights(weights)
        path = root / f"epoch-{epoch:02d}.weights.h5"
        save(model, path, epoch, val_loss=loss_of(weights))
    return root


def validation():
    return recorded()[1:]


def test_the_soup_of_a_directory_is_that_of_the_oracle(run):
    members, value, _ = oracle_soup(best_first()[:6])
    model = network()
    record = keras_ratchet.soup(model, run, validation(), k=6)
    assert record.indices == members and record.accepted
    assert record.value == pytest.approx(value, rel=TOLERANCE)
    assert model.evaluate(*validation(), verbose=0) == record.value
    ranked = sorted(keras_ratchet.checkpoints(str(run)), key=lambda info: info.metrics["val_loss"])
    assert record.members == tuple(ranked[i].name for i in members)
    assert len(record.trials) == 5


def test_the_mean_of_a_directory(run):
    means = [np.mean([s[i].astype("float64") for s in best_first()[:3]], axis=0) for i in range(4)]
    for given in (None, validation()):
        model = network()
        record = keras_ratchet.mean(model, str(run), given, k=3)
        assert bits(model.get_weights()) == bits([m.astype("float32") for m in means])
        assert record.accepted and len(record.members) == 3
    assert record.value == pytest.approx(loss_of(means), rel=TOLERANCE)
    assert "not measured" in str(keras_ratchet.mean(network(), run, k=2))


def test_a_mean_that_is_worse_is_not_taken(run):
    model = network()
    values = iter([1.0, 2.0])
    record = keras_ratchet.mean(model, run, lambda model: next(values), k=3)
    assert not record.accepted and record.value == 1.0
    assert bits(model.get_weights()) == bits(best_first()[0])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_format_can_be_averaged_and_the_optimizer_is_left_alone(suffix, tmp_path):
    model = dense(optimizer="adam")
    weights = []
    for epoch in (1, 2):
        fit(model, [])
        save(model, tmp_path / f"epoch-{epoch}{suffix}", epoch, val_loss=1.0 / epoch)
        weights.append(model.get_weights())
    fit(model, [])
    slots = bits(model.optimizer.variables)
    keras_ratchet.mean(model, tmp_path)
    expected = [
        ((a.astype("float64") + b) / 2).astype("float32") for a, b in zip(*weights, strict=True)
    ]
    assert bits(model.get_weights()) == bits(expected)
    assert bits(model.optimizer.variables) == slots


def test_files_without_manifest_are_measured_first_and_the_best_of_them_are_kept(tmp_path):
    model, paths = network(), []
    for i, weights in enumerate(recorded()[0]):
        model.set_weights(weights)
        paths.append(tmp_path / f"{i}.weights.h5")
        model.save_weights(paths[-1])
    members, value, _ = oracle_soup(best_first()[:4])
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        record = keras_ratchet.soup(model, paths, validation(), k=4)
    assert record.indices == members
    assert record.value == pytest.approx(value, rel=TOLERANCE)
    assert sum("unverified" in str(w.message) for w in said) == len(paths)
    with pytest.raises(ConfigError, match="nothing says which are the best 4"):
        keras_ratchet.mean(model, paths, k=4)


@pytest.mark.filterwarnings("ignore:.*unverified")
def test_named_files_are_all_averaged_where_nobody_ranks_them(tmp_path):
    model, paths = dense(), []
    for number in (1.0, 2.0, 6.0):
        model.set_weights([np.full_like(w, number) for w in model.get_weights()])
        paths.append(str(tmp_path / f"{number}.weights.h5"))
        model.save_weights(paths[-1])
    record = keras_ratchet.mean(model, paths)
    assert {float(v) for w in model.get_weights() for v in np.unique(w)} == {3.0}
    assert record.members == ("1.0.weights.h5", "2.0.weights.h5", "6.0.weights.h5")


def test_a_corrupt_checkpoint_takes_no_part_and_a_named_one_is_an_error(run, tmp_path):
    import shutil

    broken = tmp_path / "run"
    shutil.copytree(run, broken)
    ranked = sorted(keras_ratchet.checkpoints(str(run)), key=lambda info: info.metrics["val_loss"])
    flip_bit(broken / ranked[0].name, 3000)
    model = network()
    with pytest.warns(UserWarning, match=f"{ranked[0].name}.* not part"):
        record = keras_ratchet.mean(model, broken, k=2)
    assert record.members == (ranked[1].name, ranked[2].name)
    before = bits(model.get_weights())
    names = [broken / ranked[1].name, broken / ranked[0].name]
    with pytest.raises(CorruptError, match=ranked[0].name):
        keras_ratchet.mean(model, names, k=2)
    assert bits(model.get_weights()) == before


def test_one_moment_under_two_names_has_one_vote(tmp_path):
    model = dense()
    for epoch, number in ((1, 1.0), (2, 5.0)):
        model.set_weights([np.full_like(w, number) for w in model.get_weights()])
        names = [f"epoch-{epoch}.weights.h5", *(["best.weights.h5"] if epoch == 2 else [])]
        for name in names:
            save(model, tmp_path / name, epoch, val_loss=1.0 / epoch)
    record = keras_ratchet.mean(model, tmp_path)
    assert len(record.members) == 2
    assert {float(v) for w in model.get_weights() for v in np.unique(w)} == {3.0}


def test_another_metric_can_decide(tmp_path):
    model = dense(metrics=["mae"])
    fit(model, [])  # from now on the model knows its metrics
    for epoch, number in enumerate((3.0, 1.0, 2.0), 1):
        model.set_weights([np.full_like(w, number) for w in model.get_weights()])
        metrics = {"val_loss": number, "val_mae": -number, "val_f1": number}
        save(model, tmp_path / f"{epoch}.weights.h5", epoch, **metrics)
    assert keras_ratchet.mean(model, tmp_path, k=2).members == ("2.weights.h5", "3.weights.h5")
    record = keras_ratchet.mean(model, tmp_path, k=2, monitor="val_mae")
    assert record.members == ("1.weights.h5", "3.weights.h5") and record.metric == "val_mae"
    record = keras_ratchet.mean(model, tmp_path, k=2, monitor="val_f1", mode="max")
    assert record.members == ("1.weights.h5", "3.weights.h5")
    with pytest.raises(UnknownDirectionError, match="'val_f1' is better"):
        keras_ratchet.mean(model, tmp_path, monitor="val_f1")
    x, y = data()
    with pytest.raises(MissingMetricError, match="'f1'"):
        keras_ratchet.soup(model, tmp_path, (x, y), monitor="val_f1", mode="max")


def test_moving_statistics_need_data(tmp_path):
    layers = [keras.Input((4,)), keras.layers.BatchNormalization(), keras.layers.Dense(1)]
    model = keras.Sequential(layers)
    model.compile("sgd", "mse")
    x, y = data()
    for epoch in (1, 2):
        model.fit(x, y, verbose=0)
        loss = model.evaluate(x, y, verbose=0)
        save(model, tmp_path / f"{epoch}.weights.h5", epoch, val_loss=loss)
    before = bits(model.weights)
    for call in (keras_ratchet.mean, keras_ratchet.soup):
        with pytest.raises(ConfigError, match=r"moving_mean.*average_data"):
            call(model, tmp_path, (x, y))
        assert bits(model.weights) == before
    for given in (None, (x, y)):
        record = keras_ratchet.mean(model, tmp_path, given, average_data=x, batch_size=len(x))
        if record.accepted:
            names = [v.name for v in model.weights]
            found = dict(zip(names, model.get_weights(), strict=True))
            np.testing.assert_allclose(found["moving_mean"], x.mean(axis=0), rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(found["moving_variance"], x.var(axis=0), rtol=1e-5)
    record = keras_ratchet.soup(model, tmp_path, (x, y), average_data=x)
    assert model.evaluate(x, y, verbose=0) == record.value <= record.best


def test_what_cannot_work_is_an_error_and_the_model_is_as_before(run, tmp_path):
    model = dense()
    save(model, tmp_path / "a.weights.h5", 1, val_loss=1.0)
    before = bits(model.get_weights())
    with pytest.raises(LoadError, match="different models"):
        keras_ratchet.mean(model, [tmp_path / "a.weights.h5", run / "epoch-01.weights.h5"])
    with pytest.raises(LoadError, match="does not fit"):
        keras_ratchet.mean(model, run)
    with pytest.raises(LoadError, match="no checkpoints to average"):
        keras_ratchet.mean(model, [])
    with pytest.raises(ConfigError, match="directory or a list"):
        keras_ratchet.mean(model, os.fspath(tmp_path / "a.weights.h5"))
    with pytest.raises(ConfigError, match="average_k"):
        keras_ratchet.mean(model, run, k=1)
    with pytest.raises(ConfigError, match="Build it first"):
        keras_ratchet.mean(keras.Sequential(), run)
    with pytest.raises(ConfigError, match="not compiled"):
        keras_ratchet.soup(
            keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)]), run, data()
        )
    assert bits(model.get_weights()) == before
