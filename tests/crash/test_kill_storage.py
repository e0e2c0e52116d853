"""200 SIGKILLs inside saves, retention steps and deletes of real files of 1 to 5 MB.

No Keras is needed for this. `make test-resume LONG=1` makes it 2000.
"""

import collections
import os

import pytest
from support import storage_killing

FACTOR = 10 if os.environ.get("RATCHET_LONG") else 1
KILLS = {"save": 60, "step": 60, "delete": 30, "commit": 30, "remove": 20}
LIMIT_S = 300 * FACTOR  # several times what it takes here: a bound, not an expectation

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL"),
]


@pytest.fixture(scope="module")
def kills(tmp_path_factory):
    wanted = {kind: count * FACTOR for kind, count in KILLS.items()}
    found = storage_killing.run(wanted, tmp_path_factory.mktemp("kills"), LIMIT_S)
    counts = collections.Counter(kill.kind or "between" for kill in found)
    leftovers = sum(bool(kill.leftovers) for kill in found)
    print(f"{len(found)} kills: {dict(counts)}; {leftovers} left a draft or trash")
    return found


def test_enough_kills_fell_inside_each_kind_of_operation(kills):
    counts = collections.Counter(kill.kind for kill in kills)
    assert all(counts[kind] >= count * FACTOR for kind, count in KILLS.items())
    assert sum(counts[kind] for kind in KILLS) >= 200 * FACTOR
    assert any(kill.leftovers for kill in kills)  # or they were not inside after all


def test_no_kill_costs_or_damages_a_checkpoint(kills):
    assert [kill for kill in kills if kill.losses or kill.losses_later] == []


def test_nothing_is_left_over_after_the_next_start(kills):
    assert [kill for kill in kills if kill.leftovers_later] == []
