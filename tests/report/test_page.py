"""What the page says, and that nothing in a journal can change what the page is."""

import base64
import hashlib
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from support.checkpoints import Holder, flip_bit, series, snapshot
from support.reports import START, begin, end, epoch, eventful, losses, other, save, tell

from keras_ratchet import checkpoints
from keras_ratchet._report.runs import Place, runs_of

VOID = {"meta", "br", "img", "link", "input", "hr"}
NASTY = '</script><script>alert("1")</script>'


class Page(HTMLParser):
    """Reads a page, and fails if an element is not closed in its turn."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.source, self._open, self.elements, self.words = text, [], [], []
        self.inside = {}  # texts of style and script elements
        self.feed(text)
        self.close()
        assert not self._open, self._open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open and self._open[-1] == tag, (tag, self._open)
        self._open.pop()

    def handle_data(self, data):
        tag = self._open[-1] if self._open else ""
        if tag in ("style", "script"):
            self.inside.setdefault(tag, []).append(data)
        else:
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    @property
    def data(self):
        return json.loads(self.inside["script"][0], parse_constant=pytest.fail)

    def chart(self, name):
        return next(chart for chart in self.data["charts"] if chart["name"] == name)


@pytest.fixture
def page(report, tmp_path):
    """A function that reads the page of directories."""

    def read(*directories, options=()):
        report(*directories, "-o", "page.html", "--force", *options)
        return Page((tmp_path / "here" / "page.html").read_text("utf-8"))

    return read


def test_one_run_is_told_with_outcome_figures_curves_and_marks(page, tmp_path):
    shown = page(tell(tmp_path / "run", eventful()))
    said = "Stopped after epoch 6 of 20: val_loss has not improved for 2 checks."
    assert said in shown.text and "best val_loss 0.5" in shown.text and "epoch 4" in shown.text
    assert "1 rollback, 1 rate cut, 1 resume" in shown.text
    loss = shown.chart("loss")
    training, validation = loss["series"]
    assert (training["role"], validation["role"]) == ("training", "validation")
    assert validation["y"] == [4.0, 2.0, 3.0, 0.5, 0.75, 1.0]
    assert training["y"][2] is None and training["bad"] == {"3": "nan"}
    assert validation["best"] == [4, 0.5] and "best" not in training
    assert validation["saves"] == [[1, 4.0, 0], [2, 2.0, 1], [4, 0.5, 1]]
    assert validation["average"][1] == 0.45
    kinds = {(mark["kind"], mark["at"]) for mark in shown.data["runs"][0]["marks"]}
    assert {("rollback", 3.5), ("reduce_lr", 3), ("resume", 2.5), ("stop", 6)} <= kinds


def test_decisions_saves_costs_and_incidents_stand_in_tables(page, tmp_path):
    text = page(tell(tmp_path / "run", eventful())).text
    for words in (
        "learning rate cut to 0.1",
        "no rule keeps it",
        "val_loss has not improved",
        "the mean of 2 epochs is better",
        "Incidents (2)",
        "not finite in 1 epoch, first in epoch 3: loss",
        "rolled back (epoch 3+7): loss is nan",
        "median 250 ms, longest 250 ms",
        "2.0 MB",
        "1.5 s",
    ):
        assert words in text, words


def test_many_skips_in_a_row_are_one_line(page, tmp_path):
    skips = [other("skip", n, reason=f"no. {n}") for n in range(1, 9)]
    text = page(tell(tmp_path / "run", [begin(9), *losses(1.0), *skips])).text
    assert "no. 8 (and 7 more before it)" in text and "no. 7" not in text


def test_checkpoints_have_metrics_marks_versions_and_the_outcome_of_verify(page, tmp_path):
    (tmp_path / "run").mkdir()
    series(tmp_path / "run", 5.0, 3.0, 1.0, 2.0)
    tell(tmp_path / "run", [begin(4), *losses(5.0, 3.0, 1.0, 2.0), end(4)])
    text = page(tmp_path / "run").text
    assert "epoch-03.keras best 3 30 1 2" in text and "not checked" in text
    assert "keras 3.15.1" in text and "backend torch" in text
    flip_bit(tmp_path / "run" / "epoch-02.keras")
    checked = page(tmp_path / "run", options=["--verify"]).text
    assert "epoch-02.keras is corrupt" in checked and "ok" in checked and "Incidents" in checked


def test_files_without_a_manifest_are_listed_and_it_is_said_that_nothing_else_is_known(
    page, tmp_path
):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model.h5").write_bytes(b"weights")
    text = page(tmp_path / "run").text
    assert "No journal tells of its epochs; 1 checkpoint, none with a manifest." in text
    assert "There are no epochs to draw." in text and "no manifest" in text


def test_without_a_journal_the_metrics_of_checkpoints_are_drawn(page, tmp_path):
    (tmp_path / "run").mkdir()
    series(tmp_path / "run", 5.0, 3.0)
    assert page(tmp_path / "run").chart("loss")["series"][1]["y"] == [5.0, 3.0]


def test_a_run_that_goes_on_is_said_to_go_on(page, tmp_path):
    run = tell(tmp_path / "run", [begin(5), *losses(5.0, 3.0)])
    with Holder(run) as pid:
        text = page(run).text
    assert "Still training: epoch 2 of 5 was done" in text and f"process {pid}" in text
    assert "Still training" not in page(run).text


def test_a_run_that_has_just_begun_is_one_run_with_its_backups(page, tmp_path):
    run = tell(tmp_path / "run", [begin(5)])
    snapshot(str(tell(run / "backup", [save(0, name="start", series="")])), 0)
    with Holder(run):
        shown = page(run)
    assert len(shown.data["runs"]) == 1
    assert "Still training: no epoch was done yet when this page" in shown.text


def test_metrics_of_half_an_epoch_are_not_those_of_an_epoch(tmp_path):
    (tmp_path / "run").mkdir()
    series(tmp_path / "run", 5.0, 3.0)
    first, second = checkpoints(tmp_path / "run")
    second = replace(second, position=replace(second.position, batch=3))
    (run,) = runs_of(Place("run", "run", checkpoints=[first, second]))
    assert list(run.history.metrics) == [1]


def test_what_happens_after_the_end_is_no_training_and_deletions_within_it_take_none(
    page, tmp_path
):
    events = [begin(2)]
    for one in losses(2.0, 1.0):
        events += [{**other("drop", 0), "time": one["time"] - 0.1}, one]
    late = {**other("upload", 0), "time": START + 9999}
    assert "trained for 24 s" in page(tell(tmp_path / "run", [*events, end(2), late])).text


def test_snapshots_alone_tell_how_far_a_run_has_come(page, tmp_path):
    lines = [save(0, name="zero"), other("drop", 1, name="zero"), save(2, name="two")]
    snapshot(str(tell(tmp_path / "run", lines)), 2)
    text = page(tmp_path / "run").text
    assert "No journal tells of its epochs; 1 checkpoint, the newest after epoch 2" in text
    assert "epochs 2" in text and "trained for 20 s" in text


def test_costs_beyond_all_reason_are_no_error_and_of_one_moment_the_longest_is_drawn(
    page, tmp_path
):
    saves = [save(1, blocked_s=cost, written_s=1e305) for cost in (0.5, 2.0, 1.0)]
    shown = page(tell(tmp_path / "run", [begin(1), *losses(1.0), *saves]))
    waited, written = shown.chart("seconds per save")["series"]
    assert waited["y"] == [2.0] and written["y"] == [None]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ([end(2)], "Done: all 2 epochs were trained."),
        ([other("preempted", 2, reason="SIGTERM")], "Interrupted after epoch 2 of 2: SIGTERM. A"),
        ([], "The journal ends after epoch 2 of 2; it does not say why."),
    ],
)
def test_how_it_ended_is_said(page, tmp_path, more, said):
    assert said in page(tell(tmp_path / "run", [begin(2), *losses(2.0, 1.0), *more])).text


def test_torn_lines_of_a_journal_are_counted_and_the_others_are_shown(page, tmp_path):
    torn = ['{"time": 1', "[1]", '{"event": 7}']
    shown = page(tell(tmp_path / "run", [begin(2), *losses(2.0, 1.0)], *torn))
    assert "3 lines of the journal cannot be read" in shown.text
    assert shown.chart("loss")["series"][1]["y"] == [2.0, 1.0]


def test_snapshots_beside_the_run_belong_to_it(page, tmp_path):
    run = tell(tmp_path / "run", [begin(3), *losses(3.0, 2.0, 1.0), end(3)])
    lines = [
        save(2, name="epoch-00002-batch-0000000", series=""),
        other("resume", 2, series="", name="epoch-00002-batch-0000000"),
    ]
    snapshot(str(tell(run / "backup", lines)), 2)
    shown = page(run)
    assert len(shown.data["runs"]) == 1 and "epoch-00002-batch-0000000/" in shown.text
    assert "training resumed from this snapshot" in shown.text


def test_folds_are_compared_and_the_best_is_marked(page, tmp_path):
    for fold, last in ((1, 0.5), (2, 0.25), (3, 0.75)):
        tell(tmp_path / "runs" / f"fold-{fold}", [begin(3), *losses(2.0, 1.0, last), end(3)])
    shown = page(tmp_path / "runs")
    assert [run["name"] for run in shown.data["runs"]] == ["fold-1", "fold-2", "fold-3"]
    assert "fold-2 val_loss best 0.25 3 3" in shown.text
    assert [one["run"] for one in shown.chart("loss")["series"]] == [0, 0, 1, 1, 2, 2]


def test_fold_10_stands_after_fold_9(page, tmp_path):
    for fold in range(1, 12):
        tell(tmp_path / "runs" / f"fold-{fold}", [begin(1), *losses(1.0), end(1)])
    names = [run["name"] for run in page(tmp_path / "runs").data["runs"]]
    assert names == [f"fold-{fold}" for fold in range(1, 12)]


def test_stages_in_one_directory_are_runs_of_their_own(page, tmp_path):
    first = [begin(3), *losses(3.0, 2.0), end(2)]
    second = [begin(3, START + 999), *losses(1.0, at=START + 999), end(1, START + 999)]
    shown = page(tell(tmp_path / "run", [*first, *second]))
    assert [run["name"] for run in shown.data["runs"]] == ["run \u00b7 run 1", "run \u00b7 run 2"]
    assert [one["y"] for one in shown.chart("loss")["series"][1::2]] == [[3.0, 2.0], [1.0]]


def snapshots(at, epochs):
    """Return what the directory of a stage's snapshots tells: one before training, one an epoch."""
    own = {"at": at, "series": ""}
    first = save(0, **own, name="epoch-00000-batch-0000000", reason="training started")
    named = [save(n, **own, name=f"epoch-{n:05d}-batch-0000000") for n in range(1, epochs + 1)]
    return [first, *named]


