"""Read from source: which names Keras defines, which ones we touch, which ones our tables list."""

import ast
import functools
import re
from dataclasses import dataclass
from pathlib import Path

import keras

import keras_ratchet

OURS = Path(keras_ratchet.__file__).parent
KERAS = Path(keras.__file__).parent / "src"
PARTS = "backend callbacks legacy losses metrics models optimizers random saving trainers utils"
SELF = ("self", "cls", "instance")
BY_NAME = ("getattr", "hasattr", "setattr", "delattr")
NOTES = "_keras_ratchet"  # how the names of what we note on a model start


def is_private(name):
    return isinstance(name, str) and re.fullmatch(r"_[a-zA-Z]\w*", name) is not None


@dataclass(frozen=True)
class Defined:
    """The names in source files.

    Attributes:
        members: Names by the class or module that defines them: methods, attributes of `self`.
        locals: Names of arguments and variables, by function.
        strings: Every string, by module.
        bases: Names of base classes, by class.
    """

    members: dict[str, set[str]]
    locals: dict[str, set[str]]
    strings: dict[str, set[str]]
    bases: dict[str, set[str]]

    def knows(self, name):
        """Return whether a name is defined, written as in the tables of `_keras`.

        `Trainer` stands for `TorchTrainer` and its kin, too: Keras's versions differ in that.
        """
        if match := re.fullmatch(r"(\w+)\['(\w+)'\]", name):
            return match[2] in self.strings.get(match[1], ())
        if match := re.fullmatch(r"(\w+):(\w+)", name):
            return match[2] in self.locals.get(match[1], ())
        owner, _, member = name.rpartition(".")
        kin = [known for known in self.members if known.endswith(owner)]
        return any(member in self.of(one) for one in kin) if owner else member in self.members

    def of(self, owner):
        """Return the names that a class or module has, those of its base classes too."""
        seen, waiting, found = set(), [owner], set()
        while waiting:
            name = waiting.pop()
            if name not in seen:
                seen.add(name)
                found |= self.members.get(name, set())
                waiting += self.bases.get(name, ())
        return found

    def private(self):
        """Return all private names that something has."""
        return {name for names in self.members.values() for name in names if is_private(name)}


def defined_in(sources):
    """Return what the texts of modules define, given by the modules' names."""
    found = Defined({}, {}, {}, {})
    for module, text in sources:
        _read(ast.parse(text), module, (), found)
    return found


def _read(node, owner, functions, found):
    """Note what stands in a node: members of `owner`, locals of the functions around it."""
    for child in ast.iter_child_nodes(node):
        inner, around = owner, functions
        if isinstance(child, ast.ClassDef):
            found.members.setdefault(owner, set()).add(child.name)
            found.members.setdefault(child.name, set())
            inner, around = child.name, ()
            names = {getattr(b, "id", getattr(b, "attr", "")) for b in child.bases}
            found.bases.setdefault(child.name, set()).update(names)
        elif isinstance(child, ast.FunctionDef):
            found.members.setdefault(owner, set()).add(child.name)
            around = (*functions, child.name)
            spec = child.args
            every = [*spec.posonlyargs, *spec.args, *spec.kwonlyargs, spec.vararg, spec.kwarg]
            found.locals.setdefault(child.name, set()).update(a.arg for a in every if a)
        elif isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store):
            _bind(child.id, owner, functions, found)
        elif isinstance(child, ast.alias):
            _bind((child.asname or child.name).partition(".")[0], owner, functions, found)
        elif isinstance(child, ast.Attribute) and isinstance(child.ctx, ast.Store):
            if isinstance(child.value, ast.Name) and child.value.id in SELF:
                found.members.setdefault(owner, set()).add(child.attr)
        elif isinstance(child, ast.Constant) and isinstance(child.value, str):
            found.strings.setdefault(owner, set()).add(child.value)
        _read(child, inner, around, found)


