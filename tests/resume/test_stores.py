"""Killed, and run again with an empty disk: what is on the store is enough, bit for bit.

The store is S3 as `moto` serves it on 127.0.0.1. Each run of a chain has a cache of its own, as if
it were on another machine.
"""

import os

import pytest
from support import chains
from support.chains import EXIT_CODE, PER_EPOCH, Chain
from support.stores import moto_server

LONG = bool(os.environ.get("RATCHET_LONG"))
KILLS = (("save", 1), (f"batch {PER_EPOCH - 3}", 3), ("epoch end", 4), ("train end", -1))

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL"),
]


@pytest.fixture(scope="module")
def bucket():
    with moto_server("resume-tests") as url:
        yield url


@pytest.fixture(scope="module")
def ends(bucket, tmp_path_factory):
    """Return what each chain ended with, by name."""
    planned = [
        Chain("arrays"),
        Chain("each epoch", "arrays", "epoch", kills=KILLS, store=bucket),
        Chain("every 3 batches", "arrays", 3, kills=KILLS[1:3], store=bucket),
        Chain("from outside", "arrays", 2, random_kills=3 + 20 * LONG, seed=3, store=bucket),
        Chain(
            "sigterm", "arrays", "epoch", sigterms=((f"batch {PER_EPOCH - 4}", 2),), store=bucket
        ),
    ]
    return chains.run(planned, tmp_path_factory.mktemp("chains"), 1200)


@pytest.mark.parametrize("name", ["each epoch", "every 3 batches", "from outside", "sigterm"])
def test_a_run_that_lost_its_disk_ends_as_the_run_that_nobody_killed(ends, name):
    end, whole = ends[name], ends["arrays"]
    how = ("killed", "preempted", "warnings")
    assert [part for part in end if part not in how and end[part] != whole[part]] == []


def test_a_run_that_got_sigterm_is_on_the_store_before_it_exits(ends):
    [cut] = ends["sigterm"]["preempted"]
    assert cut["code"] == EXIT_CODE
    assert cut["reason"].startswith("SIGTERM: saved with") and "only" not in cut["reason"]
    assert f"epoch-00002-batch-{PER_EPOCH - 3:07d}" in cut["snapshots"]
