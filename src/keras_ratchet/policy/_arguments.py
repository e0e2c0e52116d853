"""Checks of numbers that are given to constructors. `True` is not a number here."""

from __future__ import annotations

from typing import TypeGuard

from keras_ratchet.errors import ConfigError


def is_whole_number(value: object) -> TypeGuard[int]:
    """Return whether a value is an int and not a bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> TypeGuard[int | float]:
    """Return whether a value is an int or a float, NaN and infinity included, and not a bool."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def whole_number(name: str, value: object, at_least: int, meaning: str = "") -> int:
    """Return `value` if it is a whole number that is large enough.

    Args:
        name: Name of the argument.
        value: What was given.
        at_least: The smallest number that is allowed.
        meaning: What the argument is, as a verb phrase for the message, such as "counts epochs".

    Raises:
        ConfigError: If it is not.

    Example:
        >>> try:
        ...     whole_number("patience", -3, at_least=0, meaning="counts epochs")
        ... except ConfigError as error:
        ...     print(error)
        patience counts epochs, so it must be a whole number, at least 0. Got: -3.
    """
    if is_whole_number(value) and value >= at_least:
        return value
    subject = f"{name} {meaning}, so it" if meaning else name
    raise ConfigError(f"{subject} must be a whole number, at least {at_least}. Got: {value!r}.")
