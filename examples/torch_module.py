"""A PyTorch network in `fit`: a residual network of `torch.nn` in a `TorchModuleWrapper`.

Keras knows a module's parameters, but not its buffers: the running statistics of BatchNorm2d,
which training changes and validation uses. Saved, restored as the best weights, and resumed, they
are here what they were, bit for bit; the last lines of the table say how many there are. Real data:
the scanned digits of scikit-learn. The module is PyTorch's, so this runs on that backend only.

    python examples/torch_module.py               # run it, kill it, run it again: it resumes
    python examples/torch_module.py --interrupt   # a child process is killed, this one resumes;
                                                  # then the same without interruption, compared
    python examples/torch_module.py --small       # a narrower network
"""

import os

os.environ.setdefault("KERAS_BACKEND", "torch")

from pathlib import Path

import keras
import torch
from digits import load_data
from interrupt import KillAt
from tables import print_table
from torch import nn
from twins import (
    KeepJournal,
    compare_with_twin,
    cost,
    final_state,
    journal_of,
    megabytes,
    parse,
    saves,
    start_of,
    trains_as_child,
)

import keras_ratchet

RUN = Path("runs/torch_module")
EPOCHS, BATCH, PATIENCE = 8, 32, 3
KILL = KillAt(epoch=2, batch=20)
COPY = "backup.jsonl"


class Block(nn.Module):
    """Two convolutions with batch normalization, beside which the input goes on.

    Args:
        inputs: Channels that come in.
        outputs: Channels that go out.
        stride: 2 to halve the image.
    """

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut = nn.Sequential(
            nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
        )

    def forward(self, x):
        """Return the next features."""
        return torch.relu(self.branch(x) + self.shortcut(x))


def build_module(width):
    """Return a residual network over images of 8 x 8 pixels."""
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        Block(width, width, 1),
        Block(width, 2 * width, 2),
        Block(2 * width, 4 * width, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(4 * width, 10),
    )


def build_model(small):
    """Return the module as a Keras model, compiled, and the module."""
    keras.utils.set_random_seed(1)
    module = build_module(16 if small else 64)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Permute((3, 1, 2)),  # PyTorch's order: channels first
            keras.layers.TorchModuleWrapper(module, output_shape=(None, 10)),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss, metrics=["accuracy"])
    return model, module


def train(run, small, *more_callbacks):
    """Train, or resume training; return the model, its module, the stopper and the final state."""
    model, module = build_model(small)
    training, validation, _ = load_data()
    stopper = keras_ratchet.EarlyStopping(patience=PATIENCE, restore_best_weights=True)
    files = keras_ratchet.ModelCheckpoint(
        run / "epoch-{epoch:02d}-{val_loss:.3f}.weights.h5", save_weights_only=True, keep_best=2
    )
    backup = keras_ratchet.BackupAndRestore(run / "backup", save_freq=10)
    journal = KeepJournal(run / "backup", run / COPY)
    history = model.fit(
        *training,
        validation_data=validation,
        epochs=EPOCHS,
        batch_size=BATCH,
        verbose=0,
        callbacks=[backup, stopper, files, journal, *more_callbacks],
    )
    state = final_state(
        parameters_of_the_module=list(module.parameters()),
        buffers_of_the_module=list(module.buffers()),
        variables_of_the_optimizer=model.optimizer.variables,
        history=list(history.history.items()),
    )
    return model, module, stopper, state


def same_state(one, other):
    """Return whether two modules hold the same parameters and buffers, bit for bit."""
    one, other = one.state_dict(), other.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def main():
    arguments = parse(__doc__.splitlines()[0], small="a narrow network, for a quick look")
    if keras.backend.backend() != "torch":
        raise SystemExit("A torch.nn.Module trains on PyTorch only: KERAS_BACKEND=torch.")

    def train_in(run, *more_callbacks):
        return train(run, arguments.small, *more_callbacks)

    if trains_as_child(arguments, train_in, RUN, KILL):
        return
    start = start_of(__file__, arguments, RUN)

    model, module, stopper, state = train_in(RUN)
    *_, test = load_data()
    _, accuracy = model.evaluate(*test, verbose=0)
    again, module_again = build_model(arguments.small)
    best = min(keras_ratchet.checkpoints(RUN), key=lambda info: info.metrics["val_loss"])
    again.optimizer.build(again.trainable_variables)  # the file has its state too
    keras_ratchet.load_weights(again, best.path)
    snapshots, files = saves(RUN / COPY), saves(journal_of(RUN))
    statistics = [b for n, b in module.named_buffers() if "running" in n]

    print_table(
        "A torch.nn.Module in fit",
        [
            ("module", f"{sum(p.numel() for p in module.parameters()):,} weights"),
            ("this process started in", start),
            ("epochs run", f"{stopper.stopped_epoch + 1 if stopper.stop_reason else EPOCHS}"),
            ("why it ended", str(stopper.stop_reason or "all epochs were run")),
            ("best epoch, restored", f"{stopper.best_epoch + 1}"),
            ("test accuracy", f"{accuracy:.3f}"),
            ("snapshots", f"{len(snapshots)} of {megabytes(snapshots[-1]['bytes'])} each"),
            ("training waited for a snapshot", cost(snapshots)),
            ("files", f"{len(files)} of {megabytes(files[-1]['bytes'])}"),
            ("training waited for a file", cost(files)),
            ("running statistics", f"{len(statistics)} buffers"),
            ("batches that these have seen", f"{int(module[1].num_batches_tracked)}"),
        ],
    )
    if not same_state(module, module_again):
        raise SystemExit("The module in memory and the best file differ.")
    print("The module in memory and the best file are the same, buffers too.")
    if arguments.interrupt:
        compare_with_twin(__file__, arguments, RUN, state)


if __name__ == "__main__":
    main()
