"""DECIDE: pure rules. No clock, disk, environment, randomness, logging, NumPy or Keras.

Criteria for when to stop, for `EarlyStopping(criterion=...)` and for loops of your own. They
combine with `|`, `&` and `~` (docs/criteria.md):

| name | stops when |
|---|---|
| `Patience` | a metric has not improved for a number of checks |
| `Reaches`, `Diverges` | a metric is as good as a value; is worse than a value |
| `NotFinite` | a metric is NaN or infinite |
| `AfterEpochs`, `AfterSteps`, `AfterSeconds` | so many are done |
| `Smoothed` | its criterion, which sees moving averages of the metrics, says so |

`keras_ratchet.policy.experimental` has more, to be compared with these.

A criterion of your own is a subclass of `Criterion`: it takes a `Moment` (with its `Position`) and
returns a `Verdict`, or an `undecided` one. `Monitor` defines what "better" means, also for NaN.
"""

from keras_ratchet.policy.budget import AfterEpochs, AfterSeconds, AfterSteps
from keras_ratchet.policy.criterion import Criterion, undecided
from keras_ratchet.policy.monitor import Monitor
from keras_ratchet.policy.patience import Patience
from keras_ratchet.policy.smoothed import Smoothed
from keras_ratchet.policy.thresholds import Diverges, NotFinite, Reaches
from keras_ratchet.types import Moment, Position, Verdict

__all__ = [
    "Criterion",
    "Patience",
    "Reaches",
    "Diverges",
    "NotFinite",
    "AfterEpochs",
    "AfterSteps",
    "AfterSeconds",
    "Smoothed",
    "Monitor",
    "Moment",
    "Position",
    "Verdict",
    "undecided",
]
