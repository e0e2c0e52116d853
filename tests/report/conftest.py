"""`ratchet report` in this process."""

import pytest
from click.testing import CliRunner

from keras_ratchet.cli import main


@pytest.fixture
def report(tmp_path, monkeypatch):
    """A function that runs the command where nothing else is, and returns its outcome."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def run(*args, code=0):
        result = CliRunner().invoke(main, ["report", *map(str, args)])
        assert result.exit_code == code, result.output
        return result

    return run
