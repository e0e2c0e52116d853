"""Every exception that keras-ratchet raises on purpose.

```
RatchetError
├── ConfigError        (ValueError)       an argument that cannot work
│   └── ScheduleError  (TypeError)        a learning rate that only its schedule can set
├── MetricError        (ValueError)       a monitored metric that cannot be used
│   ├── MissingMetricError                it is not among the logs
│   └── UnknownDirectionError             mode="auto" cannot tell min from max
├── NonFiniteError     (ArithmeticError,  a NaN where an error was asked for: `nan="raise"`,
│                       RuntimeError)     `raise_error=True`
├── SaveError          (OSError)          a save failed; older files are untouched
├── LockedError        (RuntimeError)     another process writes here
├── RankError          (RuntimeError)     the processes of one training do not go on together
├── ResumeError        (ValueError)       this run does not fit the one that was interrupted
└── LoadError          (ValueError)       nothing that can be loaded safely
    └── CorruptError                      a file's bytes are not those that were saved
```

A traceback ends with a link to the section of docs/troubleshooting.md that explains the error; it
is a note (PEP 678), so the message itself does not have it. `error.url` has it, too.
"""

from __future__ import annotations

import errno
import typing

PAGE = "https://keras-ratchet.readthedocs.io/en/stable/troubleshooting.html"

E = typing.TypeVar("E", bound=BaseException)

_OF_NUMBERS: dict[object, str] = {
    errno.ENOSPC: "disk-full",
    errno.EDQUOT: "disk-full",
    errno.EFBIG: "disk-full",
    errno.EACCES: "no-permission",
    errno.EPERM: "no-permission",
    errno.EROFS: "no-permission",
}


def explained(error: E, see: str) -> E:
    """Return an error with a note that links to a section of the page on troubleshooting.

    For errors of Python's own classes; those of this module have the note by themselves.

    Args:
        error: To be raised.
        see: The section's anchor.

    Example:
        >>> explained(TypeError("not a model"), "keras-2").__notes__
        ['See https://keras-ratchet.readthedocs.io/en/stable/troubleshooting.html#keras-2']
    """
    error.add_note(f"See {PAGE}#{see}")
    return error


class RatchetError(Exception):
    """Base class of every error raised by this package.

    Args:
        args: What the built-in class takes: a message; `SaveError`: a number and a message.
        see: The section of the page on troubleshooting; None for the one of the class.

    Attributes:
        anchor: The section of the page on troubleshooting that explains this error.
    """

    anchor: str = "by-message"

    def __init__(self, *args: object, see: str | None = None) -> None:
        super().__init__(*args)
        if see is not None:
            self.anchor = see
        explained(self, self.anchor)

    @property
    def url(self) -> str:
        """Where the page on troubleshooting explains this error."""
        return f"{PAGE}#{self.anchor}"


class ConfigError(RatchetError, ValueError):
    """An argument has a value that cannot work."""

    anchor = "argument"


class ScheduleError(ConfigError, TypeError):
    """A callback should cut the learning rate, which only the optimizer's schedule can set."""

    anchor = "learning-rate"


class MetricError(RatchetError, ValueError):
    """A monitored metric cannot be used."""

    anchor = "metric-value"


class MissingMetricError(MetricError):
    """The monitored metric is not among the logs and will not appear."""

    anchor = "missing-metric"


class UnknownDirectionError(MetricError):
    """`mode="auto"` cannot tell whether smaller or larger is better."""

    anchor = "direction"


class NonFiniteError(RatchetError, ArithmeticError, RuntimeError):
    """A metric or a weight is not finite, and `nan="raise"` or `raise_error=True` was asked for."""

    anchor = "not-finite"


class SaveError(RatchetError, OSError):
    """A save failed. Files of earlier saves are untouched."""

    anchor = "save-failed"

    def __init__(self, *args: object, see: str | None = None) -> None:
        of_number = _OF_NUMBERS.get(args[0]) if len(args) > 1 else None
        super().__init__(*args, see=see or of_number)


class LockedError(RatchetError, RuntimeError):
    """Another live process is writing to this directory or file."""

    anchor = "locked"


class ResumeError(RatchetError, ValueError):
    """The saved run does not fit this model, data or optimizer; nothing was changed."""

    anchor = "resume-refused"


class LoadError(RatchetError, ValueError):
    """There is nothing here that can be loaded safely."""

    anchor = "no-checkpoint"


class CorruptError(LoadError):
    """A file's bytes are not the bytes that were saved."""

    anchor = "corrupt"


class RankError(RatchetError, RuntimeError):
    """The processes of one training do not go on together: one has left, or is elsewhere."""

    anchor = "ranks"
