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
"""


class RatchetError(Exception):
    """Base class of every error raised by this package."""


class ConfigError(RatchetError, ValueError):
    """An argument has a value that cannot work."""


class ScheduleError(ConfigError, TypeError):
    """A callback should cut the learning rate, which only the optimizer's schedule can set."""


class MetricError(RatchetError, ValueError):
    """A monitored metric cannot be used."""


class MissingMetricError(MetricError):
    """The monitored metric is not among the logs and will not appear."""


class UnknownDirectionError(MetricError):
    """`mode="auto"` cannot tell whether smaller or larger is better."""


class NonFiniteError(RatchetError, ArithmeticError, RuntimeError):
    """A metric or a weight is not finite, and `nan="raise"` or `raise_error=True` was asked for."""


class SaveError(RatchetError, OSError):
    """A save failed. Files of earlier saves are untouched."""


class LockedError(RatchetError, RuntimeError):
    """Another live process is writing to this directory or file."""


class ResumeError(RatchetError, ValueError):
    """The saved run does not fit this model, data or optimizer; nothing was changed."""


class LoadError(RatchetError, ValueError):
    """There is nothing here that can be loaded safely."""


class CorruptError(LoadError):
    """A file's bytes are not the bytes that were saved."""


class RankError(RatchetError, RuntimeError):
    """The processes of one training do not go on together: one has left, or is elsewhere."""
