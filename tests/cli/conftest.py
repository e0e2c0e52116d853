"""The command line under test."""

import inspect
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from support.checkpoints import series, strict_json

from keras_ratchet.cli import main


def invoke(args):
    """Run a command; before 8.2 click put stderr into stdout unless it was told not to."""
    if "mix_stderr" not in inspect.signature(CliRunner).parameters:
        return CliRunner().invoke(main, args)
    result = CliRunner(mix_stderr=False).invoke(main, args)
    return SimpleNamespace(
        exception=result.exception,
        exit_code=result.exit_code,
        stdout=result.stdout,
        stderr=result.stderr,
        output=result.stdout + result.stderr,
    )


class Cli:
    """Runs `ratchet` in this process."""

    def __call__(self, *args, code=0):
        """Run a command, check its exit code, and return the result of click's runner."""
        result = invoke([str(arg) for arg in args])
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
