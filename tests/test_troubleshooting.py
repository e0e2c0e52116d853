"""docs/troubleshooting.md explains every message, and every error links to its section there.

`RATCHET_WRITE_DOCS=1` writes the page's lists of messages again.
"""

import ast
import copy
import errno
import os
import pickle
import re
import traceback

import keras
import numpy as np
import pytest
from click.testing import CliRunner
from support import messages
from support.messages import KINDS, PAGE, SOURCE

import keras_ratchet
from keras_ratchet import errors
from keras_ratchet._distributed.raised import Raised, result
from keras_ratchet._storage import disk
from keras_ratchet.cli import main

LINK = re.compile(r"See https://keras-ratchet\.readthedocs\.io/en/stable/troubleshooting\.html#")
OWN_WORDS_ARE_ANOTHERS = {"_distributed/raised.py"}  # passes on what another error says

FOUND = messages.messages()


def links(error):
    """Return the anchors in the notes of an error."""
    notes = getattr(error, "__notes__", [])
    return [LINK.sub("", note) for note in notes if LINK.match(note)]


def in_source(name):
    """Yield where a function or a class is called in the source, and the call."""
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == name:
                yield f"{path.relative_to(SOURCE)}:{node.lineno}", node


# The page.


def test_each_section_lists_the_messages_that_lead_to_it():
    text = PAGE.read_text()
    page = messages.written(text, FOUND)
    if os.environ.get("RATCHET_WRITE_DOCS"):
        PAGE.write_text(page)
    else:
        assert text == page, "RATCHET_WRITE_DOCS=1 writes the lists again"


@pytest.mark.parametrize("kind", [name for name in KINDS if name != "RatchetError"])
def test_each_place_that_raises_is_on_the_page(kind):
    listed = {message.where for message in FOUND}
    raised = {where for where, _ in in_source(kind) if not where.startswith("errors.py")}
    missing = {
        where for where in raised - listed if where.split(":")[0] not in OWN_WORDS_ARE_ANOTHERS
    }
    assert raised and not missing


def test_nobody_raises_the_base_class():
    assert not list(in_source("RatchetError"))


def test_each_anchor_is_written_out_where_it_is_used():
    names = [*KINDS, "explained"]
    calls = [(where, call) for name in names for where, call in in_source(name)]
    own = ("errors.py", *OWN_WORDS_ARE_ANOTHERS)
    given = [
        (where, keyword.value)
        for where, call in calls
        for keyword in call.keywords
        if keyword.arg == "see" and not where.startswith(own)
    ]
    assert len(given) > 150
    assert not [where for where, value in given if not isinstance(value, ast.Constant)]


def test_each_anchor_that_is_used_has_a_section_and_each_section_is_used():
    sections = messages.sections(PAGE.read_text())  # fails if an anchor stands twice
    used = {message.anchor for message in FOUND} | {kind.anchor for kind in KINDS.values()}
    assert used == set(sections)
    assert {kind.anchor for kind in KINDS.values()} <= used


def test_each_section_says_what_to_do_before_it_lists_messages():
    for anchor, text in messages.sections(PAGE.read_text()).items():
        assert re.match(r"#{1,3} \S", text), anchor
        if anchor != errors.RatchetError.anchor:
            prose, mark, _ = text.partition(f"<!-- messages: {anchor} -->\n")
            assert mark and len(prose.split()) >= 15, anchor


@pytest.mark.parametrize(
    "said",
    [
        "Metric … is not in the logs.",  # from a function that makes messages
        "NaN or Inf loss encountered at batch",  # given to the method that raises
        "its member … points outside the archive",  # another exception of the module
        "rank … waits in vain at … for …",  # one of several that a function returns
        "would never be called: keras_ratchet.…",  # of Python's own class
        "There are: ….",
    ],
)
def test_messages_are_found_however_they_are_made(said):
    assert any(said in message.template for message in FOUND)


# The link.


def missing_suffix():
    with pytest.raises(errors.ConfigError) as caught:
        keras_ratchet.ModelCheckpoint("best.pt")
    return caught.value


def test_a_traceback_ends_with_the_link_and_the_message_is_without():
    error = missing_suffix()
    *_, last = traceback.format_exception(error)
    assert last == f"See {error.url}\n" == f"See {errors.PAGE}#filepath\n"
    assert "http" not in str(error)


def test_errors_of_pythons_own_classes_have_the_link():
    with pytest.raises(TypeError, match="would never be called") as caught:
        type("Mine", (keras_ratchet.ModelCheckpoint,), {"_should_save_model": lambda self: True})
    assert links(caught.value) == ["subclass"]


