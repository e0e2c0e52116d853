"""`ratchet soup`: the mean of the best checkpoints as a plain Keras file."""

import shutil
import zipfile

import h5py
import keras
import numpy as np
import pytest
from support.averages import bits
from support.checkpoints import Holder, facts, flip_bit, snapshot
from support.models import dense, fit
from support.weight_files import save_model

import keras_ratchet
from keras_ratchet._engine.saving.provenance import fingerprint
from keras_ratchet._formats import numeric
from keras_ratchet._formats.readers import open_weights

SUFFIXES = [".keras", ".weights.h5", ".h5"]
LOSSES = (5.0, 1.0, 3.0, 2.0)  # the second is best


def save(model, path, epoch, **metrics):
    from dataclasses import replace

    save_model(model, str(path), replace(facts(epoch, **metrics), fingerprint=fingerprint(model)))
    return path


def series(root, suffix=".keras", model=None):
    """Save a real training; return the model and its weights at each epoch."""
    model = model or dense(optimizer="adam")
    weights, slots = [], []
    for epoch, loss in enumerate(LOSSES, 1):
        fit(model, [])
        save(model, root / f"epoch-{epoch:02d}{suffix}", epoch, val_loss=loss)
        weights.append(model.get_weights())
        slots.append(bits(model.optimizer.variables))
    return model, weights, slots


def mean(weights, *epochs):
    """Return the mean of the weights of some epochs, in double precision on the way."""
    chosen = [[np.asarray(w, "float64") for w in weights[epoch - 1]] for epoch in epochs]
    averages = [np.mean(values, axis=0) for values in zip(*chosen, strict=True)]
    return [m.astype(w.dtype) for m, w in zip(averages, weights[0], strict=True)]


def loaded(path, model):
    """Load a file as Keras does; return the model."""
    if path.name.endswith(".weights.h5"):
        model.load_weights(path)
        return model
    return keras.models.load_model(path, compile=path.suffix == ".keras")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_result_is_a_plain_keras_file_with_the_means(ratchet, tmp_path, suffix):
    model, weights, slots = series(tmp_path, suffix)
    target = tmp_path / "deep" / f"soup{suffix}"
    output = ratchet("soup", tmp_path, "-o", target, "--k", 3).output
    assert "epoch-02" in output and "epoch-01" not in output and "not measured" in output
    found = loaded(target, model)
    assert bits(found.get_weights()) == bits(mean(weights, 2, 4, 3))
    if suffix != ".h5":  # Keras cannot load a loss "mse" from there
        assert bits(found.optimizer.variables) == slots[1]  # those of the best
    assert keras_ratchet.verify(str(target))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_nothing_but_the_weights_differs_from_the_best_file(ratchet, tmp_path, suffix):
    series(tmp_path, suffix)
    best, target = tmp_path / f"epoch-02{suffix}", tmp_path / f"soup{suffix}"
    ratchet("soup", tmp_path, "-o", target)
    if suffix == ".keras":
        with zipfile.ZipFile(best) as a, zipfile.ZipFile(target) as b:
            assert a.namelist() == b.namelist() and b.testzip() is None
            assert a.read("config.json") == b.read("config.json")
            one, other = a.read("model.weights.h5"), b.read("model.weights.h5")
    else:
        one, other = best.read_bytes(), target.read_bytes()
    assert len(one) == len(other)
    differing = np.flatnonzero(np.frombuffer(one, "u1") != np.frombuffer(other, "u1"))
    with open_weights(str(best)) as found:
        own = [w for w in found if not w.of_optimizer]
        places = [range(w.offset, w.offset + w.read().nbytes) for w in own]
    inside = np.zeros(len(one), bool)
    for place in places:
        inside[place.start : place.stop] = True
    assert len(differing) and inside[differing].all()


