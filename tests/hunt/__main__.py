"""The long hunt: `python -m hunt --minutes 30 --seed 1`, with tests/ on the path."""

import argparse
import collections
import json
import logging
import os
import sys
import time

os.environ.setdefault("KERAS_BACKEND", "torch")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import keras
from hunt import expected, grammar, running


def main():
    """Hunt; return 1 if something differed in silence, or broke."""
    parser = argparse.ArgumentParser(prog="hunt", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", default="0")
    parser.add_argument("--shun", action="append", default=[], help="part of a feature's name")
    parser.add_argument("--want", action="append", default=[], help="part of a feature's name")
    parser.add_argument("--case", help="one case, as a finding prints it")
    parser.add_argument(
        "--fast", action="store_true", help="shrink nothing, pass over what is known"
    )
    arguments = parser.parse_args()
    logging.getLogger("keras_ratchet").setLevel(logging.ERROR)
    if arguments.case:
        given = json.loads(arguments.case)
        case = grammar.Case(tuple(given["features"]), tuple(map(tuple, given["kills"])))
        finding = running.examine(case)
        print(finding, *finding.differences, sep="\n  ")
        return int(finding.is_bad)
    return hunt(arguments)


def hunt(arguments):
    """Try cases until the time is over; print what was found."""
    backend = keras.backend.backend()
    end = time.monotonic() + 60 * arguments.minutes
    kinds, features, smallest = collections.Counter(), collections.Counter(), {}
    for number, case in enumerate(grammar.cases(arguments.seed, backend)):
        if time.monotonic() > end:
            break
        if not grammar.is_possible(case) or _is_left_out(case, arguments):
            continue
        finding = running.examine(case)
        kinds[finding.kind] += 1
        if finding.kind == "impossible":
            print(number, finding, flush=True)
            continue
        features.update(case.features)
        if finding.kind in ("exact", "warned"):
            continue
        known = expected.item_of(case, backend)
        if known is not None and finding.kind != "moody":
            kinds[f"expected {finding.kind}, item {known}"] += 1
            if arguments.fast:
                continue
        if finding.kind != "moody" and not arguments.fast:
            finding = running.shrink(finding)
        key = (finding.kind, finding.case.features)
        if key not in smallest:
            smallest[key] = finding
            print(f"{arguments.seed}/{number}", finding, running.as_json(finding), flush=True)
    return report(backend, kinds, features, smallest)


def _is_left_out(case, arguments):
    text = str(case)
    return any(part in text for part in arguments.shun) or not all(
        part in text for part in arguments.want
    )


def report(backend, kinds, features, smallest):
    """Print counts; return the exit code."""
    print(
        f"\n{backend}, Keras {keras.__version__}: {sum(kinds.values())} combinations: {dict(kinds)}"
    )
    print("; ".join(f"{name} {features[name]}" for name in grammar.FEATURES))
    bad = [finding for finding in smallest.values() if finding.is_bad]
    for finding in bad:
        print(finding)
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
