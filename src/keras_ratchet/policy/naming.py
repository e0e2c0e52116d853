"""File name templates: `"{epoch:02d}-{val_loss:.2f}.keras"`.

A placeholder is a key: `{val_top-5}` works, and attributes and indices of values are out of reach.
"""

from __future__ import annotations

import math
import re
import string
from collections.abc import Mapping

from keras_ratchet.errors import ConfigError

COUNTERS = ("epoch", "batch")
_parse = string.Formatter().parse
_NUMBER = r"(?:[0-9][0-9,_]*(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?|nan|inf|NAN|INF)%?"
_PLAIN_SPEC = re.compile(r"(?:(?P<fill>.)?[<>=^])?[-+ #z0-9.,_]*[deEfFgGn%]?", re.DOTALL)


def fields(template: str) -> tuple[str, ...]:
    """Return the names of the placeholders, in order.

    Raises:
        ConfigError: If the template's braces do not match or a placeholder has no name.
    """
    try:
        names = [name for _, name, _, _ in _parse(template) if name is not None]
    except ValueError as error:
        raise ConfigError(
            f"filepath is not a valid template: {error}. Got: {template!r}.", see="filepath"
        ) from None
    for name in names:
        if not name or name.isdigit():
            raise ConfigError(
                f"Placeholders in filepath need a name, as in '{{epoch:02d}}' or "
                f"'{{val_loss:.2f}}'. Got: {template!r}.",
                see="filepath",
            )
    return tuple(names)


def head(template: str) -> tuple[str, bool]:
    """Return the text before the first placeholder, and whether there is no placeholder.

    Example:
        >>> head("runs/{{a}}/e{epoch}.keras"), head("best.keras")
        (('runs/{a}/e', False), ('best.keras', True))
    """
    literals: list[str] = []
    for literal, name, _, _ in _parse(template):
        literals.append(literal)
        if name is not None:
            return "".join(literals), False
    return "".join(literals), True


def escaped(text: str) -> str:
    """Return a template that renders as this text."""
    return text.replace("{", "{{").replace("}", "}}")


def unknown_directory_message(template: str, name: str) -> str:
    """Return the message about a placeholder in a directory that nothing fills in."""
    return (
        f"{{{name}}} in the directories of filepath is neither a counter nor a metric of this "
        "model, so all runs would share one directory. For a literal brace, write {{ and }}. "
        f"Got: {template!r}."
    )


def validate(template: str) -> None:
    """Raise a ConfigError if no metrics can fill in the template."""
    for field in fields(template):
        if set(field) & set("'\" "):  # `str({'lr': 0.1})` in a path
            raise ConfigError(unknown_directory_message(template, field), see="filepath")
    for _, name, spec, conversion in _parse(template):
        if name is None:
            continue
        sample: float = 1 if name in COUNTERS else 0.5
        try:
            _format(sample, spec or "", conversion)
        except ValueError as error:
            raise ConfigError(
                f"Placeholder {{{name}:{spec}}} in filepath does not fit "
                f"{'a whole number' if name in COUNTERS else 'a float'}: {error}. "
                f"Got: {template!r}.",
                see="filepath",
            ) from None


def render(template: str, values: Mapping[str, float]) -> tuple[str, tuple[str, ...]]:
    """Fill in a template.

    Args:
        template: A template that `validate` accepts.
        values: Counters and metrics by name; missing ones print as `nan`.

    Returns:
        The file name, and the names that are missing.

    Example:
        >>> render("{epoch:02d}-{val_loss:.2f}.keras", {"epoch": 3})
        ('03-nan.keras', ('val_loss',))
    """
    parts: list[str] = []
    missing: list[str] = []
    for literal, name, spec, conversion in _parse(template):
        parts.append(literal)
        if name is None:
            continue
        if name not in values:
            missing.append(name)
        parts.append(_fill(values.get(name, math.nan), spec or "", conversion))
    return "".join(parts), tuple(missing)


def may_be(template: str, name: str) -> bool:
    """Return whether a name may have been rendered from a template.

    Example:
        >>> may_be("{epoch:02d}.keras", "07.keras"), may_be("{epoch:02d}.keras", "best.keras")
        (True, False)
    """
    parts = []
    for literal, field, spec, conversion in _parse(template):
        parts.append(re.escape(literal))
        if field is not None:
            parts.append(_pattern(spec or "", conversion))
    return re.fullmatch("".join(parts), name, re.DOTALL) is not None


def _pattern(spec: str, conversion: str | None) -> str:
    plain = _PLAIN_SPEC.fullmatch(spec)
    if conversion or plain is None:  # `{epoch:x}` and the like
        return ".+"
    padding = f"[ 0{re.escape(plain['fill'] or ' ')}]*"
    return f"{padding}[-+]?{padding}{_NUMBER}{padding}"


def _fill(value: float, spec: str, conversion: str | None) -> str:
    try:
        return _format(value, spec, conversion)
    except ValueError:  # `{batch:02d}` without a batch
        return format(str(value))


def _format(value: float, spec: str, conversion: str | None) -> str:
    if conversion:
        return format(string.Formatter().convert_field(value, conversion), spec)
    return format(value, spec)
