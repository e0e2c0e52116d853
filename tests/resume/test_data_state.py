"""State that hides in the data, or in what is validated on: kept, or named in a warning.

As test_data_matrix, whose table in docs/resume.md these rows stand in too.
"""

import os
import re
import warnings
from pathlib import Path

import pytest
from support.hidden import HIDDEN, HIDDEN_WARNED, VALIDATION, VALIDATION_WARNED
from support.resuming import Kill, Script

ROWS = {**HIDDEN, **VALIDATION}
WARNED = {**HIDDEN_WARNED, **VALIDATION_WARNED}
SEEN = {}
DOCS = Path(__file__).parents[2] / "docs" / "resume.md"


def complaint(name, backend):
    """Return what the warning says, or None where there is to be none."""
    expected = WARNED.get(name)
    if isinstance(expected, dict):
        return expected.get(backend, expected[""])
    return expected


@pytest.mark.parametrize("name", ROWS)
def test_state_that_hides_in_the_data_is_kept_or_named(name, tmp_path, backend):
    script = Script(str(tmp_path / "ends"), ROWS[name])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        whole = script.uninterrupted(save_freq="epoch")
        told = [str(w.message) for w in caught if "will not be exact" in str(w.message)]
        if expected := complaint(name, backend):
            assert len(told) == 1 and re.search(expected, told[0]), told
            SEEN[name] = "warned"
            return
        ends = script.chain(Kill(17), save_freq="epoch")
        middle = Script(str(tmp_path / "middle"), ROWS[name]).chain(Kill(16), Kill(24), save_freq=3)
    assert not told
    assert ends.differences(whole) == []
    assert middle.differences(whole) == []
    SEEN[name] = "exact"


def test_the_table_in_the_docs_is_what_was_seen(backend):
    if set(SEEN) != set(ROWS):
        pytest.skip("not all of the matrix was run")
    text = DOCS.read_text()
    found = re.search(r"<!-- hidden -->\n(.*?)<!-- /hidden -->", text, re.DOTALL)
    table = _changed(found[1], backend)
    if os.environ.get("RATCHET_WRITE_DOCS"):
        DOCS.write_text(text.replace(found[1], table))
    else:
        assert found[1] == table, "RATCHET_WRITE_DOCS=1 writes the table anew"


def _changed(table, backend):
    """Return the table with this backend's column as it was seen."""
    backends = ["torch", "tensorflow", "jax"]
    rows = {}
    for line in table.splitlines()[2:]:
        name, *cells = [cell.strip() for cell in line.strip("|").split("|")]
        rows[name.strip("`")] = cells
    lines = ["| data | torch | tensorflow | jax |", "|---|---|---|---|"]
    for name in ROWS:
        cells = rows.get(name, ["", "", ""])
        cells[backends.index(backend)] = SEEN[name]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
