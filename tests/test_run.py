"""`Run`: a training loop written by hand is resumed as exactly as `fit` is."""

import os
import signal

import keras
import numpy as np
import pytest
from support import resuming
from support.resuming import arrays, values

import keras_ratchet
from keras_ratchet.errors import ConfigError

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="the loop is written in torch"
)

EPOCHS, BATCH, ROWS = 4, 8, 40
PER_EPOCH = ROWS // BATCH


class Cut(Exception):
    """Stands for whatever ends a loop."""


def build(how):
    """Return (model, optimizer, loader) as a script makes them."""
    x, y = map(torch.tensor, arrays(ROWS))
    generator = torch.Generator().manual_seed(3) if "generator" in how else None
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(x, y), BATCH, shuffle=True, generator=generator
    )
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(6, activation="relu"),
            keras.layers.Dropout(0.4),
            keras.layers.Dense(1),
        ]
    )
    if "keras" in how:
        return model, keras.optimizers.Adam(1e-2), loader
    return model, torch.optim.Adam(model.parameters(), lr=1e-2), loader


def step(model, optimizer, x, y):
    loss = torch.nn.functional.binary_cross_entropy_with_logits(model(x, training=True), y)
    model.zero_grad()
    loss.backward()
    if hasattr(optimizer, "apply"):
        variables = model.trainable_variables
        with torch.no_grad():
            optimizer.apply([v.value.grad for v in variables], variables)
    else:
        optimizer.step()
    return loss.detach()


def state_of(optimizer):
    if hasattr(optimizer, "variables"):
        return values(optimizer.variables)
    slots = optimizer.state_dict()["state"].values()
    return [np.array(slot) for slots in slots for slot in slots.values()]


def validate(model):
    x, y = map(torch.tensor, arrays(12))
    with torch.no_grad():
        logits = model(x, training=False)
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, y)


def script(directory, how="torch", cut=lambda epoch, batch: None, **arguments):
    """Run the script once from scratch; return what it ends with."""
    resuming.scramble()
    keras.utils.set_random_seed(7)
    model, optimizer, loader = build(how)
    stopping = keras_ratchet.EarlyStopping(
        patience=9, restore_best_weights=True, restore_optimizer=optimizer
    )
    best = keras_ratchet.ModelCheckpoint(
        os.path.join(directory, "best.weights.h5"), save_best_only=True, mode="min"
    )
    arguments.setdefault("delete_checkpoint", False)
    arguments.setdefault("data", loader if "generator" in how else None)
    steps = 0
    with keras_ratchet.Run(
        os.path.join(directory, "run"),
        model,
        optimizer=optimizer,
        callbacks=[stopping, best],
        **arguments,
    ) as run:
        for epoch in run.epochs(EPOCHS):
            for batch, (x, y) in enumerate(run.batches(loader)):
                run.log(loss=step(model, optimizer, x, y))
                steps += 1
                cut(epoch, batch)
            run.log(val_loss=validate(model))
            cut(epoch, "end")
    return {
        "weights": [v.tobytes() for v in values(model.variables)],
        "optimizer": [v.tobytes() for v in state_of(optimizer)],
        "history": run.history,
        "stopping": [stopping.best, stopping.wait, stopping.best_epoch],
        "best": best.best,
        "generator": None if loader.generator is None else loader.generator.get_state().tolist(),
        "torch": torch.get_rng_state().tolist(),
    }, (steps, run)


def fail(epoch, batch):
    """Return a cut: an exception at this place."""

    def cut(at_epoch, at_batch):
        if (at_epoch, at_batch) == (epoch, batch):
            raise Cut

    return cut


def terminate(epoch, batch):
    """Return a cut: a SIGTERM at this place."""

    def cut(at_epoch, at_batch):
        if (at_epoch, at_batch) == (epoch, batch):
            os.kill(os.getpid(), signal.SIGTERM)

    return cut


KINDS = ["torch", "torch generator", "keras", "keras generator"]


@pytest.mark.parametrize("how", KINDS)
def test_a_loop_that_failed_anywhere_goes_on_exactly(tmp_path, how):
    whole, (steps, _) = script(tmp_path / "whole", how, save_freq=2)
    assert steps == EPOCHS * PER_EPOCH
    for epoch, batch in [(1, 3), (2, "end"), (3, 0)]:
        with pytest.raises(Cut):
            script(tmp_path / "cut", how, fail(epoch, batch), save_freq=2)
    resumed, (steps, _) = script(tmp_path / "cut", how, save_freq=2)
    assert steps < 2 * PER_EPOCH
    assert resumed == whole


@pytest.mark.parametrize("how", ["torch", "keras generator"])
def test_snapshots_at_epoch_ends_are_exact_too(tmp_path, how):
    whole, _ = script(tmp_path / "whole", how)
    with pytest.raises(Cut):
        script(tmp_path / "cut", how, fail(2, 1))
    resumed, (steps, _) = script(tmp_path / "cut", how)
    assert steps == 2 * PER_EPOCH
    assert resumed == whole


