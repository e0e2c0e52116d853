"""The command line under test."""

import pytest
from click.testing import CliRunner
from support.checkpoints import series, strict_json

from keras_ratchet.cli import main


class Cli:
    """Runs `ratchet` in this process."""

    def __call__(self, *args, code=0):
        """Run a command, check its exit code, and return the result of click's runner."""
        result = CliRunner().invoke(main, [str(arg) for arg in args])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.output
        assert result.exit_code == code, result.output
        return result

    def json(self, *args, code=0):
        """Run a command with --json and return the data."""
        return strict_json(self(*args, "--json", code=code).stdout)


@pytest.fixture
def ratchet():
    return Cli()


@pytest.fixture
def run(tmp_path):
    """A directory of five checkpoints; the third is best, the fifth last."""
    series(tmp_path, 5.0, 3.0, 1.0, 2.0, 4.0)
    return tmp_path