def test_snapshots_of_stages_stand_under_the_run_of_their_stage(page, tmp_path):
    one, two = {"series": "best0.keras"}, {"series": "best1.keras", "at": START + 60}
    first = [begin(3, **one), *losses(3.0, 2.0, 1.0, **one), end(3, **one)]
    second = [begin(2, **two), *losses(0.5, 0.25, **two), end(2, **two)]
    run = tell(tmp_path / "run", [*first, *second])
    tell(run / "stages" / "0", snapshots(START, 3))
    resumed = other("resume", 1, at=START + 60, series="", name="epoch-00001-batch-0000000")
    tell(run / "stages" / "1", [*snapshots(START + 59, 1), resumed, save(2, START + 60, "")])
    shown = page(run)
    assert [one["name"] for one in shown.data["runs"]] == [
        "run \u00b7 best0.keras",
        "run \u00b7 best1.keras",
    ]
    first, second = shown.text.split("best0.keras: Decisions")[1].split("best1.keras: Decisions")
    assert first.count("training started") == 2 and "epoch-00003-batch-0000000" in first
    assert second.count("training started") == 2 and "resumed from this snapshot" in second
    assert "epoch-00003-batch-0000000" not in second and "resumed" not in first


def test_snapshots_of_runs_at_one_time_stand_under_the_run_that_began_with_them(tmp_path):
    events = []
    for n, name in enumerate(("a.keras", "b.keras", "c.keras")):
        own = {"at": START + 3 * n, "series": name}
        events += [begin(2, **own), *losses(2.0 + n, 1.0 + n, **own), end(2, **own)]
        events += [event | {"below": name} for event in snapshots(START + 3 * n - 1, 2)]
    runs = runs_of(Place("run", "run", sorted(events, key=lambda event: event["time"])))
    whose = [{event.get("below", run.name[-7:]) for event in run.events} for run in runs]
    assert whose == [{"a.keras"}, {"b.keras"}, {"c.keras"}]
    assert [len(run.history.saves) for run in runs] == [3, 3, 3]  # another's of one name stays