def test_what_is_known_about_it_stands_in_its_manifest(ratchet, tmp_path):
    series(tmp_path)
    ratchet("soup", tmp_path, "-o", tmp_path / "soup.keras", "--k", 2)
    info = keras_ratchet.checkpoints(str(tmp_path))[-1]
    assert info.name == info.series == "soup.keras"
    assert info.reason == "mean of the 2 best by val_loss: epoch-02.keras, epoch-04.keras"
    assert info.position.epoch == 2 and not info.metrics and not info.ranking
    assert info.fingerprint == keras_ratchet.checkpoints(str(tmp_path))[0].fingerprint
    assert "mean of the 2 best" in ratchet("history", tmp_path).output
    assert ratchet("best", tmp_path).output.strip().endswith("epoch-02.keras")  # still
    again = ratchet.json("soup", tmp_path, "-o", tmp_path / "again.keras", "--k", 2)
    assert [m["name"] for m in again["members"]] == ["epoch-02.keras", "epoch-04.keras"]


def test_a_dry_run_shows_the_members_and_writes_nothing(ratchet, tmp_path):
    series(tmp_path)
    before = sorted(p.name for p in tmp_path.rglob("*"))
    output = ratchet("soup", tmp_path, "--dry-run").output
    names = [line.split()[0] for line in output.splitlines()[1:5]]
    assert names == [f"epoch-0{epoch}.keras" for epoch in (2, 4, 3, 1)]
    assert "Would write the mean of 4 checkpoints (4 weights" in output
    data = ratchet.json("soup", tmp_path, "--dry-run", "-o", tmp_path / "x.keras")
    assert data["path"] is None and data["metric"] == "val_loss" and len(data["members"]) == 4
    assert sorted(p.name for p in tmp_path.rglob("*")) == before
    assert "-o FILE" in ratchet("soup", tmp_path, code=2).stderr


def test_another_metric_can_rank(ratchet, tmp_path):
    model = dense()
    for epoch, value in enumerate((0.1, 0.3, 0.2), 1):
        save(model, tmp_path / f"epoch-{epoch:02d}.keras", epoch, val_loss=value, f1=value)
    data = ratchet.json("soup", tmp_path, "--dry-run", "--k", 2, "--metric", "f1", "--mode", "max")
    assert [m["name"] for m in data["members"]] == ["epoch-02.keras", "epoch-03.keras"]
    wrong = ratchet("soup", tmp_path, "--dry-run", "--metric", "f1", code=2)
    assert "--mode" in wrong.stderr


def test_a_corrupt_checkpoint_is_passed_over_and_one_moment_counts_once(ratchet, tmp_path):
    series(tmp_path)
    manifest = next((tmp_path / ".ratchet").glob("epoch-04*"))
    shutil.copy(tmp_path / "epoch-04.keras", tmp_path / "best.keras")
    renamed = manifest.name.replace("epoch-04.keras", "best.keras")
    text = manifest.read_text().replace('"epoch-04.keras"', '"best.keras"')
    from keras_ratchet._storage.manifest import seal

    body = text[: text.rindex(",\n")] + "\n}"
    (tmp_path / ".ratchet" / renamed).write_bytes(seal(body.encode()))
    flip_bit(tmp_path / "epoch-02.keras", 3000)
    result = ratchet("soup", tmp_path, "--dry-run", "--k", 2)
    assert "Skipped epoch-02.keras" in result.stderr
    rows = result.stdout.splitlines()[1:3]
    assert [row.split()[0] for row in rows] == ["epoch-04.keras", "epoch-03.keras"] or (
        [row.split()[0] for row in rows] == ["best.keras", "epoch-03.keras"]
    )


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_narrow_floats(ratchet, tmp_path, suffix, dtype):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, dtype=dtype)])
    model.compile("sgd", "mse")
    rng, kernels = np.random.default_rng(0), []
    for epoch in range(1, 8):
        kernel = rng.uniform(0.5, 4, (3, 4)).astype("float32")
        model.layers[0].kernel.assign(kernel)
        save(model, tmp_path / f"epoch-{epoch:02d}{suffix}", epoch, val_loss=float(epoch))
        with open_weights(str(tmp_path / f"epoch-{epoch:02d}{suffix}")) as weights:
            kernels.append(next(w.read() for w in weights if w.name.endswith("kernel")))
    target = tmp_path / f"soup{suffix}"
    ratchet("soup", tmp_path, "-o", target, "--k", 7)
    expected = (sum(k.astype("float32") for k in kernels) / 7).astype(kernels[0].dtype)
    assert kernels[0].dtype.name == dtype
    with open_weights(str(target)) as weights:
        found = next(w.read() for w in weights if w.name.endswith("kernel"))
    assert found.tobytes() == expected.tobytes()


