"""Which stopping rule, and which weights? Recorded runs, replayed against every rule.

    make bench-stopping                       # the short form
    make bench-stopping ARGS=--long           # all networks on every data set

Every run is trained to its budget of epochs, once. From the record (losses, weights) each rule of
`keras_ratchet.policy` then decides where it would have stopped, and each way to restore what it
would have ended with: the code that decides here is the code that decides in `EarlyStopping`.
Rules see training and validation data. Test data choose nothing; they only judge.
"""