def test_a_run_that_begins_late_and_resumes_nothing_hides_no_other(page, tmp_path):
    first = [begin(3, series="a.keras"), *losses(3.0, 2.0, series="a.keras")]
    late = {"at": START + 999, "series": "b.keras"}
    second = [begin(5, **late), *losses(1.0, 0.5, first=3, **late)]
    shown = page(tell(tmp_path / "run", [*first, *second]))
    names = [run["name"] for run in shown.data["runs"]]
    assert names == ["run \u00b7 a.keras", "run \u00b7 b.keras"]
    assert [one["x"] for one in shown.chart("loss")["series"][1::2]] == [[1, 2], [3, 4]]


def test_runs_of_one_name_are_told_apart_and_a_directory_counts_once(page, tmp_path):
    for parent in ("a", "b"):
        tell(tmp_path / parent / "run", [begin(1), *losses(1.0), end(1)])
    again = tmp_path / "a" / ".." / "a" / "run"
    shown = page(tmp_path / "a", tmp_path / "b" / "run", again)
    assert [run["name"] for run in shown.data["runs"]] == ["a/run", "b/run"]


def test_names_and_reasons_of_strangers_stay_text(page, tmp_path):
    nasty = {NASTY: 1.0, "\"'&<b>\u2028": 2.0, "val_loss": 1.0}
    events = [
        begin(1),
        epoch(1, **nasty),
        other("rollback", 1, reason=f"<img src=x onerror=alert(1)>\x1b[2J{NASTY}"),
        save(1, name='"><svg onload=alert(1)>'),
    ]
    shown = page(tell(tmp_path / "<i>run&", events), options=["--title", NASTY])
    tags = [tag for tag, _ in shown.elements]
    assert tags.count("script") == 2 and not {"img", "b", "i", "iframe"} & set(tags)
    assert not any(name.startswith("on") for _, attrs in shown.elements for name in attrs)
    assert {chart["name"] for chart in shown.data["charts"]} >= {NASTY}
    assert "</script" not in shown.inside["script"][0] and "\x1b" not in shown.source
    assert "\u2028" not in shown.inside["script"][0]


