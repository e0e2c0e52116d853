"""Criteria against curves: where they stop, with the state through JSON at any point."""

import json

from keras_ratchet.policy import Moment, Position
from keras_ratchet.policy.criterion import from_json, to_json


def moments(values, name="m", **more):
    """Return the ends of epochs with these values of one metric; None is a missing one.

    `more` gives further metrics, or None for those that are missing.
    """
    curves = {name: list(values), **{key: list(curve) for key, curve in more.items()}}
    length = max(len(curve) for curve in curves.values())
    for epoch in range(length):
        metrics = {
            key: curve[epoch]
            for key, curve in curves.items()
            if epoch < len(curve) and curve[epoch] is not None
        }
        yield Moment(Position(epoch + 1, step=10 * (epoch + 1)), metrics, time_s=2.0 * (epoch + 1))


def round_trip(state):
    """Return a state after strict JSON."""
    return from_json(json.loads(json.dumps(to_json(state), allow_nan=False)))


def verdicts(criterion, steps, cuts=()):
    """Return the verdict on each moment; before those in `cuts` the state goes through JSON."""
    found, state = [], round_trip(criterion.initial()) if 0 in cuts else criterion.initial()
    for index, moment in enumerate(steps):
        if index in cuts:
            state = round_trip(state)
        state, verdict = criterion.check(state, moment)
        found.append(verdict)
    return found


def first_yes(found):
    """Return the index of the first yes, or None."""
    return next((index for index, verdict in enumerate(found) if verdict), None)


def stops_at(criterion, values, name="m", **more):
    """Return the index of the moment at which a criterion says yes for the first time."""
    return first_yes(verdicts(criterion, moments(values, name, **more)))
