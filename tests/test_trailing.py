import math

import naive
import numpy as np
import pytest
from breaths import cut

from detection.trailing import SORTED_LISTS_ROWS, Delay, SpanMedian, SpanRange, SpanSums

NAN = math.nan
SIZES = ([1], [2], [7], [15], [SORTED_LISTS_ROWS], [17], [1000], [3, 40, 1, 0, 15, 16, 200, 2])


def draw_gappy(length=60, missing=0.2, seed=0):
    random = np.random.default_rng(seed)
    x = random.normal(3, 2, size=(length, 2))
    x[random.uniform(size=x.shape) < missing] = NAN
    x[20:35, 1] = NAN
    return x


def sums_of(pieces, span, longest=None):
    sums = SpanSums(pieces[0].shape[1], longest or span)
    found = []
    for piece in pieces:
        sums.update(piece)
        found.append(sums.over(span))
    return np.concatenate(found)


def pieces_of(x, sizes):
    return np.split(x, np.cumsum(cut(len(x), sizes))[:-1])


# ---- against loops --------------------------------------------------------------------------


@pytest.mark.parametrize("span", [1, 2, 3, 7, 8, 16, 61])
@pytest.mark.parametrize("longest", [None, 100])
def test_span_sums_are_those_of_a_slow_loop(span, longest):
    x = np.nan_to_num(draw_gappy())
    expected = naive.trailing(x, span, 1.0, np.sum)
    np.testing.assert_allclose(sums_of([x], span, longest), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("span", [1, 2, 3, 5, 8, 13, 61])
@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_span_range_is_that_of_a_slow_loop(span, missing):
    x = draw_gappy(missing=missing)
    expected = naive.trailing(np.concatenate([np.full((span - 1, 2), NAN), x]), span, 0.0, np.ptp)[span - 1 :]
    np.testing.assert_array_equal(SpanRange(2, span).update(x), np.nan_to_num(expected, nan=-np.inf))


def test_span_range_by_hand():
    x = np.array([[1.0], [4], [2], [2], [NAN], [-1], [np.inf], [NAN], [NAN]])
    assert SpanRange(1, 3).update(x).ravel().tolist() == [0, 3, 3, 2, 0, 3, 0, 0, -np.inf]


@pytest.mark.parametrize("span", [1, 2, 7, 16, 90])
@pytest.mark.parametrize("sizes", [[1], [1000]])
def test_span_median_is_that_of_a_slow_loop_also_of_shorter_spans(span, sizes):
    x, stream = draw_gappy(), SpanMedian(2, span)
    x[5, 0], x[50, 1] = np.inf, -np.inf                                        # counts as missing
    found = [stream.update(piece) for piece in pieces_of(x, sizes)]
    median, count = (np.concatenate(parts) for parts in zip(*found, strict=True))
    padded = np.concatenate([np.full((span - 1, 2), NAN), x])
    np.testing.assert_allclose(median, naive.trailing(padded, span, 0.0, np.median)[span - 1 :], rtol=0, atol=1e-12)
    expected = np.nan_to_num(naive.trailing(padded, span, 0.0, len)[span - 1 :])
    np.testing.assert_array_equal(count, expected)


def test_a_median_of_equal_values_and_of_zeros_of_both_signs():
    x = np.array([[2.0], [2], [2], [-0.0], [0.0], [-0.0], [0.0]])
    stream = SpanMedian(1, 3)
    median = [stream.update(row[None])[0].item() for row in x]
    assert median == [2, 2, 2, 2, 0, 0, 0]


@pytest.mark.parametrize("lag", [1, 4, 99])
def test_delay_returns_rows_later(lag):
    x = draw_gappy()
    expected = np.concatenate([np.full((lag, 2), NAN), x])[: len(x)]
    np.testing.assert_array_equal(Delay(2, lag).update(x), expected)


# ---- pieces ---------------------------------------------------------------------------------


def result_of(stream, piece):
    """Return what an update gives as one array."""
    if isinstance(stream, SpanSums):
        stream.update(piece)
        return np.concatenate([stream.over(span) for span in (1, 6, 29)], axis=1)
    found = stream.update(piece)
    return np.concatenate(found, axis=1) if isinstance(found, tuple) else found


STREAMS = {
    "sums": lambda: SpanSums(2, 29),
    "range": lambda: SpanRange(2, 29),
    "median": lambda: SpanMedian(2, 29),
    "delay": lambda: Delay(2, 29),
}


@pytest.fixture(params=STREAMS)
def make_stream(request):
    return STREAMS[request.param]


def draw_for(stream, length=1000):
    """Return rows with plain ties, huge values, and, but for sums, missing ones."""
    x = draw_gappy(length, missing=0.1, seed=4)
    x[200:260] = np.round(x[200:260])
    x[500], x[700, 0] = 1e12, -1e-12
    return np.nan_to_num(x) if isinstance(stream, SpanSums) else x


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_pieces_of_any_size_give_the_same(make_stream, sizes):
    x = draw_for(make_stream())
    whole, stream = result_of(make_stream(), x), make_stream()
    pieces = [result_of(stream, piece) for piece in pieces_of(x, sizes)]
    np.testing.assert_array_equal(np.concatenate(pieces), whole)


def test_a_huge_value_leaves_no_trace_once_it_has_left_the_span():
    x = draw_for(SpanSums(2, 29))
    without = np.where(np.arange(1000)[:, None] == 500, 0.0, x)
    for span in (3, 29):
        found, expected = (sums_of(pieces_of(rows, [7]), span, 29) for rows in (x, without))
        np.testing.assert_array_equal(found[500 + span :], expected[500 + span :])


def test_a_state_of_something_else_is_refused():
    with pytest.raises(ValueError, match=r"state of SpanSums has \['past'\]; expected \['past', 'seen'\]"):
        SpanSums(2, 29).load_state_dict(SpanRange(2, 29).state_dict())
    with pytest.raises(ValueError, match=r"past has shape \(28, 4\); expected \(28, 6\)"):
        SpanRange(3, 29).load_state_dict(SpanRange(2, 29).state_dict())
