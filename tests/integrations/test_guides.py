"""The code of the guides that need clients of tuners runs as it stands on the page."""

import os

import pytest
from support import guide_pages

CLIENTS = os.environ.get("RATCHET_INTEGRATIONS", "")
ENV = {"JAX_PLATFORMS": "cpu", "DO_NOT_TRACK": "1"}


def test_the_guide_to_sweeps_is_among_them():
    assert "sweeps.md" in [page.name for page in guide_pages.pages()]


@pytest.mark.parametrize("page", guide_pages.pages(), ids=lambda page: page.name)
def test_the_code_of_the_page_runs_and_again_trains_nothing_twice(page, tmp_path):
    if not os.path.isdir(os.path.join(CLIENTS, "optuna")):
        raise RuntimeError(f"make test-integrations installs the clients. Got: {CLIENTS!r}.")
    code = guide_pages.script(page)
    for _ in range(2):  # as it stands, and started again
        ended, output = guide_pages.run(code, tmp_path, [CLIENTS], 200, HOME=str(tmp_path), **ENV)
        assert ended == 0, output
    assert "2 epochs and 0 batches are done" in output or "3 epochs and 0 batches" in output
