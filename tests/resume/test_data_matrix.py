"""Every kind of data x {epoch end, mid-epoch}: exact, or named in a warning before it matters.

The two tables of docs/resume.md are what is seen here, the kinds of data and the state that hides
in data or in what is validated on; RATCHET_WRITE_DOCS=1 writes them.
"""

import os
import re
import warnings
from pathlib import Path

import pytest
from support.hidden import HIDDEN, HIDDEN_WARNED, VALIDATION, VALIDATION_WARNED
from support.resuming import Kill, Script
from support.sources import SOURCES, WARNED

TABLES = {"matrix": SOURCES, "hidden": {**HIDDEN, **VALIDATION}}
CASES = {**SOURCES, **HIDDEN, **VALIDATION}
COMPLAINTS = {**WARNED, **HIDDEN_WARNED, **VALIDATION_WARNED}
# In mid-epoch, with a save every three batches: just after a resume, or an epoch later.
KILLS = {name: (17, 18) if name in SOURCES else (16, 24) for name in CASES}
TWO_REASONS = {"DataLoader, persistent workers", "generator"}  # each with a warning of its own
SEEN = {}
DOCS = Path(__file__).parents[2] / "docs" / "resume.md"


def complaint(name, backend):
    """Return what the warning says, or None where there is to be none."""
    expected = COMPLAINTS.get(name)
    if isinstance(expected, dict):
        return expected.get(backend, expected[""])
    return expected


@pytest.mark.parametrize("name", CASES)
def test_a_killed_run_ends_as_one_that_was_not_killed_or_says_why_not(name, tmp_path, backend):
    script = Script(str(tmp_path / "ends"), CASES[name])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        whole = script.uninterrupted(save_freq="epoch")
        told = [str(w.message) for w in caught if "will not be exact" in str(w.message)]
        kills = [Kill(batches) for batches in KILLS[name]]
        middle = Script(str(tmp_path / "middle"), CASES[name]).chain(*kills, save_freq=3)
        ends = script.chain(Kill(17), save_freq="epoch")
        later = [str(w.message) for w in caught if "will not be exact" in str(w.message)]
    if expected := complaint(name, backend):
        assert re.search(expected, told[0]), told
        assert len(told) == 1 or name in TWO_REASONS, told
        SEEN[name] = "warned"
        return
    assert not later
    assert ends.differences(whole) == []
    assert middle.differences(whole) == []
    SEEN[name] = "exact"


@pytest.mark.parametrize("mark", TABLES)
def test_the_table_in_the_docs_is_what_was_seen(mark, backend):
    rows = TABLES[mark]
    if not set(rows) <= set(SEEN):
        pytest.skip("not all of the table was run")
    text = DOCS.read_text()
    found = re.search(rf"<!-- {mark} -->\n(.*?)<!-- /{mark} -->", text, re.DOTALL)
    table = _changed(found[1], rows, backend)
    if os.environ.get("RATCHET_WRITE_DOCS"):
        DOCS.write_text(text.replace(found[1], table))
    else:
        assert found[1] == table, "RATCHET_WRITE_DOCS=1 writes the table again"


def _changed(table, names, backend):
    """Return the table with this backend's column as it was seen, rows in their order."""
    backends = ["torch", "tensorflow", "jax"]
    rows = {}
    for line in table.splitlines()[2:]:
        name, *cells = [cell.strip() for cell in line.strip("|").split("|")]
        rows[name.strip("`")] = cells
    lines = ["| data | torch | tensorflow | jax |", "|---|---|---|---|"]
    for name in names:
        cells = rows.get(name, ["", "", ""])
        cells[backends.index(backend)] = SEEN[name]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
