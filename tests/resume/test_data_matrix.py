"""Every kind of data x {epoch end, mid-epoch}: exact, or warned about before training begins.

The table of docs/resume.md is what is seen here; RATCHET_WRITE_DOCS=1 writes it.
"""

import os
import re
import warnings
from pathlib import Path

import pytest
from support.resuming import Kill, Script
from support.sources import SOURCES, WARNED

SEEN = {}
DOCS = Path(__file__).parents[2] / "docs" / "resume.md"


@pytest.mark.parametrize("name", SOURCES)
def test_a_killed_training_ends_as_one_that_was_not(name, tmp_path, backend):
    complaints = []
    script = Script(str(tmp_path / "backup"), SOURCES[name])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        whole = script.uninterrupted(save_freq="epoch")
        middle = Script(str(tmp_path / "middle"), SOURCES[name]).chain(
            Kill(17), Kill(18), save_freq=3
        )
        ends = script.chain(Kill(17), save_freq="epoch")
        complaints = [str(w.message) for w in caught if "will not be exact" in str(w.message)]
    if name in WARNED:
        assert complaints and re.search(WARNED[name], complaints[0]), complaints
        SEEN[name] = "warned"
        return
    assert not complaints
    assert ends.differences(whole) == []
    assert middle.differences(whole) == []
    SEEN[name] = "exact"


def test_the_table_in_the_docs_is_what_was_seen(backend):
    if set(SEEN) != set(SOURCES):
        pytest.skip("not all of the matrix was run")
    text = DOCS.read_text()
    found = re.search(r"<!-- matrix -->\n(.*?)<!-- /matrix -->", text, re.DOTALL)
    table = _changed(found[1], backend)
    if os.environ.get("RATCHET_WRITE_DOCS"):
        DOCS.write_text(text.replace(found[1], table))
    else:
        assert found[1] == table, "RATCHET_WRITE_DOCS=1 writes the table anew"


def _changed(table, backend):
    """Return the table with this backend's column as it was seen, rows in their order."""
    backends = ["torch", "tensorflow", "jax"]
    rows = {}
    for line in table.splitlines()[2:]:
        name, *cells = [cell.strip() for cell in line.strip("|").split("|")]
        rows[name.strip("`")] = cells
    lines = ["| data | torch | tensorflow | jax |", "|---|---|---|---|"]
    for name in SOURCES:
        cells = rows.get(name, ["", "", ""])
        cells[backends.index(backend)] = SEEN[name]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