class Counting(keras.layers.Layer):
    """A layer with a counter."""

    def build(self, shape):
        self.count = self.add_weight(shape=(), dtype="int32", trainable=False, name="count")
        self.scale = self.add_weight(shape=(), name="scale")

    def call(self, inputs):
        return inputs * self.scale


def test_integers_are_those_of_the_best(ratchet, tmp_path):
    model = keras.Sequential([keras.Input((3,)), Counting()])
    for epoch, loss in enumerate((2.0, 1.0), 1):
        model.layers[0].count.assign(epoch)
        model.layers[0].scale.assign(epoch)
        save(model, tmp_path / f"{epoch}.weights.h5", epoch, val_loss=loss)
    ratchet("soup", tmp_path, "-o", tmp_path / "soup.weights.h5")
    model.load_weights(tmp_path / "soup.weights.h5")
    assert int(model.layers[0].count) == 2 and float(model.layers[0].scale) == 1.5


def with_normalization(named):
    if not named:  # a subclassed model: the file has numbers and the attribute's name

        class Sub(keras.Model):
            def __init__(self):
                super().__init__()
                self.first = keras.layers.Dense(4)
                self.norm = keras.layers.BatchNormalization()

            def call(self, inputs, training=False):
                return self.norm(self.first(inputs), training=training)

        model = Sub()
        model(np.zeros((1, 4), "float32"))
        return model
    stack = [keras.Input((4,)), keras.layers.Dense(4), keras.layers.BatchNormalization()]
    return keras.Sequential(stack)


@pytest.mark.parametrize("named", [True, False])
def test_moving_statistics_are_refused_or_averaged(ratchet, tmp_path, named):
    model = with_normalization(named)
    model.compile("sgd", "mse")
    x, weights = np.random.default_rng(0).normal(size=(16, 4)).astype("float32"), []
    for epoch in (1, 2):
        model.fit(x, x, verbose=0)
        save(model, tmp_path / f"{epoch}.weights.h5", epoch, val_loss=1.0 / epoch)
        weights.append(model.get_weights())
    target = tmp_path / "soup.weights.h5"
    refused = ratchet("soup", tmp_path, "-o", target, code=2)
    assert "moving statistic" in refused.stderr and "average_data" in refused.stderr
    assert not target.exists()
    ratchet("soup", tmp_path, "-o", target, "--moving-statistics", "mean")
    model.load_weights(target)
    assert bits(model.get_weights()) == bits(mean(weights, 2, 1))


def test_frozen_statistics_are_no_obstacle(ratchet, tmp_path):
    model = with_normalization(True)
    model.layers[1].trainable = False
    model.compile("sgd", "mse")
    x = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
    for epoch in (1, 2):
        model.fit(x, x, verbose=0)
        save(model, tmp_path / f"{epoch}.keras", epoch, val_loss=1.0 / epoch)
    ratchet("soup", tmp_path, "-o", tmp_path / "soup.keras")


