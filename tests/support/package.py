"""What is wrong with a built package: `python tests/support/package.py dist`."""

import re
import sys
import tarfile
import zipfile
from email.parser import BytesParser
from pathlib import Path, PurePosixPath

SDIST = {"src", "tests", "docs", "examples", "benchmarks", ".ci", ".github", ".gitignore"} | {
    ".pre-commit-config.yaml",
    ".readthedocs.yaml",
    "CHANGELOG.md",
    "CITATION.cff",
    "CODE_OF_CONDUCT.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "LICENSE",
    "Makefile",
    "PKG-INFO",
    "README.md",
    "constraints.txt",
    "constraints-floors.txt",
    "constraints-integrations.txt",
    "constraints-ranks.txt",
    "constraints-ray.txt",
    "pyproject.toml",
}
STRAY = re.compile(r"__pycache__|\.py[cod]$|\.ipynb_checkpoints|(^|/)(runs|build|\.venv)/")


def stray_in_wheel(names, package="keras_ratchet"):
    """Return the files that no wheel of this package should have."""
    return [
        name
        for name in names
        if STRAY.search(name) or not re.match(rf"{package}(/|-[^/]+\.dist-info/)", name)
    ]


def stray_in_sdist(names):
    """Return the files that no source distribution should have; the names start with its root."""
    inside = [str(PurePosixPath(*PurePosixPath(name).parts[1:])) for name in names]
    return [n for n in inside if STRAY.search(n) or PurePosixPath(n).parts[0] not in SDIST]


def relative_links(description):
    """Return the links of a README that lead nowhere on PyPI."""
    text = re.sub(r"^```.*?^```", "", description, flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"\]\((?!https?://|#|mailto:)([^)]*)\)", text)


def problems(directory):
    """Return a line for whatever is wrong with the one wheel and the one sdist in a directory."""
    (wheel,), (sdist,) = directory.glob("*.whl"), directory.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        about = BytesParser().parsebytes(archive.read(metadata))
    with tarfile.open(sdist) as archive:
        sources = [member.name for member in archive.getmembers() if member.isfile()]
    found = [f"stray file in the wheel: {name}" for name in stray_in_wheel(names)]
    found += [f"stray file in the sdist: {name}" for name in stray_in_sdist(sources)]
    found += [f"relative link in the README: {to}" for to in relative_links(about.get_payload())]
    source = {str(PurePosixPath(*PurePosixPath(name).parts[2:])) for name in sources}
    found += [
        f"in the wheel, but not in the sdist: {name}"
        for name in names
        if ".dist-info/" not in name and name not in source
    ]
    wanted = {"keras_ratchet/py.typed", "keras_ratchet/__main__.py"}
    found += [f"missing in the wheel: {name}" for name in sorted(wanted - set(names))]
    if not about["Version"] or about["Name"] != "keras-ratchet":
        found.append(f"name and version are {about['Name']!r} and {about['Version']!r}")
    return found


if __name__ == "__main__":
    lines = problems(Path(sys.argv[1]))
    if lines:
        sys.exit("\n".join(lines))
    print("the package has what it should, and no more")
