"""Long curves become short ones without losing what one looks for."""

import math

from hypothesis import given
from hypothesis import strategies as st

from keras_ratchet._report.curves import thinned

values = st.floats(width=32) | st.just(math.nan)
curves = st.lists(values, max_size=400).map(lambda ys: list(enumerate(ys, 1)))


def finite(points):
    return [y for _, y in points if math.isfinite(y)]


@given(curves, st.integers(3, 60))
def test_a_thinned_curve_is_short_in_order_and_made_of_points_of_the_curve(points, most):
    shown = thinned(points, most)
    assert len(shown) <= max(most, 3)
    assert [x for x, _ in shown] == sorted({x for x, _ in shown})
    assert {repr(point) for point in shown} <= {repr(point) for point in points}


@given(curves, st.integers(3, 60))
def test_smallest_and_largest_value_stay_and_what_is_not_finite_shows(points, most):
    shown = thinned(points, most)
    assert bool(finite(shown)) == bool(finite(points))
    if finite(points):
        assert min(finite(shown)) == min(finite(points))
        assert max(finite(shown)) == max(finite(points))
    assert (len(finite(shown)) < len(shown)) == (len(finite(points)) < len(points))


@given(curves, st.integers(3, 30))
def test_every_stretch_keeps_its_extremes(points, most):
    shown, stretches = thinned(points, most), most // 3
    if len(points) <= most:
        assert shown == points or any(math.isnan(y) for _, y in points)
        return
    for number in range(stretches):
        start, stop = (len(points) * n // stretches for n in (number, number + 1))
        stretch, kept = points[start:stop], [p for p in shown if start < p[0] <= stop]
        assert len(kept) <= 3
        if finite(stretch):
            assert {min(finite(stretch)), max(finite(stretch))} == {
                min(finite(kept)),
                max(finite(kept)),
            }


def test_a_spike_of_one_epoch_in_ten_thousand_stays():
    points = [(x, 1.0) for x in range(10_000)]
    points[6_789] = (6_789, 50.0)
    shown = thinned(points)
    assert (6_789, 50.0) in shown and len(shown) <= 3000
