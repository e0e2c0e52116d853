"""A metric that is not there, or whose direction nobody knows."""

import keras
import pytest
from support.models import Curve, data, dense, fit, stamp_of
from support.runs import KERAS_IS_AS_DESCRIBED, run, tiny, warnings_like, warns_once

import keras_ratchet
from keras_ratchet import policy
from keras_ratchet.errors import MissingMetricError, UnknownDirectionError


def saved_epoch(path):
    return stamp_of(keras.models.load_model(path))


def test_an_epoch_without_validation_does_not_overwrite_the_best_file(tmp_path):
    curve = [None, 0.1, None, 0.5, None]
    if KERAS_IS_AS_DESCRIBED:
        theirs = keras.callbacks.ModelCheckpoint(tmp_path / "k.keras", save_best_only=True)
        run(theirs, val_loss=curve)
        assert theirs.best == 0.1
        assert saved_epoch(tmp_path / "k.keras") == 5  # never validated
    ours = keras_ratchet.ModelCheckpoint(tmp_path / "r.keras", save_best_only=True)
    with warns_once("only with val_loss available"):
        run(ours, val_loss=curve)
    assert ours.best == 0.1
    assert saved_epoch(tmp_path / "r.keras") == 2


def test_a_batch_that_cannot_have_the_metric_does_not_overwrite_a_known_best(tmp_path):
    arguments = {"save_best_only": True, "save_freq": 2, "mode": "min"}
    arguments["initial_value_threshold"] = 0.1
    if KERAS_IS_AS_DESCRIBED:
        fit(tiny(), [keras.callbacks.ModelCheckpoint(tmp_path / "k.keras", **arguments)])
        assert (tmp_path / "k.keras").exists()
    with warns_once("only with val_loss available"):
        fit(tiny(), [keras_ratchet.ModelCheckpoint(tmp_path / "r.keras", **arguments)])
    assert not (tmp_path / "r.keras").exists()


