"""Ranks on hosts of their own, whose disks are gone after a kill: what is on the store is enough.

The store is S3 as `moto` serves it; every rank of every launch has an empty cache of its own.
"""

import os

import keras
import pytest
from distributed import test_resume as local
from support.stores import moto_server

LONG = bool(os.environ.get("RATCHET_LONG"))

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="the scripts choose their own backends"
)


@pytest.mark.parametrize("engine", ["torch", *(["jax"] if LONG else [])])
def test_ranks_without_a_common_disk_resume_bit_by_bit(engine, tmp_path):
    def launch(number, *plans):
        def caches(rank):
            return {"RATCHET_CACHE": str(tmp_path / f"{number}-{rank}")}

        return local.launch(engine, f"{bucket}/{engine}", *plans, env=caches)

    with moto_server("rank-tests") as bucket:
        ends = launch(1, "straight", "killed:kill") | launch(2, "killed")
    assert local.differing(ends, "killed") == [[], []]
    assert {end["from"] for end in ends["killed"]} != {None}