def test_nothing_is_loaded_and_the_policy_lets_only_what_is_inside_run(page, tmp_path):
    shown = page(tell(tmp_path / "run", eventful()))
    links = [
        value
        for _, attrs in shown.elements
        for name, value in attrs.items()
        if name in ("src", "href", "srcset", "action", "data", "style")
    ]
    assert not links and "url(" not in shown.inside["style"][0].replace("url(#", "")
    addresses = set(re.findall(r"https?://[^\"' ]+", shown.source))
    assert addresses == {"http://www.w3.org/2000/svg"}  # a name space, never fetched
    policy = next(a["content"] for _, a in shown.elements if "http-equiv" in a)
    assert policy.startswith("default-src 'none';") and "unsafe" not in policy
    for kind, text in (("style", shown.inside["style"][0]), ("script", shown.inside["script"][1])):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy


def test_without_a_script_there_are_pictures_and_tables(page, tmp_path):
    shown = page(tell(tmp_path / "run", eventful()))
    pictures = [attrs for tag, attrs in shown.elements if tag == "svg"]
    assert pictures[0]["aria-label"] == "loss over the epochs"
    paths = [attrs["d"] for tag, attrs in shown.elements if tag == "path"]
    assert paths[0].count("M") == 2  # epoch 3 is NaN: a gap
    assert "Without JavaScript the curves cannot be zoomed" in shown.text


def test_ten_thousand_epochs_of_six_metrics_make_a_page_of_less_than_a_megabyte(page, tmp_path):
    names = ("loss", "val_loss", "accuracy", "val_accuracy", "lr", "norm")
    events = [
        epoch(n, **{name: math.sin(n + k) + 2 for k, name in enumerate(names)})
        for n in range(1, 10_001)
    ]
    shown = page(tell(tmp_path / "run", [begin(10_000), *events]))
    assert len(shown.source) < 1_000_000 and "so that spikes stay" in shown.text
    assert all(one["of"] == 10_000 for one in shown.chart("loss")["series"])
