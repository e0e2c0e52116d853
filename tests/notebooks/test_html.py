"""What notebooks show of our records: whole, escaped, in the colors of the page."""

import math
import pickle
from html.parser import HTMLParser

import pytest

import keras_ratchet
from keras_ratchet.types import AverageRecord, AverageTrial, CheckpointInfo, Position, StopReason

EVIL = "<script>alert('&')</script>"
ALLOWED = {"table", "caption", "thead", "tbody", "tr", "th", "td", "b"}


class Page(HTMLParser):
    """Reads a page, and refuses what is not closed, or not ours."""

    def __init__(self, text):
        super().__init__()
        self.open, self.rows = [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        assert tag in ALLOWED
        styles = {("style", "text-align: left"), ("style", "white-space: nowrap")}
        assert set(attrs) <= styles  # colors and sizes are the page's
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data

    @property
    def facts(self):
        return dict(self.rows)

    @property
    def columns(self):
        """The cells by the name of their column, row by row."""
        names, *rows = self.rows
        return [dict(zip(names, row, strict=True)) for row in rows]


def info(name="a.keras", **fields):
    known = {
        "has_manifest": True,
        "position": Position(3, 0, 30),
        "metrics": {"loss": 0.5, "val_loss": 0.25},
        "ranking": (("val_loss", "min"),),
        "reason": "val_loss improved",
        "saved_at": 1e9,
        "size_bytes": 1_500_000,
    }
    return CheckpointInfo(name, f"/data/{name}", **{**known, **fields})


def evil_things():
    metrics = {EVIL: math.nan}
    bad = info(EVIL, metrics=metrics, reason=EVIL, ranking=((EVIL, "min"),))
    trial = AverageTrial((EVIL,), math.nan, False, EVIL)
    return {
        "checkpoint": bad,
        "list": as_list(bad),
        "stop": StopReason(EVIL, EVIL, metrics, 0),
        "average": AverageRecord("soup", EVIL, 1.0, 1.0, (EVIL,), (0,), (trial,), EVIL),
    }


def as_list(*infos):
    from keras_ratchet._storage.checkpoint_list import CheckpointList

    return CheckpointList(infos)


@pytest.mark.parametrize("name", evil_things())
def test_markup_in_names_reasons_and_metrics_is_shown_as_text(name):
    text = evil_things()[name]._repr_html_()
    assert "<script" not in text
    page = Page(text)
    assert any(EVIL in cell for row in page.rows for cell in row)
    with pytest.raises(AssertionError):
        Page(text.replace("&lt;", "<").replace("&gt;", ">"))


def test_a_checkpoint_is_shown_with_what_is_known():
    facts = Page(info(pinned=True)._repr_html_()).facts
    assert facts["path"] == "/data/a.keras"
    assert (facts["epochs done"], facts["step"]) == ("3", "30")
    assert facts["metrics"] == "loss 0.5, val_loss 0.25"
    assert (facts["size"], facts["pinned"]) == ("1.500 MB", "yes")
    assert facts["saved"].startswith("2001-09-0")
    assert "batches of the next" not in facts


def test_a_path_below_the_working_directory_is_relative(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    here = CheckpointInfo("a.keras", str(tmp_path / "run" / "a.keras"))
    assert Page(here._repr_html_()).facts["path"] == "run/a.keras"


def test_a_file_without_a_manifest_shows_no_number_that_nobody_knows(tmp_path):
    (tmp_path / "bare.keras").write_bytes(b"no model")
    found = keras_ratchet.checkpoints(tmp_path)
    facts = Page(found[0]._repr_html_()).facts
    assert facts["manifest"] == "none: what it holds is unknown"
    assert facts["size"] == "0.000 MB" and "epochs done" not in facts
    (row,) = Page(found._repr_html_()).columns
    assert (row["name"], row["epochs"], row[""]) == ("bare.keras", "", "no manifest")


def test_a_damaged_manifest_is_shown_as_none(tmp_path):
    (tmp_path / ".ratchet").mkdir()
    (tmp_path / "a.keras").write_bytes(b"no model")
    (tmp_path / ".ratchet" / f"a.keras.{'0' * 32}.json").write_text("{")
    (row,) = Page(keras_ratchet.checkpoints(tmp_path)._repr_html_()).columns
    assert row[""] == "no manifest"


def test_times_that_are_none_are_left_out():
    for saved_at in (math.nan, math.inf, 1e300):
        assert "saved" not in Page(info(saved_at=saved_at)._repr_html_()).facts


def test_several_checkpoints_are_a_table_the_metric_that_ranks_them_first():
    other = info("b.keras", metrics={"val_loss": math.nan}, pinned=True, position=Position(4, 2))
    page = Page(as_list(info(), other)._repr_html_())
    assert page.rows[0][:4] == ["name", "epochs", "step", "val_loss"]
    first, second = page.columns
    assert (first["val_loss"], first["loss"], first["why"]) == ("0.25", "0.5", "val_loss improved")
    assert (second["val_loss"], second["loss"]) == ("nan", "")
    assert (second["step"], second[""]) == ("batch 2", "pinned")


def test_of_very_many_checkpoints_the_last_are_shown():
    text = as_list(*(info(f"{index}.keras") for index in range(1000)))._repr_html_()
    assert "1,000 checkpoints, the last 100 of which are these" in text
    assert [row["name"] for row in Page(text).columns][::99] == ["900.keras", "999.keras"]


def test_what_checkpoints_returns_is_a_list_for_everyone(tmp_path):
    for name in ("a.keras", "b.keras"):
        (tmp_path / name).write_bytes(b"no model")
    found = keras_ratchet.checkpoints(tmp_path)
    assert isinstance(found, list) and found == list(found) and repr(found) == repr(list(found))
    assert pickle.loads(pickle.dumps(found)) == found
    assert isinstance(found[0], CheckpointInfo)
    assert len(Page(found[-1:]._repr_html_()).columns) == 1
    assert "0 checkpoints" in found[:0]._repr_html_()


def test_a_stop_is_shown_with_its_epoch_as_people_count():
    reason = StopReason("patience", "it is enough", {"wait": 3.0}, 4, ("patience", "goal"))
    facts = Page(reason._repr_html_()).facts
    assert facts["why"] == "it is enough" and facts["epoch"] == "5 (index 4)"
    assert facts["kind"] == "patience + goal" and facts["values"] == "wait 3"


def test_an_average_is_shown_with_its_trials():
    trials = (
        AverageTrial(("epoch 2", "epoch 3"), 0.5, True, "0.5 is better than 0.6"),
        AverageTrial(("epoch 2", "epoch 4"), math.nan, False, "nan is never better"),
    )
    members = ("epoch 2", "epoch 3")
    record = AverageRecord("soup", "val_loss", 0.6, 0.5, members, (0, 1), trials, "the mean of")
    first, second = Page(record._repr_html_()).columns
    assert (first["members"], first["val_loss"]) == ("epoch 2, epoch 3", "0.5")
    assert (first["accepted"], second["accepted"], second["val_loss"]) == ("yes", "no", "nan")


@pytest.fixture
def model():
    import keras

    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    return model


def train(run, model, epochs, batches=4):
    """Yield after each batch and each epoch of a loop."""
    for epoch in run.epochs(epochs):
        for index in run.batches(range(batches)):
            run.log(loss=1 / (1 + epoch * batches + index))
            yield
        yield


def facts_of(run):
    return Page(run._repr_html_()).facts


def test_a_run_tells_where_it_is_and_looking_changes_nothing(tmp_path, model):
    import os

    directory = str(tmp_path / EVIL.replace("/", ""))
    stopper = keras_ratchet.EarlyStopping(monitor="loss", patience=9)
    run = keras_ratchet.Run(directory, model, save_freq=3, callbacks=[stopper], keep=9)
    assert facts_of(run) == {"directory": directory, "where it is": "not started"}
    assert not os.path.exists(directory)
    steps = train(run, model, 3)
    with run:
        for _ in range(5 + 3):  # the first epoch with its end, two batches and a half
            next(steps)
        before = sorted(os.listdir(directory))
        facts = facts_of(run)
        assert facts_of(run).keys() == facts.keys()
        assert sorted(os.listdir(directory)) == before
        assert facts["where it is"] == "running: 1 epochs and 2 batches done, of 3 epochs"
        assert facts["next save"] == "in 3 batches"  # 6 are done
        assert facts["best so far"] == "loss 0.25 in epoch 1"
        assert facts["resumed from"] == "nothing: it started from scratch"
        assert facts["logs"].startswith("loss 0.14")
    assert facts_of(run)["where it is"] == "ended: 1 epochs done, of 3 epochs"
    assert "next save" not in facts_of(run)


def test_a_run_tells_what_it_resumed_from_and_why_it_stopped(tmp_path, model):
    with keras_ratchet.Run(tmp_path / "run", model) as run:
        for step, _ in enumerate(train(run, model, 3)):
            if step == 7:
                break
    stopper = keras_ratchet.EarlyStopping(monitor="loss", patience=1, min_delta=100)
    with keras_ratchet.Run(tmp_path / "run", model, callbacks=[stopper], every_s=900) as run:
        for step, _ in enumerate(train(run, model, 9)):
            if step == 0:
                facts = facts_of(run)
                assert facts["resumed from"] == "1 epochs"
                assert facts["next save"] == "at the end of the epoch or by the clock"
    facts = facts_of(run)
    assert "has not improved" in facts["stopped"]
    assert facts["where it is"].startswith("ended: 3 epochs done")
