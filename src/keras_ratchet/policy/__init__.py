"""DECIDE: pure rules. No clock, disk, environment, randomness, logging, NumPy or Keras.

When to stop, for `EarlyStopping(criterion=...)` and for loops of your own; they combine with
`|`, `&` and `~` (docs/criteria.md):

| name | stops when |
|---|---|
| `Patience` | a metric has not improved for a number of checks |
| `Reaches`, `Diverges` | a metric is as good as a value; is worse than a value |
| `NotFinite` | a metric is NaN or infinite |
| `AfterEpochs`, `AfterSteps`, `AfterSeconds` | so much training is done |
| `Smoothed` | its criterion says so that sees moving averages |
| `GeneralizationLoss`, `ProgressQuotient`, `UpStrips` | Prechelt's rules say so |
| `SignificantImprovement` | a metric no longer improves by more than its noise (experimental) |

One of your own is a subclass of `Criterion`: a `Moment` (with its `Position`) goes in, a `Verdict`
comes out, or an `undecided` one. `Monitor` knows what "better" means, also for NaN.
"""

from keras_ratchet.policy.budget import AfterEpochs, AfterSeconds, AfterSteps
from keras_ratchet.policy.criterion import Criterion, undecided
from keras_ratchet.policy.experimental.prechelt import (
    GeneralizationLoss,
    ProgressQuotient,
    UpStrips,
)
from keras_ratchet.policy.experimental.significance import SignificantImprovement
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
    "GeneralizationLoss",
    "ProgressQuotient",
    "UpStrips",
    "SignificantImprovement",
    "Monitor",
    "Moment",
    "Position",
    "Verdict",
    "undecided",
]
