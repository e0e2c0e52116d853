"""Shared by the other examples: what saves cost, and whether two runs ended with the same bits."""

import argparse
import hashlib
import json
import shutil
import statistics
import subprocess
import sys

import keras
from interrupt import resumes_in, run_until_killed
from tables import print_table

TWIN = "uninterrupted.json"  # how the child ended that nobody has killed


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


def parse(description, small):
    """Return the arguments of the script; `small` says what `--small` does."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--interrupt", action="store_true", help="kill a child in mid-epoch first")
    parser.add_argument("--small", action="store_true", help=small)
    parser.add_argument("--child", choices=["killed", "twin"], help="be one of the two children")
    return parser.parse_args()


def trains_as_child(arguments, train, run, kill):
    """Train, if this process is one of the two children; return whether it is.

    Args:
        arguments: Those of the script.
        train: Trains in a directory with more callbacks, and returns the final state last.
        run: The directory.
        kill: The callback that kills the child which is to be killed.
    """
    if arguments.child == "killed":
        train(run, kill)
    elif arguments.child == "twin":
        *_, state = train(run / "twin")
        (run / TWIN).write_text(json.dumps(state))
    return arguments.child is not None


def start_of(script, arguments, run):
    """Have a child killed first, if that is wanted; return where this process starts."""
    if arguments.interrupt or not resumes_in(run / "backup"):
        shutil.rmtree(run, ignore_errors=True)
    if arguments.interrupt:
        run_until_killed(script, *_child("killed", arguments))
    return resumes_in(run / "backup") or "epoch 1, nothing to resume"


def compare_with_twin(script, arguments, run, state):
    """Run a script without interruption in a child, and compare how it ends with a state.

    Args:
        script: The script.
        arguments: Its arguments.
        run: The directory of the run that was interrupted.
        state: How that run ended.
    """
    subprocess.run([sys.executable, script, *_child("twin", arguments)], check=True)
    twin = json.loads((run / TWIN).read_text())
    if {part: len(v) for part, v in state.items()} != {part: len(v) for part, v in twin.items()}:
        raise SystemExit("The two runs ended with different numbers of values.")
    rows = [
        (part, len(values), sum(a != b for a, b in zip(values, twin[part], strict=True)))
        for part, values in state.items()
    ]
    print_table(
        "Killed and resumed, compared with uninterrupted", [("", "compared", "different"), *rows]
    )
    if any(different for *_, different in rows):
        raise SystemExit("The resumed run differs from the uninterrupted one.")
    print("The run that was killed ended with the same bits as one that was not.")


def _child(which, arguments):
    return ["--child", which, *(["--small"] if arguments.small else [])]
