"""The messages of the package, read from its source, as docs/troubleshooting.md lists them."""

import ast
import errno
import functools
import re
import textwrap
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import keras_ratchet
from keras_ratchet import errors

SOURCE = Path(keras_ratchet.__file__).parent
PAGE = SOURCE.parent.parent / "docs" / "troubleshooting.md"

KINDS = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, errors.RatchetError)
}
WARNINGS, USAGE = "warnings", "usage"  # sections that are not named in the message
VALUE = "…"
ERRNOS = (errno.ENOSPC, errno.EACCES, errno.EIO)
_DEEPEST = 4  # of functions that call each other to make a message

Functions = dict[str, list[ast.FunctionDef]]


@dataclass(frozen=True)
class Message:
    """What a line of the source says to users, with … for values."""

    kind: str
    template: str
    anchor: str
    where: str = field(compare=False, default="")

    @property
    def line(self):
        """As it is on the page."""
        return self.template if self.kind == "UserWarning" else f"{self.kind}: {self.template}"


@dataclass(frozen=True)
class _Place:
    """Where an expression stands: what its names mean."""

    module: ast.Module
    function: ast.AST | None
    elsewhere: Functions = field(repr=False)
    depth: int = 0

    def within(self, function):
        return _Place(self.module, function, self.elsewhere, self.depth + 1)


@functools.cache
def _trees():
    return {path: ast.parse(path.read_text()) for path in sorted(SOURCE.rglob("*.py"))}


def _functions(tree):
    found = defaultdict(list)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            found[node.name].append(node)
    return found


@functools.cache
def _all_functions():
    found = defaultdict(list)
    for tree in _trees().values():
        for name, functions in _functions(tree).items():
            found[name] += functions
    return found


def messages():
    """Return all messages of the package, in the order of its source."""
    found = []
    for path, tree in _trees().items():
        if path.name == "errors.py" and path.parent == SOURCE:
            continue
        for function, call in _calls(tree):
            place = _Place(tree, function, _all_functions())
            where = f"{path.relative_to(SOURCE)}:{call.lineno}"
            if (said := _said(call)) is not None:
                kind, expression, anchors = said
                texts = [text for text in _templates(expression, place) if is_telling(text)]
                found += [Message(kind, text, a, where) for text in texts for a in anchors]
    return found


def is_telling(text):
    """Return whether a message has words of its own, and not only those of another one."""
    return len(re.findall(r"[A-Za-z]{2,}", text)) > 1


def _calls(tree, function=None):
    """Yield each call and the function around it."""
    for node in ast.iter_child_nodes(tree):
        inner = node if isinstance(node, ast.FunctionDef) else function
        if isinstance(node, ast.Call):
            yield inner, node
        yield from _calls(node, inner)


def _said(call):
    """Return the class, the expression of the message and anchors; None if it is no message."""
    name = ast.unparse(call.func)
    if name in KINDS:
        text = call.args[1 if name == "SaveError" and len(call.args) > 1 else 0]
        return name, text, [_see(call)] if _see(call) else _anchors(name)
    if name == "explained" and isinstance(call.args[0], ast.Call):
        error = call.args[0]
        return ast.unparse(error.func), error.args[0], [_see(call)]
    if name == "warn":
        return "UserWarning", call.args[0], [WARNINGS]
    if name in ("click.UsageError", "self.fail"):
        return "Error", call.args[0], [USAGE]
    return None


def _anchors(name):
    """Return where a class without `see=` leads; a SaveError goes by its number, too."""
    by_number = [] if name != "SaveError" else [errors.SaveError(n, "").anchor for n in ERRNOS]
    return list(dict.fromkeys([KINDS[name].anchor, *by_number]))


def _see(call):
    """Return what `see=` is; constants only, so that a reader of the source sees it, too."""
    for keyword in call.keywords:
        if keyword.arg == "see" and isinstance(keyword.value, ast.Constant):
            return keyword.value.value
    return None


def _templates(node, place):
    """Return what an expression can say, with … for values."""
    texts = [re.sub(f"{VALUE}(\\s*{VALUE})+", VALUE, text) for text in _texts(node, place)]
    return [" ".join(text.split()) for text in dict.fromkeys(texts)]


