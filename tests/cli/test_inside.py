"""`diff`, `export` and `plot`: what is in a checkpoint."""

import importlib
import sys

import keras
import numpy as np
import pytest
from support.checkpoints import flip_bit, note, snapshot
from support.models import dense, fit

import keras_ratchet

SUFFIXES = [".keras", ".weights.h5", ".h5"]


def save(model, path):
    """Save a model in the format of the suffix; return the path."""
    if path.name.endswith(".weights.h5"):
        model.save_weights(path)
    else:
        model.save(path)
    return path


def by_path(model):
    """Return the weights by the path of their variable, from the layer on."""
    values = {}
    for layer in model.layers:
        for variable in layer.weights:
            name = f"{layer.name}/{variable.path.split(f'{layer.name}/')[-1]}"
            values[name] = keras.ops.convert_to_numpy(variable)
    return values


def read(path):
    """Read an export with the library that it is for."""
    if path.suffix == ".npz":
        with np.load(path) as archive:
            return {name: archive[name] for name in archive.files}
    if path.suffix == ".safetensors":
        return pytest.importorskip("safetensors.numpy").load_file(path)
    torch = pytest.importorskip("torch")
    return {name: value.numpy() for name, value in torch.load(path, weights_only=True).items()}


def test_diff_of_equal_files_finds_nothing(ratchet, tmp_path):
    model = dense(optimizer="adam")
    a, b = save(model, tmp_path / "a.keras"), save(model, tmp_path / "b.keras")
    output = ratchet("diff", a, b).output
    assert "config: the same" in output and "0 weights differ, 4 are the same" in output
    assert ratchet.json("diff", a, b)["equal"] is True


@pytest.mark.parametrize("other", SUFFIXES)
def test_diff_shows_the_largest_change_first(ratchet, tmp_path, other):
    model = dense()
    a = save(model, tmp_path / f"a{other}")
    names = list(by_path(model))
    values = model.get_weights()
    values[1][2] += 0.25
    values[3] -= 4.0
    model.set_weights(values)
    b = save(model, tmp_path / "b.keras")
    changes = {c["name"]: c for c in ratchet.json("diff", a, b)["weights"]}
    first, second = list(changes.values())[:2]
    assert (first["name"], second["name"]) == (names[3], names[1])
    assert first["max_abs"] == 4.0 and first["mean_abs"] == 4.0
    assert second["max_abs"] == 0.25 and second["mean_abs"] == 0.25 / 8
    assert [c["change"] for c in changes.values()] == ["changed", "changed", "same", "same"]
    output = ratchet("diff", a, b, "--most", 1).output
    assert names[3] in output and names[1] not in output and "1 more" in output


def test_diff_shows_shapes_config_and_what_only_one_has(ratchet, tmp_path):
    def model(units, extra):
        layers = [keras.Input((4,)), keras.layers.Dense(units, name="first")]
        layers += [keras.layers.Dense(1, name="extra")] if extra else []
        built = keras.Sequential(layers)
        built.compile(keras.optimizers.SGD(0.1 * units), "mse")
        return built

    a = save(model(2, True), tmp_path / "a.keras")
    b = save(model(3, False), tmp_path / "b.keras")
    data = ratchet.json("diff", a, b)
    changes = {c["name"]: c["change"] for c in data["weights"]}
    assert changes == {
        "first/kernel": "shape",
        "first/bias": "shape",
        "extra/kernel": "only in A",
        "extra/bias": "only in A",
    }
    units = [c for c in data["config"] if c["path"].endswith("[first].config.units")]
    assert units == [{"path": units[0]["path"], "a": 2, "b": 3}]
    assert any("learning_rate" in c["path"] for c in data["config"])
    output = ratchet("diff", a, b).output
    assert "config.units: 2 -> 3" in output and "float32 4x2" in output


def test_diff_pairs_layers_of_one_program_by_their_place(ratchet, tmp_path):
    first, second = dense(), dense()  # dense and dense_1, then dense_2 and dense_3
    second.set_weights(first.get_weights())
    a = save(first, tmp_path / "a.weights.h5")
    b = save(second, tmp_path / "b.weights.h5")
    data = ratchet.json("diff", a, b)
    assert [c["change"] for c in data["weights"]] == ["same"] * 4


def test_diff_tells_nan_from_nan(ratchet, tmp_path):
    model = dense()
    values = model.get_weights()
    values[0][0, 0] = np.nan
    model.set_weights(values)
    a = save(model, tmp_path / "a.keras")
    assert ratchet.json("diff", a, a)["equal"] is True
    values[1][0] = np.nan
    model.set_weights(values)
    b = save(model, tmp_path / "b.keras")
    first = ratchet.json("diff", a, b)["weights"][0]
    assert first["change"] == "changed" and first["max_abs"] == "nan"


def test_diff_compares_the_optimizer_on_request(ratchet, tmp_path):
    model = dense(optimizer="adam")
    a = save(model, tmp_path / "a.keras")
    fit(model, [])
    b = save(model, tmp_path / "b.keras")
    assert not any("optimizer/" in c["name"] for c in ratchet.json("diff", a, b)["weights"])
    changes = {c["name"]: c for c in ratchet.json("diff", a, b, "--optimizer")["weights"]}
    assert changes["optimizer/iteration"]["max_abs"] == 4.0


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("form", [".npz", ".safetensors", ".pt"])
def test_an_export_loads_back_equal(ratchet, tmp_path, suffix, form):
    model = dense(optimizer="adam")
    fit(model, [])
    path = save(model, tmp_path / f"a{suffix}")
    target = tmp_path / "deep" / f"out{form}"
    data = ratchet.json("export", path, "-o", target)
    expected = by_path(model)
    assert sorted(data["names"]) == sorted(expected)
    loaded = read(target)
    assert loaded.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(loaded[name], value)
        assert loaded[name].dtype == value.dtype
    ratchet("export", path, "-o", target, "--optimizer", "--force")
    assert read(target)["optimizer/iteration"] == 4


