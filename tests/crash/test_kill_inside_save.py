"""SIGKILL inside a save of a 40 MB model: our file is always whole, Keras's hardly ever.

On torch 100 kills for each format, and 100 for Keras's own class with one; on the other backends
10. RATCHET_LONG=1 (`make test-crash`) makes it 100 everywhere, and all formats for Keras too.
"""

import os

import keras
import pytest
from support import killing
from support.stamped import SUFFIXES

LONG = bool(os.environ.get("RATCHET_LONG"))
KILLS = 100 if LONG or keras.backend.backend() == "torch" else 10
CONTROLS = SUFFIXES if LONG else (".keras",)
LIMIT_S = 60 + 6 * KILLS  # several times what it takes here: a bound, not an expectation

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL"),
]


def kills_of(whose, suffixes, tmp_path_factory):
    directory = tmp_path_factory.mktemp(whose)
    kills = killing.run(whose, suffixes, KILLS, directory, LIMIT_S)
    for suffix in suffixes:
        print(f"{whose} {suffix} {keras.backend.backend()}: {killing.summary(kills[suffix])}")
    return kills


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    """Return the kills inside saves of our ModelCheckpoint, by format."""
    return kills_of("ratchet", SUFFIXES, tmp_path_factory)


@pytest.fixture(scope="module")
def keras_own(tmp_path_factory):
    """Return the kills inside saves of Keras's ModelCheckpoint, by format."""
    return kills_of("keras", CONTROLS, tmp_path_factory)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_no_kill_inside_a_save_leaves_an_unreadable_file(ours, suffix):
    assert len(ours[suffix]) == KILLS
    assert [kill for kill in ours[suffix] if kill.problem] == []


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_kill_leaves_the_newest_committed_save_or_the_one_in_progress(ours, suffix):
    assert [kill for kill in ours[suffix] if not kill.is_harmless] == []


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_keras_loads_what_a_kill_left(ours, suffix):
    tried = [kill for kill in ours[suffix] if kill.loaded is not None]
    assert len(tried) >= max(1, KILLS // 20)
    assert [kill for kill in tried if kill.loaded != kill.found] == []


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_kill_leaves_at_most_one_draft_beside_the_file(ours, suffix):
    for kill in ours[suffix]:
        assert len(kill.strangers) <= 1, kill
        assert all(name.startswith(".draft-") for name in kill.strangers), kill
    assert any(kill.strangers for kill in ours[suffix]), "no kill met a save at work"


@pytest.mark.skipif(keras.__version__ != "3.15.1", reason="Keras may be cured")
@pytest.mark.parametrize("suffix", CONTROLS)
def test_kerass_own_class_loses_the_file_in_nine_kills_of_ten(keras_own, suffix):
    lost = [kill for kill in keras_own[suffix] if kill.problem]
    # of ten kills chance may put a few into the moment after the file's last byte
    assert len(keras_own[suffix]) == KILLS
    assert len(lost) >= (90 if KILLS == 100 else 7), killing.summary(keras_own[suffix])
