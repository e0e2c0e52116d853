"""docs/write-order.md, the docstrings and the code say the same."""

import re
from pathlib import Path

import pytest
from support import scenarios

from keras_ratchet._storage import journal, single_file, snapshot_directory
from keras_ratchet._storage.manifest import Manifest
from keras_ratchet.cli import history

DOCS = Path(__file__).parent.parent.parent / "docs"


def steps(text):
    """Return the numbered lists of a text, each as a list of steps."""
    found = re.findall(r"(?:^\d\. .*(?:\n  +\S.*)*\n?)+", text, re.MULTILINE)
    return [[" ".join(step.split()) for step in re.split(r"^\d\. ", f, flags=re.M)] for f in found]


@pytest.mark.parametrize("module", [single_file, snapshot_directory], ids=["files", "local"])
def test_the_page_and_the_docstring_list_the_same_steps(module):
    [ours] = steps(module.__doc__)
    assert len(ours) > 4
    assert ours in steps((DOCS / "write-order.md").read_text())


def calls(scenario, directory):
    """Return the calls of a scenario without those to write, with tokens and digests cut out."""
    run = scenarios.Run(scenario, directory).go()
    assert run.violations == []
    names = [(v, re.sub(r"[0-9a-f]{32}", "DIGEST", name)) for v, name in run.disk.calls]
    return [
        f"{verb} {re.sub(r'-[0-9a-f]{8}-', '-', name)}"
        for verb, name in names
        if verb not in ("write", "truncate")
    ]


def test_a_file_is_saved_in_this_order(quick_path):
    once = [
        "open .draft-best.keras",
        "open best.keras.DIGEST.json",
        "sync .draft-best.keras",
        "sync best.keras.DIGEST.json",
        "sync_directory .ratchet",
        "replace best.keras",
        "sync_directory checkpoints",
        "unlink best.keras.DIGEST.json",
    ]
    assert calls(scenarios.SaveOver(), quick_path) == once * 2


def test_the_same_bytes_are_saved_again_in_this_order(quick_path):
    assert calls(scenarios.SaveSameBytes(), quick_path) == [
        "open .draft-best.keras",
        "open best.keras.DIGEST.json",  # it is there
        "open .draft-best.keras.DIGEST.json",
        "sync .draft-best.keras.DIGEST.json",
        "replace best.keras.DIGEST.json",
        "sync_directory .ratchet",
        "sync .draft-best.keras",
        "replace best.keras",
        "sync_directory checkpoints",
    ]


def test_a_file_is_deleted_in_this_order(quick_path):
    assert calls(scenarios.Delete(), quick_path) == [
        "rename ckpt-2.keras",
        "sync_directory checkpoints",
        "unlink .trash-ckpt-2.keras",
        "unlink ckpt-2.keras.DIGEST.json",
        "unlink ckpt-2.keras.pin",
        "sync_directory .ratchet",
    ]


def test_a_snapshot_is_committed_in_this_order(quick_path):
    assert calls(scenarios.SnapshotCommit(), quick_path) == [
        "mkdir .draft-step-2",
        "open state.bin",
        "open state.json",
        "open manifest.json",
        "sync state.bin",
        "sync manifest.json",
        "sync state.json",
        "sync_directory .draft-step-2",
        "rename .draft-step-2",
        "sync_directory checkpoints",
    ]


def test_a_snapshot_is_deleted_in_this_order(quick_path):
    order = calls(scenarios.SnapshotDelete(), quick_path)
    assert order[:2] == ["rename step-1", "sync_directory checkpoints"]
    assert sorted(order[2:4]) == ["unlink state.bin", "unlink state.json"]
    assert order[4:7] == [
        "sync_directory .trash-step-1",
        "unlink manifest.json",
        "rmdir .trash-step-1",
    ]


def test_every_member_of_the_manifest_is_documented():
    page = (DOCS / "formats.md").read_text()
    text = Manifest(files={}).to_bytes().decode()
    for member in re.findall(r'^ "(\w+)"', text, re.MULTILINE):
        assert f"| `{member}` |" in page, member


def test_every_event_of_the_journal_is_documented():
    page = (DOCS / "formats.md").read_text()
    package = Path(journal.__file__).parent.parent
    code = "\n".join(path.read_text() for path in package.rglob("*.py"))
    events = set(re.findall(r'\b(?:_?note|journal\.append)\(\s*(?:[\w.]+,\s*)?"(\w+)"', code))
    assert {"save", "drop", "begin", "end", "rollback", "reduce_lr", "average", "soup"} <= events
    for event in events:
        assert f"| `{event}` |" in page, event
    assert set(re.findall(r"^\| `(\w+)` \|", page.split("## Journal")[1], re.MULTILINE)) == events


def test_every_event_of_the_journal_has_a_colour_and_a_sentence():
    page = (DOCS / "formats.md").read_text().split("## Journal")[1]
    rows = dict(re.findall(r"^\| `(\w+)` \|(.*)", page, re.MULTILINE))
    assert rows.keys() == history._COLORS.keys()
    for kind, members in rows.items():
        event = {name: "why" for name in re.findall(r"`(\w+)`", members)}
        if "metrics" in event:
            event["metrics"] = {"loss": 1.0}
        assert history.sentence({**event, "event": kind}), kind
