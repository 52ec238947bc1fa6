import re

import numpy as np
import pytest

from reports.svg_figures import (
    HEIGHT,
    WIDTH,
    Span,
    clock,
    limits,
    path_of,
    score_panel,
    signal_panel,
    thinned,
    ticks_of,
    time_ticks,
)


def points_of(path):
    """Return the lines of a path as arrays (n, 2) of absolute coordinates."""
    lines = []
    for part in path.split("M")[1:]:
        start, _, rest = part.partition("l")
        steps = np.array(re.findall(r"-?\d+", f"{start} {rest}"), int).reshape(-1, 2)
        lines.append(steps.cumsum(axis=0))
    return lines


def test_a_thinned_line_stays_within_the_tolerance_of_every_point():
    random = np.random.default_rng(0)
    x = np.sort(random.uniform(0, 1000, 400))
    for y in (50 * np.sin(x / 30), random.normal(size=400).cumsum(), np.where(x > 500, 90.0, 10.0)):
        kept = thinned(x.tolist(), y.tolist(), 2.0)
        assert kept[0] == 0 and kept[-1] == 399 and sorted(set(kept)) == kept
        assert np.abs(np.interp(x, x[kept], y[kept]) - y).max() <= 2.0 + 1e-9
    assert thinned(x.tolist(), (3 * x + 1).tolist(), 0.1) == [0, 399]


def test_steps_at_one_place_are_all_kept():
    assert thinned([0.0, 1.0, 1.0, 2.0], [0.0, 0.0, 9.0, 9.0], 0.5) == [0, 1, 2, 3]


def test_a_path_has_the_line_where_it_belongs():
    t = np.array([0.0, 1.0, 2.0, 3.0, 4.0])
    (line,) = points_of(path_of(Span(0, 4), t, np.array([0.0, 10.0, 0.0, 10.0, 5.0]), 0.0, 10.0))
    expected = [[0, HEIGHT], [WIDTH / 4, 0], [WIDTH / 2, HEIGHT], [3 * WIDTH / 4, 0], [WIDTH, HEIGHT / 2]]
    np.testing.assert_array_equal(line, np.round(expected))


def test_missing_values_and_left_out_steps_are_gaps():
    t = np.r_[np.arange(10.0), 30 + np.arange(10.0)]
    y = np.sin(t)
    y[3] = np.nan
    lines = points_of(path_of(Span(0, 39), t, y, -1.0, 1.0))
    places = [(line[0, 0] * 39 / WIDTH, line[-1, 0] * 39 / WIDTH) for line in lines]
    np.testing.assert_allclose(places, [(0, 2), (4, 9), (30, 39)], atol=0.05)


@pytest.mark.parametrize("values", [[], [np.nan] * 3, [2.0] * 3, [np.inf, 1.0, np.nan]])
def test_hardly_any_values_draw_without_a_warning(values):
    t, y = np.arange(len(values), dtype=float), np.array(values, float)
    panel = signal_panel("flow", "L/min", Span(0, 3), t, y, y)
    assert [style for style, _ in panel.lines] == ["o", "f"]
    score_panel(Span(0, 3), t, y, np.full(len(t), np.nan))


def test_a_forecast_that_runs_away_leaves_the_signal_readable():
    low, high = limits(np.array([-1.0, 1.0]), np.array([0.0, 1e6]))
    assert -1.5 < low < -1 and 2 < high < 2.3
    assert limits(np.full(2, np.nan), None)[0] < 0 < 1 < limits(np.full(2, np.nan), None)[1]


def test_alarms_are_drawn_where_the_score_is_above_its_threshold():
    t = np.arange(101.0)
    score = np.where((t >= 40) & (t <= 60), 9.0, 1.0)
    panel = score_panel(Span(0, 100), t, score, np.full(101, 2.5))
    (alarm,) = points_of(dict(panel.lines)["a"])
    assert alarm[[0, -1], 0].tolist() == [400, 600]
    (threshold,) = points_of(dict(panel.lines)["t"])
    ticks = {tick.text: tick.at for tick in panel.ticks}
    assert list(ticks) == ["5", "2.5"]
    assert ticks["2.5"] == pytest.approx(100 * threshold[0, 1] / HEIGHT, abs=0.5)


@pytest.mark.parametrize(
    ("low", "high", "texts"),
    [
        (0, 10, ["0", "10"]),
        (-3, 3, ["\N{MINUS SIGN}2", "0", "2"]),
        (0, 40, ["0", "20", "40"]),
        (1e6, 1e6 + 3, ["1000000", "1000002"]),
        (94.2, 98.4, ["96", "98"]),
        (0.001, 0.0034, ["0.001", "0.002", "0.003"]),
        (5, 5, []),
        (np.nan, 1, []),
    ],
)
def test_ticks_are_round_and_few(low, high, texts):
    ticks = ticks_of(low, high)
    assert all(low - 1e-9 <= y <= high + 1e-9 for y, _ in ticks)
    assert [text for _, text in ticks] == texts


def test_time_ticks_are_round_times_inside_the_span():
    assert time_ticks(Span(176.0, 243.0)) == [
        (pytest.approx(100 * (t - 176) / 67, abs=0.01), t) for t in (180, 190, 200, 210, 220, 230, 240)
    ]
    assert [t for _, t in time_ticks(Span(0.8, 1797))] == [300, 600, 900, 1200, 1500]
    assert [t for _, t in time_ticks(Span(0, 30 * 86400))][:2] == [0, 432000]


@pytest.mark.parametrize(
    ("t", "digits", "text"),
    [(0, 0, "0:00"), (206.8, 1, "3:26.8"), (59.96, 1, "1:00.0"), (3599.99, 0, "1:00:00"), (7323.04, 1, "2:02:03.0"),
     (-3.2, 1, "\N{MINUS SIGN}0:03.2")],
)  # fmt: skip
def test_clock_writes_minutes_and_hours(t, digits, text):
    assert clock(t, digits) == text
