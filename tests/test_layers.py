"""The direction of imports (docs/architecture.md): read from the source, not from memory."""

import ast
import sys
from pathlib import Path

import pytest

import keras_ratchet

ROOT = Path(keras_ratchet.__file__).parent
LOWER = {
    "errors": set(),
    "types": {"errors"},
    "policy": {"errors", "types"},
    "_storage": {"errors", "types"},
    "_keras": {"errors", "types"},
    "_formats": {"errors", "types", "_keras"},
    "_backends": {"errors", "types", "_keras"},
    "_distributed": {"errors", "types", "_keras"},
    "_engine": {
        "_distributed",
        "policy",
        "_storage",
        "_formats",
        "_backends",
        "_keras",
        "errors",
        "types",
    },
    "_probe": {"_engine", "_storage", "_backends", "_keras", "errors", "types"},
    "callbacks": {
        "_probe",
        "_distributed",
        "_engine",
        "policy",
        "_storage",
        "_formats",
        "_backends",
        "_keras",
    }
    | {"errors", "types"},
    "data": {"_engine", "_backends", "_keras", "policy._arguments", "errors", "types"},
    "loading": {"_engine", "policy", "_storage", "_formats", "_keras", "errors", "types"},
    "averaging": {"_engine", "policy", "_storage", "_formats", "_backends", "_keras"}
    | {"loading", "errors", "types"},
    "refitting": {"_engine", "policy", "_keras", "callbacks", "loading", "errors", "types"},
    "run": {"callbacks", "_engine", "errors", "types"},
    "_doctor": {"policy", "_storage", "errors", "types", "_formats.readers", "_formats.numeric"},
    "_supervisor": {"_storage", "errors", "types"},
    "following": {"_storage", "errors", "types"},
    "integrations": {"callbacks", "_storage", "_distributed", "errors", "types"},
    "plots": {"_storage", "errors", "types"},
    "_report": {"plots", "_storage", "errors", "types"},
    "cli": {"policy", "_storage", "plots", "errors", "types", "_doctor", "_supervisor", "following"}
    | {"_report"}
    | {"_formats.readers", "_formats.safetensors", "_formats.numeric", "_formats.patching"}
    | {"_formats.load_trial"},
    "__main__": {"cli"},
    "__init__": {"_distributed", "errors", "types", "callbacks", "data", "policy", "plots", "run"}
    | {"_storage", "loading", "averaging", "refitting", "following"},
}
for name in LOWER.keys() - {"errors", "types", "policy"}:
    LOWER[name] = LOWER[name] | {"_warn", "_json", "_html", "_numbers"}
LOWER["policy"] |= {"_json"}
LOWER["types"] |= {"_html"}
LOWER["_html"] = {"_numbers"}
LOWER["_warn"] = LOWER["_json"] = LOWER["_numbers"] = set()
IMPURE = {"os", "time", "random", "logging", "pathlib", "numpy", "keras", "datetime", "secrets"}
FRAMEWORKS = {"torch", "tensorflow", "jax"}
FILES = sorted(ROOT.rglob("*.py"))


def unit(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(path):
    """Yield (module, is at the top of the file) of every import statement."""
    tree = ast.parse(path.read_text())
    top = {id(node) for node in tree.body}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) in top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            base = node.module
            yield base, id(node) in top
            if base == "keras_ratchet" or base.count(".") == 1:
                yield from ((f"{base}.{alias.name}", id(node) in top) for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_downward(path):
    here = unit(path)
    for module, _ in imports(path):
        parts = module.split(".")
        if parts[0] == "keras_ratchet" and len(parts) > 1 and parts[1] != here:
            allowed = LOWER[here]
            names = {parts[1], ".".join(parts[1:3])}
            known = (ROOT / parts[1]).is_dir() or (ROOT / f"{parts[1]}.py").exists()
            assert names & allowed or not known, f"{path}: {here} imports {module}"
        if parts[0] == "keras_ratchet" and here == "_backends" and path.name != "__init__.py":
            assert not FRAMEWORKS & set(parts[2:]), f"{path}: backends do not know each other"


def modules():
    """Return the path of each module by its dotted name."""
    names = {}
    for path in FILES:
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        names[".".join(parts).removesuffix(".__init__")] = path
    return names


def imported_modules(path, names):
    """Return the modules of ours that a module imports: at its top, in functions, for types."""
    found = {module for module, _ in imports(path) if module in names}
    # `from package import module` is no import of what the package's own file defines
    return {m for m in found if not any(other.startswith(f"{m}.") for other in found)}


def circle(graph):
    """Return a circle of imports as a list of names, or None."""
    done, way = set(), []

    def visit(name):
        if name in way:
            return [*way[way.index(name) :], name]
        if name in done:
            return None
        way.append(name)
        found = next(filter(None, map(visit, sorted(graph.get(name, ())))), None)
        way.pop()
        done.add(name)
        return found

    return next(filter(None, map(visit, sorted(graph))), None)


def test_there_is_no_circle_of_imports_those_for_types_included():
    names = modules()
    graph = {name: imported_modules(path, names) for name, path in names.items()}
    graph.pop("keras_ratchet")  # the lazy names of the package: everything is below it
    assert circle(graph) is None
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}}) == ["a", "b", "c", "a"]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_each_layer_keeps_to_its_outside(path):
    here = unit(path)
    outside = {module.split(".")[0] for module, _ in imports(path)}
    if here == "policy":
        assert not outside & IMPURE
    if here in ("errors", "types", "_html"):
        assert outside <= sys.stdlib_module_names | {"keras_ratchet"}
    if here in ("_storage", "cli", "plots") or path.name == "readers.py":
        assert "keras" not in outside
    if not (
        here in ("_backends", "_distributed")
        and path.stem.removesuffix("_data").removesuffix("_slices").removesuffix("_device")
        in FRAMEWORKS
    ):
        assert not outside & FRAMEWORKS
    private = {module for module, _ in imports(path) if module.startswith("keras.src")}
    assert not private or here == "_keras"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_only_disk_changes_the_disk(path):
    """fsync, rename, unlink and their kin stand in _storage/disk.py and nowhere else."""
    if path.name == "disk.py":
        return
    verbs = {"fsync", "rename", "replace", "unlink", "remove", "rmdir", "rmtree", "ftruncate"}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert not (node.value.id in ("os", "shutil") and node.attr in verbs), path


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_warnings_are_given_by_the_one_function_that_finds_the_line_of_the_user(path):
    if path.name == "_warn.py":
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert (node.value.id, node.attr) != ("warnings", "warn"), f"{path}: use _warn.warn"


def test_importing_the_package_loads_nothing_heavy():
    import subprocess

    code = (
        "import sys, keras_ratchet; "
        "heavy = {'keras', 'numpy', 'torch', 'tensorflow', 'jax', 'h5py'} & set(sys.modules); "
        "assert not heavy, heavy; assert 'EarlyStopping' in dir(keras_ratchet)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