@pytest.mark.parametrize(("epoch", "batch"), [(1, 2), (1, "end"), (3, PER_EPOCH - 1)])
def test_a_signal_ends_the_loop_after_the_batch_and_the_rerun_is_exact(tmp_path, epoch, batch):
    whole, _ = script(tmp_path / "whole", "torch generator")
    before = signal.getsignal(signal.SIGTERM)
    cut, signals = terminate(epoch, batch), ("SIGTERM",)
    first, (steps, run) = script(tmp_path / "cut", "torch generator", cut, signals=signals)
    assert signal.getsignal(signal.SIGTERM) == before
    done = epoch + (batch == "end")
    assert steps == (done * PER_EPOCH if batch == "end" else epoch * PER_EPOCH + batch + 1)
    assert len(first["history"]["loss"]) == done
    assert run.backup.stop_reason.kind == "signal"
    resumed, (more, run) = script(tmp_path / "cut", "torch generator", signals=signals)
    assert steps + more == EPOCHS * PER_EPOCH
    assert run.backup.stop_reason is None
    assert resumed == whole


def test_a_signal_leaves_the_process_with_the_exit_code(tmp_path):
    with pytest.raises(SystemExit) as left:
        script(tmp_path, "torch", terminate(1, 2), signals=("SIGTERM",), exit_code=75)
    assert left.value.code == 75
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize("how", ["torch generator", "keras"])
def test_a_finished_loop_is_not_repeated(tmp_path, how):
    first, _ = script(tmp_path, how)
    again, (steps, _) = script(tmp_path, how)
    assert steps == 0
    assert again == first


def test_a_loop_that_was_stopped_early_is_not_repeated(tmp_path):
    def stopped():
        resuming.scramble()
        keras.utils.set_random_seed(7)
        model, optimizer, loader = build("torch")
        stopping = keras_ratchet.EarlyStopping(monitor="val_loss", patience=1)
        with keras_ratchet.Run(
            tmp_path, model, optimizer=optimizer, callbacks=[stopping], delete_checkpoint=False
        ) as run:
            for epoch in run.epochs(9):
                for x, y in run.batches(loader):
                    run.log(loss=step(model, optimizer, x, y))
                run.log(val_loss=[3.0, 1.0, 2.0][epoch])
        return run.history, stopping.stopped_epoch, [v.tobytes() for v in values(model.variables)]

    first = stopped()
    assert len(first[0]["loss"]) == 3
    assert stopped() == first


def test_by_default_a_finished_loop_leaves_nothing(tmp_path):
    script(tmp_path, "torch", delete_checkpoint=True)
    assert not (tmp_path / "run").exists()


def test_a_loop_that_is_left_by_break_gives_everything_back(tmp_path):
    keras.utils.set_random_seed(7)
    before = signal.getsignal(signal.SIGTERM)
    model, optimizer, loader = build("torch")
    stopping = keras_ratchet.EarlyStopping(patience=9, restore_best_weights=True)
    signals = ("SIGTERM",)
    with keras_ratchet.Run(
        tmp_path, model, optimizer=optimizer, callbacks=[stopping], signals=signals
    ) as run:
        for epoch in run.epochs(EPOCHS):
            for x, y in run.batches(loader):
                run.log(loss=step(model, optimizer, x, y))
            run.log(val_loss=float(epoch))
            if epoch == 2:
                break
    assert signal.getsignal(signal.SIGTERM) == before
    assert stopping.best_weights is None, "the last work is done"
    assert len(run.history["loss"]) == 2


def test_a_generator_that_the_run_does_not_know_is_warned_about(tmp_path):
    with pytest.warns(UserWarning, match=r"will not be exact.*data=") as caught:
        script(tmp_path, "torch generator", data=None)
    assert sum("will not be exact" in str(w.message) for w in caught) == 1


def numbered(directory, cut=lambda batch: None, **arguments):
    """Run a loop over numbered rows; return them as they were drawn."""
    model, optimizer, _ = build("torch")
    rows = keras_ratchet.data.ResumableDataset(np.arange(20), batch_size=4, seed=3)
    arguments = {"data": rows, "save_freq": 2, "delete_checkpoint": False, **arguments}
    seen = []
    with keras_ratchet.Run(directory, model, optimizer=optimizer, **arguments) as run:
        for _ in run.epochs(3):
            for (batch,) in run.batches(rows):
                seen.append(batch.tolist())
                cut(len(seen))
    return seen


def test_a_resumable_dataset_goes_on_in_its_epoch(tmp_path):
    def cut(batches):
        if batches == 8:  # in the second epoch, of which two batches are saved
            raise Cut

    whole = numbered(tmp_path / "whole")
    with pytest.raises(Cut):
        numbered(tmp_path / "cut", cut)
    rest = numbered(tmp_path / "cut")
    assert rest == whole[-len(rest) :] and 5 < len(rest) < 15


def test_data_with_a_state_that_the_run_does_not_know_is_warned_about(tmp_path):
    with pytest.warns(UserWarning, match=r"ResumableDataset has a state of its own.*data="):
        numbered(tmp_path, data=None)