@pytest.mark.parametrize("form", [".npz", ".safetensors", ".pt"])
def test_bfloat16_is_exported_exactly(ratchet, tmp_path, form):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, dtype="bfloat16")])
    path = save(model, tmp_path / "a.weights.h5")
    target = tmp_path / f"out{form}"
    ratchet("export", path, "-o", target)
    expected = keras.ops.convert_to_numpy(keras.ops.cast(model.weights[0], "float32"))
    if form == ".npz":
        kernel = next(v for n, v in read(target).items() if n.endswith("kernel"))
    else:
        torch = pytest.importorskip("torch")
        tensors = (
            torch.load(target, weights_only=True)
            if form == ".pt"
            else pytest.importorskip("safetensors.torch").load_file(target)
        )
        kernel = next(v for n, v in tensors.items() if n.endswith("kernel"))
        assert kernel.dtype == torch.bfloat16
        kernel = kernel.float().numpy()
    np.testing.assert_array_equal(kernel, expected)


def test_export_refuses_what_is_unclear(ratchet, tmp_path):
    path = save(dense(), tmp_path / "a.keras")
    taken = tmp_path / "taken.npz"
    taken.write_text("mine")
    assert "--force" in ratchet("export", path, "-o", taken, code=2).stderr
    assert taken.read_text() == "mine"
    assert ".safetensors" in ratchet("export", path, "-o", tmp_path / "x.zip", code=2).stderr
    wrong = ratchet("export", path, "--to", "torch", "-o", tmp_path / "x.npz", code=2)
    assert ".pt or .pth" in wrong.stderr
    (tmp_path / "d.npz").mkdir()
    assert "is a directory" in ratchet("export", path, "-o", tmp_path / "d.npz", code=2).stderr
    ratchet("export", path, "-o", taken, "--force")
    assert len(read(taken)) == 4


def test_a_failed_export_leaves_the_old_file_and_nothing_else(ratchet, tmp_path, monkeypatch):
    path = save(dense(), tmp_path / "a.keras")
    target = tmp_path / "out.npz"
    target.write_text("old")
    monkeypatch.setattr(
        np.lib.format,
        "write_array",
        lambda *a, **k: (_ for _ in ()).throw(OSError(28, "No space left on device")),
    )
    assert "No space left" in ratchet("export", path, "-o", target, "-f", code=2).stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.keras", "out.npz"]
    assert target.read_text() == "old"


def test_a_corrupt_checkpoint_is_not_exported(ratchet, tmp_path):
    path = save(dense(), tmp_path / "a.keras")
    ratchet("adopt", path)
    flip_bit(path, 2000)
    result = ratchet("export", path, "-o", tmp_path / "out.npz", code=1)
    assert "is corrupt" in result.stderr and not (tmp_path / "out.npz").exists()


def test_a_snapshot_holds_no_weights_to_export(ratchet, tmp_path):
    path = snapshot(tmp_path, 1)
    assert "not a Keras file" in ratchet("export", path, "-o", tmp_path / "x.npz", code=2).stderr


@pytest.mark.parametrize(
    ("module", "args"),
    [
        ("torch", ("export", "{}/a.keras", "-o", "{}/x.pt")),
        ("matplotlib.figure", ("plot", "{}", "-o", "{}/x.png")),
    ],
)
def test_a_missing_library_is_named_with_its_extra(ratchet, tmp_path, monkeypatch, module, args):
    extra = {"torch": "keras-ratchet[torch]", "matplotlib.figure": "keras-ratchet[plot]"}[module]
    save(dense(), tmp_path / "a.keras")
    note(tmp_path, {"event": "epoch", "epoch": 1, "metrics": {"loss": 1.0}})
    monkeypatch.setitem(sys.modules, module, None)
    real = importlib.import_module
    monkeypatch.setattr(
        importlib, "import_module", lambda name, *rest: _absent(name, module, real, rest)
    )
    result = ratchet(*(arg.format(tmp_path) for arg in args), code=2)
    assert extra in result.stderr
    assert not list(tmp_path.glob("x.*"))


def _absent(name, missing, real, rest):
    if name == missing:
        raise ImportError(name)
    return real(name, *rest)


@pytest.mark.parametrize(("form", "begins"), [("png", b"\x89PNG"), ("svg", b"<?xml")])
def test_plot_draws_a_run(ratchet, tmp_path, form, begins):
    checkpoint = keras_ratchet.ModelCheckpoint(tmp_path / "best.keras", save_best_only=True)
    x, y = np.zeros((8, 4), "float32"), np.zeros((8, 1), "float32")
    fit(dense(), [checkpoint], epochs=3, validation_data=(x, y))
    target = tmp_path / f"picture.{form}"
    ratchet("plot", tmp_path, "-o", target)
    assert target.read_bytes().startswith(begins) and target.stat().st_size > 5000
    assert "--force" in ratchet("plot", tmp_path, "-o", target, code=2).stderr
    assert ratchet.json("plot", tmp_path, "-o", target, "-f")["path"] == str(target)
    wrong = ratchet("plot", tmp_path, "-o", target, "-f", "--metric", "f1", code=2)
    assert "'f1'" in wrong.stderr and "val_loss" in wrong.stderr
    assert ".png" in ratchet("plot", tmp_path, "-o", tmp_path / "x.doc", code=2).stderr
