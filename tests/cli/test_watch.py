"""`ratchet watch`: what a run does, on a terminal and without one."""

import importlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time

import pytest
from support.checkpoints import SERIES, Holder, facts, note, save, strict_json

from keras_ratchet._json import plain
from keras_ratchet.cli import _watch_text
from keras_ratchet.cli._view import Watcher

watch = importlib.import_module("keras_ratchet.cli.watch")
START = 1_700_000_000.0
LOSSES = (0.9, 0.5, float("nan"), 0.7)


def epoch(number, **metrics):
    at = {"time": START + 10 * number}
    return {"event": "epoch", "series": SERIES, "epoch": number, "metrics": metrics, **at}


def tell(directory, *events):
    """Write a journal with times of our own."""
    metadata = directory / ".ratchet"
    metadata.mkdir(parents=True, exist_ok=True)
    with open(metadata / "journal.jsonl", "a") as file:
        file.writelines(json.dumps(event) + "\n" for event in events)


@pytest.fixture
def run(tmp_path):
    """Four of ten epochs; the second was best; the third is NaN."""
    directory = tmp_path / "run"
    directory.mkdir()
    tell(directory, {"event": "begin", "series": SERIES, "epochs": 10, "time": START})
    for number, loss in enumerate(LOSSES, 1):
        tell(directory, epoch(number, **plain({"val_loss": loss, "loss": loss / 2})))
        save(directory, f"epoch-{number:02d}.keras", facts(number, val_loss=loss))
    event = {"event": "save", "series": SERIES, "name": "epoch-04.keras", "epoch": 4}
    tell(
        directory, event | {"written_s": 2.0, "blocked_s": 0.25, "bytes": 1900, "time": START + 41}
    )
    return directory


def view(directory):
    watcher = Watcher(str(directory))
    watcher.new_events()
    return watcher.view()


def test_a_frame_has_what_is_known_and_nothing_else(ratchet, run):
    (run / ".draft-01234567-epoch-05.keras").write_bytes(b"x" * 5000)
    with Holder(run) as pid:
        shown = ratchet("watch", run, "--once").stdout
    assert f"training, process {pid} on" in shown
    assert "epoch 4 of 10 done, 10 s each, the last one ends in" in shown
    assert "val_loss 0.5 after epoch 2, epoch-02.keras; best 2 epochs ago" in shown
    assert "epoch-04.keras," in shown and "took 2 s (training waited 250 ms)" in shown
    assert "epoch-05.keras, 5.0 kB so far" in shown
    assert re.search(r"val_loss +█▁x▄ +0\.7\n", shown)
    assert shown.index("val_loss  ") < shown.index("  loss  ")  # what ranks comes first


def test_json_is_the_same_as_data(ratchet, run):
    data = ratchet.json("watch", run, "--once")
    assert (data["epoch"], data["epochs"], data["epoch_s"]) == (4, 10, 10.0)
    assert (data["metric"], data["best"]["name"], data["since_best"]) == (
        "val_loss",
        "epoch-02.keras",
        2,
    )
    assert data["last"]["name"] == "epoch-04.keras" and data["event"]["event"] == "save"


@pytest.mark.parametrize(
    ("events", "state", "why"),
    [
        ([{"event": "end", "series": SERIES, "reason": "training ended"}], "ended", "training"),
        (
            [
                {"event": "stop", "series": SERIES, "reason": "val_loss has not improved"},
                {"event": "end", "series": SERIES, "reason": "training ended"},
            ],
            "ended",
            "training",
        ),
        ([{"event": "preempted", "reason": "SIGTERM"}], "interrupted", "SIGTERM"),
        (
            [{"event": "end", "series": SERIES, "reason": "training ended with OSError"}],
            "interrupted",
            "OSError",
        ),
    ],
)
def test_the_state_says_how_a_run_ended(events, state, why, run):
    tell(run, *events)
    seen = view(run)
    assert seen.state == state and why in seen.why and seen.eta_s is None


def test_a_run_that_was_killed_is_told_from_one_that_lives(run):
    with Holder(run):
        seen = view(run)
        assert seen.state == "training" and seen.eta_s == 0.0  # the journal is years old
        lock = next((run / ".ratchet").glob("*.lock"))
        text = lock.read_bytes()
    lock.write_bytes(text)
    assert view(run).state == "killed"


def test_a_directory_that_is_not_there_yet_is_waited_for(ratchet, tmp_path):
    assert "waiting" in ratchet("watch", tmp_path / "later", "--once").stdout


def test_a_resumed_run_counts_its_pace_anew_and_keeps_its_curve(run):
    tell(run, {"event": "begin", "series": SERIES, "epochs": 10, "time": START + 9999})
    assert view(run).epoch_s is None and view(run).epoch == 4
    late = [epoch(5, val_loss=0.6), epoch(6, val_loss=0.6)]
    tell(run, *({**e, "time": START + 10_000 + 3 * e["epoch"]} for e in late))
    seen = view(run)
    assert (seen.epoch, seen.epoch_s) == (6, 3.0) and len(seen.history.metrics) == 6