def test_batches_outside_epochs_are_refused(tmp_path):
    model, optimizer, loader = build("torch")
    run = keras_ratchet.Run(tmp_path, model, optimizer=optimizer)
    with pytest.raises(ConfigError, match="inside"):
        next(iter(run.batches(loader)))
    with run:
        for _ in run.epochs(1):
            for x, y in run.batches(loader):
                run.log(loss=step(model, optimizer, x, y))
    with pytest.raises(ConfigError, match="inside"):
        next(iter(run.batches(loader)))


def test_what_cannot_work_is_refused_at_once(tmp_path):
    model, optimizer, _ = build("torch")
    with pytest.raises(ConfigError, match="optimizer"):
        keras_ratchet.Run(tmp_path, model, optimizer="adam")
    with pytest.raises(ConfigError, match="callbacks"):
        backup = keras_ratchet.BackupAndRestore(tmp_path)
        keras_ratchet.Run(tmp_path, model, optimizer=optimizer, callbacks=[backup])
    with pytest.raises(ConfigError, match="built"):
        keras_ratchet.Run(
            tmp_path,
            keras.Sequential([keras.layers.Dense(1)]),
            optimizer=keras.optimizers.Adam(),
        )
    with pytest.raises(ConfigError, match="keep"):
        keras_ratchet.Run(tmp_path, model, optimizer=optimizer, keep=0)
    with pytest.raises(TypeError, match="no_such"):
        keras_ratchet.Run(tmp_path, model, no_such=1)


@pytest.mark.parametrize("cut", [2, 5, 8, 11])
@pytest.mark.parametrize("zeroes", ["after the step", "before the first batch of a step"])
def test_gradients_that_wait_for_a_step_are_in_the_snapshot(tmp_path, cut, zeroes):
    def train(directory, cut=None):
        keras.backend.clear_session()  # names decide the order of a model's parameters
        keras.utils.set_random_seed(5)
        model, optimizer, loader = build("")
        done = 0
        with keras_ratchet.Run(directory, model, optimizer=optimizer, save_freq=1) as run:
            for _ in run.epochs(3):
                for x, y in run.batches(loader):
                    position = run.backup._session._done  # batches of this epoch
                    if zeroes.startswith("before") and position % 3 == 0:
                        optimizer.zero_grad()
                    torch.nn.functional.mse_loss(model(x, training=True), y).backward()
                    if position % 3 == 2:  # 5 batches an epoch: two wait over its end
                        optimizer.step()
                        if zeroes.startswith("after"):
                            optimizer.zero_grad()
                    done += 1
                    if done == cut:
                        raise Cut
        return values(model.variables), [p.grad is None for p in model.parameters()]

    straight = train(tmp_path / "straight")
    with pytest.raises(Cut):
        train(tmp_path / "cut", cut)
    resumed = train(tmp_path / "cut")
    assert straight[1] == resumed[1]
    for one, other in zip(straight[0], resumed[0], strict=True):
        np.testing.assert_array_equal(one, other)


def test_gradients_of_a_batch_that_made_a_step_are_not_saved(tmp_path):
    model, optimizer, loader = build("")
    held = []
    with keras_ratchet.Run(tmp_path, model, optimizer=optimizer, save_freq=1) as run:
        for _ in run.epochs(1):
            for x, y in run.batches(loader):
                optimizer.zero_grad()
                torch.nn.functional.mse_loss(model(x, training=True), y).backward()
                optimizer.step()
                held.append("gradients" in run.backup._session.resumer.optimizer.state())
    assert held == [False] * PER_EPOCH


@pytest.mark.parametrize("waits", [False, True])
def test_an_optimizer_finds_its_state_where_the_names_of_layers_come_in_another_order(
    tmp_path, waits
):
    def train(directory, layers_before, cut=None):
        keras.backend.clear_session()
        for _ in range(layers_before):
            keras.layers.Dense(1)
        keras.utils.set_random_seed(5)
        x, y = map(torch.tensor, arrays(ROWS))
        layers = [keras.layers.Dense(4, activation="tanh") for _ in range(12)]
        model = keras.Sequential([keras.Input((4,)), *layers, keras.layers.Dense(1)])
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        with keras_ratchet.Run(directory, model, optimizer=optimizer, save_freq=1) as run:
            for _ in run.epochs(1):
                for i in run.batches(range(9)):
                    torch.nn.functional.mse_loss(model(x[i : i + 8]), y[i : i + 8]).backward()
                    if not waits or i % 3 == 2:
                        optimizer.step()
                        optimizer.zero_grad()
                    if i == cut:
                        raise Cut
        return values(model.variables), [name for name, _ in model.named_parameters()]

    straight, _ = train(tmp_path / "straight", 0)
    with pytest.raises(Cut):
        train(tmp_path / "cut", 0, cut=5 if not waits else 4)
    resumed, _ = train(tmp_path / "cut", 15)
    for one, other in zip(straight, resumed, strict=True):
        np.testing.assert_array_equal(one, other)
