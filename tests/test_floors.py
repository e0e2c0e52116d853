"""The versions of constraints-floors.txt are the oldest ones that pyproject.toml claims."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def versions(lines, sign):
    """Return, by package, the numbers of its version without trailing zeros."""
    found = {}
    for line in lines:
        if match := re.match(rf"([\w-]+){sign}([\d.]+)", line):
            numbers = [int(part) for part in match[2].split(".")]
            while numbers[-1] == 0:
                numbers.pop()
            found[match[1]] = numbers
    return found


def test_the_floors_are_the_oldest_versions_that_are_claimed():
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project = pyproject["project"]
    optional = project["optional-dependencies"]
    extras = [*optional["plot"], *optional["fast"], *optional["store"]]
    extras += [d for d in pyproject["dependency-groups"]["test"] if "safetensors" in d]
    claimed = versions([*project["dependencies"], *extras], ">=")
    assert claimed == versions((ROOT / "constraints-floors.txt").read_text().splitlines(), "==")
    assert len(claimed) == len(project["dependencies"]) + 5