def test_without_a_terminal_each_event_is_a_line_and_the_end_ends_it(run):
    command = [sys.executable, "-m", "keras_ratchet", "watch", str(run)]
    command += ["--until-end", "--every", "0.05"]
    with Holder(run):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        head = process.stdout.readline()
        while "save    " not in process.stdout.readline():
            pass
        note(run, {"event": "drop", "name": "a\x1b[2J.keras", "reason": "no rule keeps it"})
        assert "a?[2J.keras" in process.stdout.readline()
        note(run, {"event": "end", "series": SERIES, "reason": "training ended"})
        assert "training ended" in process.stdout.readline()
    rest, _ = process.communicate(timeout=60)
    assert head == f"{run}\n" and "\x1b" not in rest and "ended" in rest
    assert process.returncode == 0


def test_json_lines_are_printed_for_changes_only(run):
    command = [sys.executable, "-m", "keras_ratchet", "watch", str(run), "--json"]
    process = subprocess.Popen([*command, "--every", "0.05"], stdout=subprocess.PIPE, text=True)
    assert strict_json(process.stdout.readline())["epoch"] == 4
    assert not select.select([process.stdout], [], [], 0.3)[0]
    tell(run, epoch(5, val_loss=0.4))
    assert strict_json(process.stdout.readline())["epoch"] == 5
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 0


def on_terminal(run, *options, term="xterm"):
    """Return what the command writes to a terminal of 100 columns; it is interrupted by Ctrl-C."""
    master, slave = pty.openpty()
    env = {**os.environ, "TERM": term, "COLUMNS": "100", "LINES": "30"}
    command = [sys.executable, "-m", "keras_ratchet", "watch", str(run), *options]
    process = subprocess.Popen(command, stdout=slave, stderr=slave, env=env, start_new_session=True)
    os.close(slave)
    shown, until = b"", time.monotonic() + 60
    while b"val_loss" not in shown and time.monotonic() < until:
        shown += os.read(master, 1 << 16) if select.select([master], [], [], 0.1)[0] else b""
    process.send_signal(signal.SIGINT)
    while True:
        try:
            data = os.read(master, 1 << 16)
        except OSError:  # how Linux says that nobody has it open any more
            break
        if not data:
            break
        shown += data
    assert process.wait(60) == 0
    os.close(master)
    return shown.decode()


def test_on_a_terminal_the_view_is_drawn_and_the_screen_is_given_back(run):
    shown = on_terminal(run, "--every", "0.1")
    assert "\x1b[?1049h" in shown and "\x1b[?1049l" in shown
    last = shown[shown.index("\x1b[?1049l") :]
    assert "epoch-02.keras" in last and "█" in last


def test_a_dumb_terminal_gets_no_control_characters(run):
    assert "\x1b" not in on_terminal(run, term="dumb")


def test_without_rich_the_view_is_plain_and_the_extra_is_named(run, ratchet, monkeypatch):
    monkeypatch.setitem(sys.modules, "rich", None)
    monkeypatch.setattr(watch, "_is_terminal", lambda: True)
    result = ratchet("watch", run, "--once")
    assert "keras-ratchet[watch]" in result.stderr and "█▁x▄" in result.stdout


def test_names_of_strangers_are_cleaned_in_the_drawn_view_too(run):
    from rich.console import Console

    from keras_ratchet.cli._watch_rich import frame

    (run / ".draft-01234567-b[red]\x1b[2J.keras").write_bytes(b"")
    tell(
        run, {"event": "drop", "name": "[bold]\x1b]0;x\x07", "reason": "[/nonsense]", "time": 1e300}
    )
    tell(run, epoch(5, **{"\x1b[2J": 1.0, "[red]": 2.0}))
    with open(os.devnull, "w") as nowhere:
        console = Console(record=True, width=100, file=nowhere)
        console.print(frame(view(run), 100, 30))
    text = console.export_text(styles=False)
    assert "\x1b" not in text and "\x07" not in text
    assert "b[red]?[2J.keras" in text and "[/nonsense]" in text and "[bold]" in text


def test_nonsense_in_a_journal_is_survived(run, ratchet):
    tell(
        run,
        {"event": "begin", "epochs": "many", "time": "now"},
        {"event": "epoch", "epoch": 1e400, "metrics": [1], "time": None},
        {"event": "epoch", "epoch": 5, "metrics": {"val_loss": 10**400}, "time": 1e400},
        {"event": "save", "name": 3, "written_s": "x", "bytes": -1, "epoch": [1]},
        {"event": "end", "reason": {"a": 1}},
    )
    assert "val_loss" in ratchet("watch", run, "--once").stdout
    ratchet.json("watch", run, "--once")


def test_curves_fit_their_room():
    assert _watch_text.sparkline([float(v) for v in range(100)], 8) == "▁▂▃▄▅▆▇█"
    assert _watch_text.sparkline([1.0, 1.0], 8) == "▁▁"
    assert _watch_text.sparkline([], 8) == ""
    assert _watch_text.sparkline([float("nan"), float("inf")], 8) == "xx"
