"""Shared by the other examples: one line on the terminal that says how far training is."""

import sys

import keras


class ProgressLine(keras.callbacks.Callback):
    """Keeps one line up to date after each epoch; where output is no terminal, it prints nothing.

    Args:
        what: What is being done, for people.
        epochs: How many epochs there are at most.
    """

    def __init__(self, what, epochs):
        super().__init__()
        self.what, self.epochs = what, epochs

    def on_train_begin(self, logs=None):
        """Show the line."""
        self._show("...")

    def on_epoch_end(self, epoch, logs=None):
        """Show the epoch and the metric."""
        self._show(f"epoch {epoch + 1} of {self.epochs}, val_loss {logs['val_loss']:.4f}")

    def on_train_end(self, logs=None):
        """Clear the line."""
        self._show(None)

    def _show(self, state):
        if sys.stdout.isatty():
            line = "" if state is None else f"{self.what}: {state}"
            print(f"\r\033[K{line}", end="", flush=True)
