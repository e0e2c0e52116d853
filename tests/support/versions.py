"""Which Keras the tests run on, where that changes what is right."""

import keras

KERAS = tuple(int(part) for part in keras.__version__.split(".")[:2])

# From 3.16 on `fit` orders arrays and PyDatasets by the number of its passes over them, and hands
# several batches to a step on torch too.
AT_MOST_3_15 = KERAS <= (3, 15)