def _texts(node, place):
    if isinstance(node, ast.Constant):
        return [str(node.value)]
    if isinstance(node, ast.JoinedStr):
        return [""] if not node.values else _joined(node.values, place)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        ends = _texts(node.right, place)
        return [start + end for start in _texts(node.left, place) for end in ends]
    if isinstance(node, ast.IfExp):
        return _texts(node.body, place) + _texts(node.orelse, place)
    if place.depth < _DEEPEST:
        if isinstance(node, ast.Call):
            return _returned(node, place)
        if isinstance(node, ast.Name | ast.Attribute):
            return _assigned(node, place)
    return [VALUE]


def _joined(parts, place):
    """Return what an f-string can say."""
    texts = [""]
    for part in parts:
        said = [part.value] if isinstance(part, ast.Constant) else _in_braces(part, place)
        texts = [text + more for text in texts for more in said]
    return texts


def _in_braces(part, place):
    """Return what stands for a value: … but for other messages and constants of the module."""
    value = part.value
    is_plain = part.conversion == -1 and part.format_spec is None
    if is_plain and place.depth < _DEEPEST:
        if isinstance(value, ast.Name) and value.id.isupper():
            return _assigned(value, _Place(place.module, None, place.elsewhere, _DEEPEST - 1))
        if isinstance(value, ast.Name):
            return _reasons(value.id, place) or [VALUE]
        if isinstance(value, ast.Call) and ast.unparse(value.func).endswith("message"):
            return _returned(value, place)
    return [VALUE]


def _reasons(name, place):
    """Return the messages of a module's own exception that is caught under this name."""
    texts = []
    for node in ast.walk(place.function or place.module):
        if isinstance(node, ast.ExceptHandler) and node.name == name:
            own = ast.unparse(node.type or ast.Constant(None))
            if any(isinstance(n, ast.ClassDef) and n.name == own for n in place.module.body):
                for function, call in _calls(place.module):
                    if ast.unparse(call.func) == own:
                        texts += _texts(call.args[0], place.within(function))
    return texts


def _returned(call, place):
    """Return what a function of ours returns."""
    name = ast.unparse(call.func).split(".")[-1]
    functions = _functions(place.module).get(name) or place.elsewhere.get(name, [])
    texts = []
    for function in functions if len(functions) == 1 else []:
        for node in ast.walk(function):
            if isinstance(node, ast.Return) and node.value is not None:
                texts += _texts(node.value, place.within(function))
    return texts or [VALUE]


def _assigned(name, place):
    """Return what a name can stand for: what is assigned to it, or given for it."""
    within = place.function if isinstance(name, ast.Name) else place.module
    texts = []
    for node in ast.walk(within or place.module):
        if isinstance(node, ast.Assign) and ast.unparse(name) in map(ast.unparse, node.targets):
            texts += _texts(node.value, place.within(place.function))
    if isinstance(name, ast.Name) and not texts:
        texts += _given(name.id, place)
    if isinstance(name, ast.Name) and not texts and place.function is not None:
        texts = _assigned(name, _Place(place.module, None, place.elsewhere, place.depth + 1))
    return [text for text in texts if text] or [VALUE]


def _given(name, place):
    """Return what callers in this module give for a parameter."""
    if place.function is None:
        return []
    names = [argument.arg for argument in place.function.args.args if argument.arg != "self"]
    if name not in names:
        return []
    index, texts = names.index(name), []
    for function, call in _calls(place.module):
        called = ast.unparse(call.func).split(".")[-1] == place.function.name
        if called and len(call.args) > index:
            texts += _texts(call.args[index], place.within(function))
    return texts


def listed(anchor, found):
    """Return the list of one section, as the page has it."""
    lines = sorted({message.line for message in found if message.anchor == anchor})
    return "".join(_item(line) for line in lines)


def _item(line):
    marks = "``" if "`" in line else "`"
    space = " " if "`" in line else ""
    text = f"{marks}{space}{line}{space}{marks}"
    lines = textwrap.wrap(text, 116, break_long_words=False, break_on_hyphens=False)
    return "- " + "\n  ".join(lines) + "\n"


def sections(text):
    """Return the part of the page that follows each anchor, by anchor; twice is an error."""
    parts = re.split(r"^\(([\w-]+)\)=\n", text, flags=re.MULTILINE)
    anchors = parts[1::2]
    assert len(anchors) == len(set(anchors)), "an anchor stands twice"
    return dict(zip(anchors, parts[2::2], strict=True))


def written(text, found):
    """Return the page with its lists as the source has them."""

    def fill(match):
        return f"{match[1]}{listed(match[2], found)}{match[3]}"

    mark = r"(<!-- messages: ([\w-]+) -->\n)(?:.*\n)*?(<!-- /messages -->)"
    return re.sub(mark, fill, text)
