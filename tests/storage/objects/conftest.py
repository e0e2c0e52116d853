"""Nothing waits here, and nothing is cached outside of a test's directory."""

import pytest
from support import stores


@pytest.fixture(autouse=True)
def _nothing_waits(monkeypatch, tmp_path):
    stores.quiet(monkeypatch, tmp_path / "cache")
    yield
    stores.reboot()


@pytest.fixture(scope="module")
def s3():
    """URL of an empty bucket."""
    with stores.moto_server() as url:
        yield url
