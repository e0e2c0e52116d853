"""The doctor under test, on a script that needs no Keras and runs for half a second."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from keras_ratchet.cli import main

collect_ignore = ["scripts"]  # patients, some of which do not end well

FAKE = Path(__file__).parent.parent / "support" / "doctor_script.py"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The user's directory, which is the current one and has a script in it."""
    place = tmp_path / "here"
    place.mkdir()
    shutil.copy(FAKE, place / "train.py")
    monkeypatch.chdir(place)
    return place


@pytest.fixture
def doctor(here):
    """Run the doctor on the fake script, broken in some ways; return what it has found."""

    def run(*broken, options=(), code=1):
        command = ["--", sys.executable, "train.py", *broken]
        result = CliRunner().invoke(main, ["doctor", "--seed", "1", *options, "--json", *command])
        assert result.exit_code == code, result.output
        if code == 2:
            return result.output
        return json.loads(result.stdout[result.stdout.index("{\n") :])

    return run
