"""URLs are refused in one place, for every path that a user gives; paths may be of any kind."""

from pathlib import Path

import pytest
from click.testing import CliRunner
from support.models import dense

import keras_ratchet
from keras_ratchet import plots
from keras_ratchet._storage.paths import local_path
from keras_ratchet.cli import main
from keras_ratchet.errors import ConfigError

TAKERS = {
    "ModelCheckpoint": keras_ratchet.ModelCheckpoint,
    "BackupAndRestore": keras_ratchet.BackupAndRestore,
    "Run": lambda url: keras_ratchet.Run(url, dense()),
    "load_model": keras_ratchet.load_model,
    "load_weights": lambda url: keras_ratchet.load_weights(dense(), url),
    "checkpoints": keras_ratchet.checkpoints,
    "verify": keras_ratchet.verify,
    "soup": lambda url: keras_ratchet.soup(dense(), url, validation_data=([[0.0]], [0.0])),
    "plots": plots.run,
}


@pytest.mark.parametrize("taker", TAKERS.values(), ids=TAKERS)
@pytest.mark.parametrize("url", ["gs://b/x.keras", Path("s3://b/x.keras"), "hdfs://b/x.keras"])
def test_a_remote_store_is_refused_and_nothing_is_made(taker, url, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="mounted file system"):
        taker(url)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["ls", "verify", "best", "history", "show", "pin", "adopt"])
def test_the_commands_refuse_it_too(command):
    result = CliRunner().invoke(main, [command, "gs://bucket/x"])
    assert result.exit_code == 2
    assert "mounted file system" in " ".join(result.output.split())


def test_the_message_for_a_file_url_says_what_to_leave_out():
    with pytest.raises(ConfigError, match="leave out 'file://'"):
        local_path("file:///tmp/x", "path")


@pytest.mark.parametrize("path", ["runs/a:b/x", "C:/runs", "C:\\runs", "a:b", ".", "runs/x://y"])
def test_what_only_looks_like_one_is_a_path(path):
    assert local_path(path, "path") == path
    assert local_path(Path(path), "path") == str(Path(path))