def _bind(name, owner, functions, found):
    if functions:
        found.locals.setdefault(functions[-1], set()).add(name)
    else:
        found.members.setdefault(owner, set()).add(name)


@functools.cache
def of_keras():
    """Return what the parts of Keras that we have to do with define, on every backend."""
    files = [path for part in PARTS.split() for path in (KERAS / part).rglob("*.py")]
    files += [KERAS / "layers" / "layer.py", KERAS / "ops" / "operation.py"]
    heavy = {"numpy", "nn", "linalg", "math", "image"}
    return defined_in((p.stem, p.read_text()) for p in files if p.stem not in heavy)


@functools.cache
def of_ours():
    return defined_in((p.stem, p.read_text()) for p in sorted(OURS.rglob("*.py")))


@dataclass(frozen=True)
class Touch:
    """A private name that is not ours, where it stands, and whether only a string says it."""

    name: str
    line: int
    in_string: bool


@functools.cache
def touches(source):
    """Return each private name in a module that is not the name of something of ours.

    A name is ours if it is read from `self` and our class, or a base of it that is ours, defines
    it; if it is read from a module or class of ours; or if our source defines it and Keras does
    not. A name of Keras's in a string counts too, unless our source has such a name as well.
    """
    tree = ast.parse(source)
    here = defined_in([("the module", source)])
    known = {*here.members} | {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("keras_ratchet")
        for alias in node.names
    }
    by_keras, by_us = _private_names()
    both = by_us | here.private()
    ours = both - by_keras
    found = []
    for owners, node in _with_classes(tree, ()):
        on, name = _access(node)
        in_string = isinstance(node, ast.Constant) and node.value in by_keras - both
        if in_string:
            on, name = "", node.value
        if not is_private(name) or name in ours or name.startswith(NOTES):
            continue
        own = {n for o in owners for n in (*here.of(o), *_inherited(o, here))}
        if on in SELF and name in own:
            continue
        if on not in known:
            found.append(Touch(name, node.lineno, in_string))
    return found


@functools.cache
def _private_names():
    return of_keras().private(), of_ours().private()


def _inherited(owner, here):
    return {name for base in here.bases.get(owner, ()) for name in of_ours().of(base)}


def _with_classes(node, owners):
    for child in ast.iter_child_nodes(node):
        inner = (*owners, child.name) if isinstance(child, ast.ClassDef) else owners
        yield inner, child
        yield from _with_classes(child, inner)


def _access(node):
    """Return (name of the object, name of the attribute) of an access, by dot or by a string."""
    if isinstance(node, ast.Attribute):
        is_type_of_self = ast.unparse(node.value) == "type(self)"
        return "self" if is_type_of_self else getattr(node.value, "id", ""), node.attr
    if isinstance(node, ast.Call) and getattr(node.func, "id", "") in BY_NAME:
        return getattr(node.args[0], "id", ""), getattr(node.args[1], "value", None)
    return "", None


def imported(source):
    """Return what a module uses of `keras.src`, as the tables write it."""
    tree = ast.parse(source)
    names = {
        alias.asname or alias.name: (node.module.rpartition(".")[2], alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("keras.src")
        for alias in node.names
    }
    used = {name: set() for name in names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and getattr(node.value, "id", None) in names:
            used[node.value.id].add(node.attr)
    return {
        f"{name}.{member}" if member else ".".join(names[name])
        for name, members in used.items()
        for member in (members or {""})
    }


@dataclass(frozen=True)
class Row:
    """A name in a table, and the first version of Keras that it was checked on."""

    name: str
    since: tuple[int, ...]


def table(path):
    """Return the rows in the docstring of a module of `_keras`."""
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| `")]
    for names, _, versions in (cells for cells in lines if len(cells) == 3):
        since = tuple(map(int, versions.split()[0].split(".")))
        yield from (Row(name, since) for name in re.findall(r"`([^`]+)`", names))
