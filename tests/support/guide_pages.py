"""The blocks of a guide that need clients which are not in the environment, as a script."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from support import processes

GUIDES = processes.TESTS.parent / "docs/guides"
MARK = "<!-- runs in tests/integrations -->"
BLOCK = re.compile(r"^(<!-- (\w+) -->\n)?```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


def pages():
    """Return the guides that have the mark in their first lines, as tests/test_readme.py has it."""
    return [
        page for page in sorted(GUIDES.glob("*.md")) if MARK in page.read_text().splitlines()[:5]
    ]


def script(page, label=""):
    """Return the blocks with this label above them, or with none, as one script."""
    found = BLOCK.findall(Path(page).read_text())
    return "\n".join(code for _, own, code in found if own == label)


def run(code, directory, path, limit_s, **env):
    """Run a script in a directory with more on its path; return exit code and output."""
    (directory / "page.py").write_text(code)
    where = [*map(str, path), str(processes.SOURCE)]
    child = subprocess.Popen(
        [sys.executable, "-X", "faulthandler", "page.py"],
        cwd=directory,
        env={**os.environ, "KERAS_BACKEND": "torch", "PYTHONPATH": os.pathsep.join(where), **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = child.communicate(timeout=limit_s)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
    return child.returncode, output
