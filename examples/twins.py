"""Shared by the other examples: what saves cost, and whether two runs ended with the same bits."""

import hashlib
import json
import shutil
import statistics
import subprocess
import sys

import keras


class KeepJournal(keras.callbacks.Callback):
    """Copies the journal of a directory of snapshots, which are deleted when training has ended.

    Args:
        directory: The directory.
        copy: The path of the copy.
    """

    def __init__(self, directory, copy):
        super().__init__()
        self.journal, self.copy = journal_of(directory), copy

    def on_epoch_end(self, epoch, logs=None):
        """Copy it as it is now."""
        shutil.copy(self.journal, self.copy)


def journal_of(directory):
    """Return the path of the journal in which a directory's saves are recorded."""
    return directory / ".ratchet" / "journal.jsonl"


def saves(journal):
    """Return the saves that a journal records, oldest first."""
    events = map(json.loads, journal.read_text().splitlines())
    return [event for event in events if event["event"] == "save"]


def megabytes(size):
    """Return a size in bytes for people."""
    return f"{size / 1e6:.1f} MB"


def written(events):
    """Return what each save has written: a snapshot shares with older ones what has not changed."""
    return [event["bytes"] - event.get("reused_bytes", 0) for event in events]


def cost(events):
    """Return for how long training waited for these saves."""
    waits = [event["blocked_s"] * 1000 for event in events]
    return f"{statistics.median(waits):.0f} ms (median), {max(waits):.0f} ms (longest)"


def final_state(**parts):
    """Return digests of what a run ended with.

    Args:
        **parts: Lists of arrays, tensors or variables, or other plain data (a History), by what
            they are.
    """
    return {part.replace("_", " "): list(map(_digest, values)) for part, values in parts.items()}


def _digest(value):
    if isinstance(value, tuple):  # a name and plain data
        data = json.dumps(value).encode()
    else:
        array = keras.ops.convert_to_numpy(value)
        data = f"{array.dtype} {array.shape}".encode() + array.tobytes()
    return hashlib.sha256(data).hexdigest()[:16]


def compare_with_twin(script, state, path, *arguments):
    """Run a script without interruption in a child, and compare how it ends with a state.

    Args:
        script: The script.
        state: How the run ended that was interrupted.
        path: Where the child writes how it has ended.
        *arguments: What tells the child to do that.

    Returns:
        For each part, a row with its name, how many values it has, and how many of them differ.
    """
    subprocess.run([sys.executable, script, *arguments], check=True)
    twin = json.loads(path.read_text())
    if {part: len(v) for part, v in state.items()} != {part: len(v) for part, v in twin.items()}:
        raise SystemExit("The two runs ended with different numbers of values.")
    return [
        (part, len(values), sum(a != b for a, b in zip(values, twin[part], strict=True)))
        for part, values in state.items()
    ]
