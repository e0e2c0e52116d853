"""Criteria that are offered to be compared with, not because they are better.

| name | stops when |
|---|---|
| `GeneralizationLoss` | the validation error is so many percent above its minimum |
| `ProgressQuotient` | that loss is large compared with the progress on the training data |
| `UpStrips` | the validation error has risen in several strips of epochs in a row |
| `SignificantImprovement` | a metric no longer improves by more than its noise |

The first three are Prechelt's. docs/which-stopping-rule.md compares all of them with patience.
They may change between minor versions.
"""

from keras_ratchet.policy.experimental.prechelt import (
    GeneralizationLoss,
    ProgressQuotient,
    UpStrips,
)
from keras_ratchet.policy.experimental.significance import SignificantImprovement

__all__ = [
    "GeneralizationLoss",
    "ProgressQuotient",
    "UpStrips",
    "SignificantImprovement",
]