def test_ratchet_prints_the_link_on_a_line_of_its_own_and_faintly(tmp_path):
    def outcome(color):
        return CliRunner().invoke(main, ["history", str(tmp_path)], color=color)

    url = f"{errors.PAGE}#no-history"
    plain = outcome(color=False)
    assert plain.output.startswith("Error: no run has saved in")
    assert plain.output.splitlines()[-1] == f"See {url}"
    assert plain.exit_code == 2
    assert outcome(color=True).output.splitlines()[-1] == f"\x1b[2mSee {url}\x1b[0m"


def test_ratchet_prints_no_link_for_an_error_of_the_system(tmp_path, monkeypatch):
    def fail(directory):
        raise OSError(errno.EIO, "broken", directory)

    monkeypatch.setattr("keras_ratchet.cli.history.events_of", fail)
    outcome = CliRunner().invoke(main, ["history", str(tmp_path)])
    assert outcome.output == f"Error: broken: {str(tmp_path)!r}\n"
    assert outcome.exit_code == 2


@pytest.mark.parametrize(
    ("number", "anchor"),
    [
        (errno.ENOSPC, "disk-full"),
        (errno.EDQUOT, "disk-full"),
        (errno.EACCES, "no-permission"),
        (errno.EROFS, "no-permission"),
        (errno.EIO, "save-failed"),
    ],
)
def test_a_save_error_links_to_what_the_system_said(number, anchor):
    error = errors.SaveError(number, "could not save", "best.keras")
    assert links(error) == [anchor]
    assert (error.errno, error.strerror, error.filename) == (number, "could not save", "best.keras")
    assert errors.SaveError("a sentence").anchor == "save-failed"
    assert errors.SaveError(number, "said", see="store-failed").anchor == "store-failed"


EXAMPLES = [
    *[kind("what happened") for kind in KINDS.values()],
    errors.ConfigError("what happened", see="metadata"),
    errors.SaveError(errno.ENOSPC, "full", "best.keras"),
    errors.SaveError(errno.EIO, "broken"),
]


@pytest.mark.parametrize("error", EXAMPLES, ids=repr)
@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))]
)
def test_a_copy_has_the_one_link_and_everything_else(error, copied):
    error = copied(error)  # of the example
    error.add_note("noted by the user")
    other = copied(error)
    assert type(other) is type(error) and other.args == error.args and str(other) == str(error)
    assert other.url == error.url and links(other) == [error.anchor]
    assert other.__notes__ == error.__notes__
    if isinstance(error, OSError):
        assert (other.errno, other.filename) == (error.errno, error.filename)


def test_raising_again_adds_no_link():
    error = missing_suffix()
    for _ in range(2):
        with pytest.raises(errors.ConfigError) as caught:
            raise error from None
    assert links(caught.value) == ["filepath"]


# On the way.


class FullDisk(disk.Disk):
    """A disk without room."""

    def write(self, fd, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_an_error_of_a_save_in_the_background_has_its_link_when_it_is_raised(tmp_path, monkeypatch):
    x = np.zeros((8, 4), "float32")
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    saver = keras_ratchet.ModelCheckpoint(tmp_path / "{epoch}.keras", background=True)
    fill = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: monkeypatch.setattr(disk, "current", FullDisk())
    )
    with pytest.raises(errors.SaveError) as caught:
        model.fit(x, x[:, :1], epochs=2, verbose=0, callbacks=[fill, saver])
    assert links(caught.value) == ["disk-full"]


class Unpicklable(errors.ResumeError):
    """An error that cannot travel as it is."""

    def __reduce__(self):
        raise TypeError("no")


@pytest.mark.parametrize("kind", [errors.ResumeError, Unpicklable])
def test_an_error_of_another_rank_keeps_its_link(kind):
    sent = Raised(kind("what happened", see="data-position"), rank=1)
    for _ in range(2):  # raised by several callbacks
        sent = pickle.loads(pickle.dumps(sent))
        with pytest.raises(errors.RatchetError, match="what happened") as caught:
            result(sent)
    assert links(caught.value) == ["data-position"]
    assert caught.value.__notes__.count("raised on rank 1") == 1


def test_what_is_not_ours_links_to_the_section_on_ranks():
    class Foreign(Exception):
        anchor = "nowhere"

    error = pickle.loads(pickle.dumps(Raised(Foreign("local"), rank=1))).error
    assert links(error) == ["ranks"]
