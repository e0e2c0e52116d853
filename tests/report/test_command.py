"""The command `ratchet report`: where it writes, what it refuses."""

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner
from support.checkpoints import series
from support.reports import begin, end, losses, tell

from keras_ratchet.cli import main


@pytest.fixture
def run(tmp_path):
    return tell(tmp_path / "run", [begin(2), *losses(2.0, 1.0), end(2)])


def test_the_page_is_report_html_and_its_path_and_size_are_printed(report, run):
    output = report(run).output
    size = os.path.getsize("report.html")
    assert output == f"written to report.html ({size / 1000:.1f} kB, of 1 directory)\n"
    assert os.listdir() == ["report.html"]


def test_a_report_is_overwritten_and_any_other_file_only_if_forced(report, run):
    report(run, "--title", "first")
    report(run, "--title", "second")
    assert "<title>second</title>" in Path("report.html").read_text()
    for other in ("<html>mine</html>", "", '<meta name="generator" content="Sphinx">'):
        Path("report.html").write_text(other)
        assert "exists" in report(run, code=2).output
        assert Path("report.html").read_text() == other
    report(run, "--force")
    assert "Done: all 2 epochs" in Path("report.html").read_text()


def test_a_pipe_is_not_waited_for(report, run):
    os.mkfifo("pipe")
    assert "exists" in report(run, "-o", "pipe", code=2).output


def test_an_empty_directory_is_a_clear_error_and_nothing_is_written(report, run, tmp_path):
    (tmp_path / "empty").mkdir()
    output = report(run, tmp_path / "empty", code=2).output
    assert "nothing to report" in output and "empty" in output and not os.listdir()


def test_json_tells_path_size_and_directories(report, run):
    told = json.loads(report(run, "-o", "new/page.html", "--json").output)
    assert told == {
        "path": "new/page.html",
        "bytes": os.path.getsize("new/page.html"),
        "directories": [str(run)],
    }


def test_a_directory_on_a_store_is_read_and_written_to(report, tmp_path, monkeypatch):
    monkeypatch.setenv("RATCHET_CACHE", str(tmp_path / "cache"))
    local = tell(tmp_path / "local", [begin(2), *losses(3.0, 1.0), end(2)])
    series(local, 3.0, 1.0)
    url = f"file://{tmp_path}/store/run"
    pushed = CliRunner().invoke(main, ["push", str(local), url])
    assert pushed.exit_code == 0, pushed.output
    report(url, "-o", f"{url}/report.html")
    text = (tmp_path / "store" / "run" / "report.html").read_text()
    assert "epoch-02.keras" in text and "best val_loss" in text
    assert "exists" in report(url, "-o", f"{url}/report.html", code=2).output