@pytest.mark.parametrize("save_freq", [1, 2])
def test_saves_between_validations_do_not_overwrite_the_best_file(save_freq, tmp_path):
    def train(module):
        path = tmp_path / f"{module.__name__}.keras"
        first = module.ModelCheckpoint(path, save_best_only=True, mode="min")
        run(first, val_loss=[0.3, 0.1])
        again = module.ModelCheckpoint(
            path,
            save_best_only=True,
            mode="min",
            save_freq=save_freq,
            initial_value_threshold=first.best,
        )
        harm = Harm()
        fit(tiny(), [harm, again], validation_data=data(16, seed=1), epochs=2)
        return path

    class Harm(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.set_weights([w * 0 + 77 for w in self.model.get_weights()])

    if KERAS_IS_AS_DESCRIBED:
        assert saved_epoch(train(keras.callbacks)) == 77  # a batch that nothing was known of
    with warns_once("only with val_loss available"):
        path = train(keras_ratchet)
    assert saved_epoch(path) == 2


def test_a_misspelt_monitor_does_not_train_for_nothing():
    if KERAS_IS_AS_DESCRIBED:
        model = run(keras.callbacks.EarlyStopping("val_los", mode="min"), val_loss=[1, 2, 3])
        assert len(model.history.epoch) == 3  # a warning each epoch, and no stopping
    model, args = tiny(), {"validation_data": data(8, seed=1), "epochs": 3}
    with pytest.raises(MissingMetricError, match="Did you mean 'val_loss'"):
        fit(model, [keras_ratchet.EarlyStopping("val_los", mode="min")], **args)
    assert model.history.epoch == []


def test_a_misspelt_training_metric_is_found_after_the_first_epoch():
    with pytest.raises(MissingMetricError, match="Did you mean 'mae'"):
        fit(dense(metrics=["mae"]), keras_ratchet.EarlyStopping("mea", mode="min"), epochs=3)


@pytest.mark.parametrize("make", [keras_ratchet.EarlyStopping, keras_ratchet.ReduceLROnPlateau])
def test_without_any_validation_a_val_metric_is_an_error_after_the_first_epoch(make):
    model = tiny()
    with pytest.raises(MissingMetricError, match="`fit` has no validation"):
        fit(model, make(patience=2), epochs=3)
    assert model.history.epoch == []


def test_without_validation_a_callback_that_may_add_the_metric_is_waited_for():
    model = tiny()
    with (
        warns_once("ran no validation"),
        pytest.raises(MissingMetricError, match="No validation ran during training"),
    ):
        fit(model, [Every(9, [0.5]), keras_ratchet.EarlyStopping()], epochs=3)
    assert len(model.history.epoch) == 3


@pytest.mark.parametrize("split", [True, False])
def test_a_validation_that_comes_late_is_waited_for(split):
    model, ours = tiny(), keras_ratchet.EarlyStopping(patience=9)
    given = {"validation_split": 0.25} if split else VALIDATED
    with warns_once("ran no validation"):
        fit(model, ours, 3, validation_freq=3, **given)
    assert ours.best is not None and len(model.history.epoch) == 3


@pytest.mark.parametrize("make", [keras_ratchet.EarlyStopping, keras_ratchet.ReduceLROnPlateau])
def test_a_loop_of_ones_own_without_validation_is_told_what_to_log(make, tmp_path):
    model = tiny()
    how = r"your loop .*add it.*In a Run, pass it to run\.log\(val_loss=\.\.\.\)\."

    def train():
        with keras_ratchet.Run(tmp_path / "run", model, callbacks=[make()]) as loop:
            for _ in loop.epochs(3):
                loop.log(loss=1.0)

    with (
        warns_once(f"no 'val_loss' yet.*Waiting for {how}"),
        pytest.raises(MissingMetricError, match=how) as caught,
    ):
        train()
    assert "fit" not in str(caught.value)


def test_a_checkpoint_of_the_best_warns_in_the_first_epoch_that_there_is_no_metric(tmp_path):
    seen = []

    class Look(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append(count())

    ours = keras_ratchet.ModelCheckpoint(tmp_path / "b.keras", save_best_only=True)
    with warnings_like("only with val_loss available") as count:
        fit(tiny(), [ours, Look()], epochs=3)
    assert seen == [1, 1, 1]


def test_a_metric_that_is_none_counts_as_absent():
    stopper = keras_ratchet.EarlyStopping("score", mode="max", restore_best_weights=True)

    class Nothing(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["score"] = None

    with warns_once("Available: loss. Waiting for Nothing"), pytest.raises(MissingMetricError):
        fit(tiny(), [Nothing(), stopper])


class Every(keras.callbacks.Callback):
    """Computes a metric every so many epochs, as a callback for mAP or BLEU does."""

    def __init__(self, n, values, name="val_map"):
        super().__init__()
        self.n, self.values, self.name = n, list(values), name

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.n == 0 and self.values:
            logs[self.name] = self.values.pop(0)


def late(kind):
    """Return a callback that needs `val_map`."""
    if kind == "stop":
        return keras_ratchet.EarlyStopping("val_map", mode="max", patience=1)
    if kind == "plateau":
        return keras_ratchet.ReduceLROnPlateau("val_map", mode="max", patience=1)
    rule = policy.Reaches("val_map", 0.3, mode="max") | policy.Patience(9, "loss")
    return keras_ratchet.EarlyStopping(criterion=rule)


LATE = pytest.mark.parametrize("kind", ["stop", "plateau", "criterion"])
VALIDATED = {"validation_data": data(8, seed=1)}


@LATE
def test_a_metric_that_a_callback_computes_every_few_epochs_is_waited_for(kind):
    ours = late(kind)
    with warns_once("no 'val_map' yet.*Available: .*val_loss.*Waiting for Every to add it"):
        model = tiny()
        fit(model, [Every(2, [0.2, 0.4, 0.1, 0.1]), ours], 6, **VALIDATED)
    if kind == "plateau":
        assert [cut.epoch for cut in ours.reductions] == [5]
    else:
        assert ours.stopped_epoch == (5 if kind == "stop" else 3)


@LATE
def test_one_that_never_comes_is_an_error_at_the_end_when_all_have_done_their_work(kind, tmp_path):
    model = tiny()
    last = keras_ratchet.ModelCheckpoint(tmp_path / "{epoch}.keras", save_freq=99, save_at_end=True)
    with (
        warns_once("Waiting for Every"),
        pytest.raises(MissingMetricError, match=r"Did you mean 'val_mae'.*Every did not add it"),
    ):
        fit(model, [Every(1, [0.5] * 9, "val_mae"), late(kind), last], 2, **VALIDATED)
    assert len(model.history.epoch) == 2
    assert (tmp_path / "2.keras").exists()


@LATE
def test_a_callback_that_comes_too_late_in_the_list_is_not_waited_for(kind):
    nobody = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: None)
    with pytest.raises(MissingMetricError, match="put that callback first"):
        fit(tiny(), [nobody, late(kind), Every(1, [0.5])], 3, **VALIDATED)


def test_a_function_that_was_given_to_keras_may_add_a_metric():
    def add(epoch, logs):
        if epoch == 1:
            logs["val_map"] = 0.5

    given = keras.callbacks.LambdaCallback(on_epoch_end=add)
    ours = late("stop")
    with warns_once("Waiting for LambdaCallback"):
        fit(tiny(), [given, ours], 3, **VALIDATED)
    assert ours.best == 0.5


def test_a_loop_of_ones_own_may_add_a_metric_later():
    ours = late("stop")
    hooks = keras.callbacks.CallbackList([ours], model=tiny())
    hooks.on_train_begin()
    with warns_once("Waiting for your loop"):
        for epoch, logs in enumerate([{"val_loss": 1.0}, {"val_loss": 1.0, "val_map": 0.5}]):
            hooks.on_epoch_begin(epoch)
            hooks.on_epoch_end(epoch, logs)
    hooks.on_train_end()
    assert ours.best == 0.5


def test_save_best_only_works_with_a_number_of_batches(tmp_path):
    arguments = {"monitor": "loss", "save_best_only": True, "save_freq": 1}
    if KERAS_IS_AS_DESCRIBED:
        theirs = keras.callbacks.ModelCheckpoint(tmp_path / "k.keras", **arguments)
        with pytest.raises(TypeError, match="'NoneType' object is not callable"):
            fit(tiny(), [theirs])
    ours = keras_ratchet.ModelCheckpoint(tmp_path / "r.keras", **arguments)
    fit(tiny(), [ours])
    assert ours.best is not None
    assert (tmp_path / "r.keras").exists()


def test_a_threshold_works_with_a_number_of_batches(tmp_path):
    arguments = {"save_best_only": True, "save_freq": 1, "initial_value_threshold": -1.0}
    if KERAS_IS_AS_DESCRIBED:
        theirs = keras.callbacks.ModelCheckpoint(tmp_path / "k.keras", "loss", **arguments)
        with pytest.raises(TypeError, match="'NoneType' object is not callable"):
            fit(tiny(), [theirs])
    fit(tiny(), [keras_ratchet.ModelCheckpoint(tmp_path / "r.keras", "loss", **arguments)])
    assert not (tmp_path / "r.keras").exists()  # no loss is below -1


def test_a_placeholder_without_a_value_does_not_end_training(tmp_path):
    name = "{epoch:02d}-{val_loss:.2f}.keras"
    if KERAS_IS_AS_DESCRIBED:
        with pytest.raises(KeyError, match="Failed to format"):
            run(keras.callbacks.ModelCheckpoint(tmp_path / name), val_loss=[None, 0.5])
    with warns_once("'val_loss' is not in the logs"):
        run(keras_ratchet.ModelCheckpoint(tmp_path / name), val_loss=[None, 0.5, None])
    names = {path.name for path in tmp_path.glob("*.keras")}
    assert names == {"01-nan.keras", "02-0.50.keras", "03-nan.keras"}


def test_a_batch_placeholder_does_not_end_training_at_the_end_of_an_epoch(tmp_path):
    name = "{epoch}-{batch:03d}.weights.h5"
    if KERAS_IS_AS_DESCRIBED:
        theirs = keras.callbacks.ModelCheckpoint(tmp_path / name, save_weights_only=True)
        with pytest.raises(KeyError, match="batch"):
            fit(tiny(), [theirs])
    with warns_once("'batch' is not in the logs"):
        fit(tiny(), [keras_ratchet.ModelCheckpoint(tmp_path / name, save_weights_only=True)])
    assert len(list(tmp_path.glob("1-*.weights.h5"))) == 1


def two_outputs():
    inputs = keras.Input((4,))
    outputs = {name: keras.layers.Dense(1, name=name)(inputs) for name in ("a", "b")}
    model = keras.Model(inputs, outputs)
    metrics = {"a": ["mae", keras.metrics.R2Score()], "b": ["mae"]}
    model.compile("sgd", {"a": "mse", "b": "mse"}, metrics=metrics)
    return model


def fit_two_outputs(*callbacks):
    x, y = data(8)
    targets = {"a": y, "b": y}
    validation = (x, targets)
    two_outputs().fit(x, targets, validation_data=validation, verbose=0, callbacks=list(callbacks))


def test_auto_knows_the_metrics_of_one_output():
    if KERAS_IS_AS_DESCRIBED:
        with pytest.raises(ValueError, match="automatically determine"):
            fit_two_outputs(keras.callbacks.EarlyStopping("val_a_mae"))
    names = ["val_a_loss", "val_b_mae", "a_r2_score"]
    loss, mae, r2 = ours = [keras_ratchet.EarlyStopping(name) for name in names]
    fit_two_outputs(*ours)
    assert loss.monitor_op is mae.monitor_op is keras.ops.less
    assert r2.monitor_op is keras.ops.greater
    assert all(stopper.best is not None for stopper in ours)


class Batches(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.count = 0

    def on_train_batch_end(self, batch, logs=None):
        self.count += 1


def test_an_unknown_direction_is_an_error_before_the_first_batch(tmp_path):
    def makers(module):
        path = tmp_path / "b.keras"
        yield lambda: module.EarlyStopping("val_bleu")
        yield lambda: module.ModelCheckpoint(path, "bleu", save_best_only=True)

    if KERAS_IS_AS_DESCRIBED:
        for make in makers(keras.callbacks):
            batches = Batches()
            with pytest.raises(ValueError, match="automatically determine"):
                fit(tiny(), [Curve(val_bleu=[1.0]), make(), batches])
            assert batches.count == 4  # the whole epoch
    for make in makers(keras_ratchet):
        for model in (tiny(), dense(metrics=["mae"], weighted_metrics=[keras.metrics.R2Score()])):
            batches = Batches()
            with pytest.raises(UnknownDirectionError, match="mode='min' or mode='max'"):
                fit(model, [make(), batches])
            assert batches.count == 0


def test_a_direction_that_is_not_needed_is_not_asked_for(tmp_path):
    if KERAS_IS_AS_DESCRIBED:
        with pytest.raises(ValueError, match="automatically determine"):
            run(keras.callbacks.ModelCheckpoint(tmp_path / "k.keras", "bleu"), bleu=[1.0])
    run(keras_ratchet.ModelCheckpoint(tmp_path / "r.keras", "bleu"), bleu=[1.0])
    assert saved_epoch(tmp_path / "r.keras") == 1


def test_a_misspelled_name_without_a_direction_is_told_what_it_may_be():
    with pytest.raises(UnknownDirectionError, match="Did you mean 'val_loss'"):
        fit(tiny(), [keras_ratchet.EarlyStopping("val_los")])
    with pytest.raises(UnknownDirectionError, match=r"direction\. Pass"):
        fit(tiny(), [keras_ratchet.EarlyStopping("bleu")])


def test_of_several_outputs_only_names_that_will_be_there_are_suggested():
    with pytest.raises(UnknownDirectionError, match=r"known direction\.(.*) Pass") as caught:
        fit_two_outputs(keras_ratchet.EarlyStopping("val_a_ma"))
    said = str(caught.value)
    built = keras.backend.backend() != "tensorflow"  # there, only in the first batch
    assert ("Did you mean 'val_a_mae'" in said) == built
    assert "'val_mae'" not in said and "'mae'" not in said