def test_layers_that_only_look_a_little_like_it_are_averaged(tmp_path):
    class Sub(keras.Model):
        def __init__(self):
            super().__init__()
            self.hidden = keras.layers.Dense(4)
            self.norm = keras.layers.LayerNormalization()
            self.bn = keras.layers.BatchNormalization(center=False, scale=False)

        def call(self, inputs, training=False):
            return self.bn(self.norm(self.hidden(inputs)), training=training)

    model = Sub()
    model(np.zeros((1, 4), "float32"))
    model.save_weights(tmp_path / "a.weights.h5")
    with open_weights(str(tmp_path / "a.weights.h5")) as weights:
        assert numeric.moving_statistics(weights) == {"bn/vars/0", "bn/vars/1"}


def test_mixed_models_and_formats_are_refused(ratchet, tmp_path):
    save(dense(), tmp_path / "a.keras", 1, val_loss=1.0)
    save(dense(5), tmp_path / "b.keras", 2, val_loss=2.0)
    target = tmp_path / "soup.keras"
    refused = ratchet("soup", tmp_path, "-o", target, code=2).stderr
    assert "different models: a.keras, b.keras" in refused
    other = tmp_path / "other"
    other.mkdir()
    model = dense()
    save(model, other / "a.keras", 1, val_loss=1.0)
    save(model, other / "b.h5", 2, val_loss=2.0)
    refused = ratchet("soup", other, "-o", target, code=2).stderr
    assert "b.h5 does not have the weights of a.keras" in refused and not target.exists()


def test_what_cannot_work_is_refused(ratchet, tmp_path):
    save(dense(), tmp_path / "a.keras", 1, val_loss=1.0)
    snapshot(tmp_path, 3)
    alone = ratchet("soup", tmp_path, "-o", tmp_path / "x.keras", code=1)
    assert "1 checkpoint" in alone.stderr
    save(dense(), tmp_path / "b.keras", 2, val_loss=2.0)
    assert ".keras" in ratchet("soup", tmp_path, "-o", tmp_path / "x.h5", code=2).stderr
    (tmp_path / "taken.keras").write_text("mine")
    taken = ratchet("soup", tmp_path, "-o", tmp_path / "taken.keras", code=2)
    assert "--force" in taken.stderr and (tmp_path / "taken.keras").read_text() == "mine"
    ratchet("soup", tmp_path, "-o", tmp_path / "taken.keras", "--force")
    assert keras_ratchet.verify(str(tmp_path / "taken.keras"))
    with Holder(tmp_path, "held.keras") as pid:
        held = ratchet("soup", tmp_path, "-o", tmp_path / "held.keras", code=2)
    assert f"process {pid}" in held.stderr
    bare = tmp_path / "bare"
    bare.mkdir()
    dense().save(bare / "a.keras")
    assert "says by which metric" in ratchet("soup", bare, "--dry-run", code=1).stderr


def test_a_full_disk_leaves_the_old_file_and_nothing_else(ratchet, tmp_path, monkeypatch):
    from keras_ratchet._storage import disk

    series(tmp_path)
    target = tmp_path / "soup.keras"
    target.write_text("old")
    before = sorted(p.name for p in tmp_path.iterdir())

    class Full(disk.Disk):
        def write(self, fd, data):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(disk, "current", Full())
    assert "No space left" in ratchet("soup", tmp_path, "-o", target, "-f", code=2).stderr
    assert target.read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_a_compressed_weight_cannot_be_replaced(ratchet, tmp_path):
    model = dense()
    for epoch in (1, 2):
        path = save(model, tmp_path / f"{epoch}.weights.h5", epoch, val_loss=float(epoch))
        with h5py.File(path, "r+") as h5:
            key = "layers/dense/vars/0"
            values = h5[key][...]
            del h5[key]
            h5.create_dataset(key, data=values, compression="gzip")
        ratchet("adopt", path, "--force", "--metric", f"val_loss={epoch}")
    refused = ratchet("soup", tmp_path, "-o", tmp_path / "x.weights.h5", code=2)
    assert "compressed" in refused.stderr and not (tmp_path / "x.weights.h5").exists()
