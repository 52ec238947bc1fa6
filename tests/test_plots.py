import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.image import imread

from evaluation.results import FreeResponse
from reports import plots
from reports.curves import envelope
from reports.plots import (
    OBSERVED,
    RecordingView,
    plot_free_response,
    plot_history,
    plot_progress,
    plot_recording,
    plot_span,
    save,
)
from utils import ROOT

pytestmark = pytest.mark.slow

HISTORY = [
    {"epoch": k, "train_loss": 0.8**k, "val_loss": 0.9**k, "learning_rate": 1e-3, "seconds": 2.0} for k in range(1, 7)
]


def make_view(steps=1200, channels=2, rate_hz=10.0, **changes):
    """A breathing-like recording with an apnea at 40-58 s, found, and a false alarm at 90-92 s."""
    t = np.arange(steps) / rate_hz
    values = np.stack([np.sin(1.7 * t + k) * (10.0 + k) for k in range(channels)], axis=1)
    values[(t >= 40) & (t < 58)] *= 0.02
    score = np.where((t >= 42) & (t < 60), 6.0, 1.0)
    view = RecordingView(
        name="session_01",
        t=t,
        values=values,
        forecast=values * 0.9,
        lead_s=0.5,
        score=score,
        threshold=np.full(steps, 3.25),
        channels=("flow", "thorax", "abdomen", "spo2", "hr", "acc")[:channels],
        units=("L/min", "au", "au", "%", "1/min", "g")[:channels],
        found=[(42.0, 60.0, True, "flow"), (90.0, 92.0, False, "thorax")],
        labelled=[(40.0, 58.0, "apnea", True), (100.0, 103.0, "cough", False)],
        faults=[(20.0, 25.0, "thorax")],
        note="simulated data",
    )
    return replace(view, **changes)


def texts(figure):
    found = [text.get_text() for axes in figure.axes for text in axes.texts] + [t.get_text() for t in figure.texts]
    return found + [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def line_of(axes, style):
    (line,) = [line for line in axes.lines if line.get_color() == style["color"] and len(line.get_xdata()) > 1]
    return np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)


def hatched(axes):
    return [c for c in axes.collections if c.get_hatch() == plots.FAULT["hatch"]]


def drawn(figure, tmp_path):
    save(figure, tmp_path / "figure.png")
    return imread(tmp_path / "figure.png")


@pytest.mark.parametrize("channels", [1, 2, 6])
def test_a_recording_has_a_panel_a_channel_and_the_score_below(channels, tmp_path):
    figure = plot_recording(make_view(channels=channels))
    tops = [axes.get_position().y1 for axes in figure.axes]
    assert len(figure.axes) == channels + 1 and tops == sorted(tops, reverse=True)
    assert len({axes.get_xlim() for axes in figure.axes}) == 1
    assert {"flow\n[L/min]", "score\n[–]", "simulated data", "threshold 3.25", "apnea", "cough"} <= set(texts(figure))
    assert {"labelled, found", "labelled, missed", "found, as labelled", "found, false alarm"} <= set(texts(figure))
    assert figure.axes[-1].get_xlabel().startswith("time [")
    assert drawn(figure, tmp_path).shape[1] == 900


def test_only_the_channel_concerned_is_hatched():
    flow, thorax, score = plot_recording(make_view()).axes
    assert [len(hatched(axes)) for axes in (flow, thorax, score)] == [0, 1, 0]


def test_missing_values_stay_a_gap_and_a_long_one_is_hatched():
    view = make_view()
    view.values[300:400, 0] = np.nan
    view.values[500, 0] = np.nan
    flow = plot_recording(view).axes[0]
    x, y = line_of(flow, OBSERVED)
    assert np.array_equal(np.isnan(y), np.isnan(view.values[:, 0])) and len(x) == len(view.t)
    assert len(hatched(flow)) == 1 and len(hatched(flow)[0].get_paths()) == 1


def test_steps_used_elsewhere_are_a_gap_but_not_missing():
    view = make_view()
    keep = (view.t < 70) | (view.t >= 85)
    per_step = ("t", "values", "forecast", "score", "threshold")
    parts = {name: getattr(view, name)[keep] for name in per_step}
    missing, elsewhere = (replace(view, faults=(), gaps_missing=gaps, **parts) for gaps in (True, False))
    assert [len(hatched(plot_recording(one).axes[0])) for one in (missing, elsewhere)] == [1, 0]
    assert np.isnan(line_of(plot_recording(elsewhere).axes[0], OBSERVED)[1]).any()


@pytest.mark.parametrize("steps", [1200, 9000])
def test_steps_left_out_of_t_are_a_gap(steps):
    view = make_view(steps)
    keep = (view.t < 70) | (view.t >= 85)
    per_step = ("t", "values", "forecast", "score", "threshold")
    view = replace(view, faults=(), **{name: getattr(view, name)[keep] for name in per_step})
    flow = plot_recording(view).axes[0]
    x, y = line_of(flow, OBSERVED)
    scale = 60.0 if "min" in flow.figure.axes[-1].get_xlabel() else 1.0
    before, after = np.flatnonzero(x * scale < 70)[-1], np.flatnonzero(x * scale >= 84.9)[0]
    assert after - before >= 2 and np.isnan(y[before + 1 : after]).all()
    assert np.isfinite(y).sum() > 1000


def test_event_draws_only_its_surroundings(tmp_path):
    figure = plot_span(make_view(), 12.0, 80.0, "Apnea found 2 s after it began")
    assert figure.axes[0].get_xlim() == (12.0, 80.0)
    x, _ = line_of(figure.axes[0], OBSERVED)
    assert x[0] == 12.0 and x[-1] == 80.0
    shown = set(texts(figure))
    assert {"Apnea found 2 s after it began", "forecast 0.5 s ahead", "alarm", "apnea"} <= shown
    assert not {"cough", "labelled, missed", "found, false alarm"} & shown
    drawn(figure, tmp_path)


def test_a_long_span_leaves_out_forecasts():
    assert not any(text.startswith("forecast") for text in texts(plot_recording(make_view(9000))))


def test_a_forecast_that_runs_away_leaves_the_signal_readable():
    view = make_view(channels=1)
    view.forecast[500] = 1e6
    low, high = plot_recording(view).axes[0].get_ylim()
    assert -25 < low < -10 and 10 < high < 25


def test_a_score_far_above_the_threshold_leaves_the_threshold_readable(tmp_path):
    view = make_view()
    view.score[500] = 4000.0
    figure = plot_recording(view)
    assert figure.axes[-1].get_yscale() == "symlog" and figure.axes[-1].get_ylim()[1] > 4000
    drawn(figure, tmp_path)


def test_the_legend_tells_the_range_of_a_moving_threshold():
    assert "threshold 2 to 4" in texts(plot_recording(make_view(threshold=np.linspace(2, 4, 1200))))


NOTHING = {"found": (), "labelled": (), "faults": ()}
DEGENERATE = {
    "no events": NOTHING,
    "no score": {"score": np.full(1200, np.nan), "threshold": np.full(1200, np.nan)},
    "infinite score": {"score": np.full(1200, np.inf)},
    "infinite threshold": {"threshold": np.full(1200, np.inf)},
    "zero threshold": {"threshold": np.zeros(1200)},
    "no values": {"values": np.full((1200, 2), np.nan), "forecast": np.full((1200, 2), np.nan)},
    "constant": {"values": np.full((1200, 2), 95.0)},
    "zero": {"values": np.zeros((1200, 2)), "forecast": np.zeros((1200, 2)), "score": np.zeros(1200)},
    "long names": {"channels": ("a$x_{" * 60, "_" + "W" * 300), "name": "\\frac$" * 50, "note": "n" * 300},
    "numpy flags": {"found": [(42.0, 60.0, np.True_, "flow")], "labelled": [(40.0, 58.0, "apnea", np.False_)]},
    "unlabelled": {"labelled": (), "found": [(42.0, 60.0, None, "no such channel")]},
    "crowded": {"labelled": [(k * 1.0, k + 0.5, "apnea", k % 2 == 0) for k in range(110)]},
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("changes", DEGENERATE.values(), ids=DEGENERATE)
def test_degenerate_recordings_are_drawn(changes, tmp_path):
    view = replace(make_view(), **changes)
    drawn(plot_recording(view), tmp_path)
    drawn(plot_span(view, 12.0, 80.0, "event"), tmp_path)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("steps", [0, 1, 2, 3])
def test_short_recordings_are_drawn(steps, tmp_path):
    view = make_view(steps, **NOTHING)
    drawn(plot_recording(view), tmp_path)
    drawn(plot_span(view, -30.0, 20.0, "event"), tmp_path)
    drawn(plot_span(view, 4970.0, 5030.0, "beyond the end"), tmp_path)


def test_a_lone_step_between_gaps_is_a_dot():
    view = make_view(**NOTHING)
    view.values[:, 0] = np.nan
    view.values[600, 0] = 5.0
    dots = [line for line in plot_recording(view).axes[0].lines if line.get_marker() == "."]
    assert [list(line.get_ydata()) for line in dots] == [[5.0]]


def test_free_response_is_a_step_a_detector_in_a_panel_a_kind(tmp_path):
    rates = [0.1, 1.0, 10.0]
    curves = {
        name: FreeResponse(
            false_events_per_hour=rates, threshold=[3.0, 2.0, 1.0], recall=[low, 0.5, 1.0],
            kinds={"apnea": [low, 0.6, 1.0], "cough": [0.0, 0.4, 1.0]},
        )
        for name, low in (("LSTM", 0.2), ("random scores", 0.0))
    }  # fmt: skip
    figure = plot_free_response(curves, {"apnea": 10, "cough": 5}, "simulated data")
    assert len(figure.axes) == 3 and all(len(axes.lines) == 2 for axes in figure.axes)
    (lstm, chance), (apnea, _) = figure.axes[0].lines, figure.axes[1].lines
    assert lstm.get_ydata().tolist() == [20, 50, 100] and apnea.get_ydata().tolist() == [20, 60, 100]
    assert lstm.get_linestyle() != chance.get_linestyle() or lstm.get_color() != chance.get_color()
    save(figure, tmp_path / "a.png")
    assert imread(tmp_path / "a.png").shape[1] == 900


def test_envelope_keeps_peaks_ends_of_gaps_and_time_order():
    rng = np.random.default_rng(0)
    t, y = np.arange(50_001) / 10, rng.normal(size=50_001)
    y[12_345], y[40_001] = 99.0, -99.0
    y[20_000:21_000] = np.nan
    line_t, line = envelope(t, y, 1000)
    assert len(line) <= 4000 and np.all(np.diff(line_t) > 0)
    assert line[line_t == 1234.5] == 99.0 and line[line_t == 4000.1] == -99.0
    inside = (line_t > 2000.0) & (line_t < 2100.0)
    assert np.isnan(line[inside]).all() and inside.any() and np.isnan(line).sum() == 1
    kept = ~np.isnan(line)
    assert np.array_equal(line[kept], y[np.round(line_t[kept] * 10).astype(int)])


def test_envelope_leaves_short_and_empty_lines_alone():
    t, y = np.arange(7.0), np.array([0, 1, np.nan, 3, 4, 5, 6.0])
    assert envelope(t, y, 4)[1] is y
    assert [len(part) for part in envelope(np.arange(100.0), np.full(100, np.nan), 4)] == [0, 0]


def test_envelope_breaks_wherever_a_missing_step_lies_between_kept_ones():
    y = np.array([0, np.nan, 5, 1, 2, 3, 4, 9.0])
    line_t, line = envelope(np.arange(8.0), y, 2)
    assert np.array_equal(line, [0, np.nan, 5, 2, 9], equal_nan=True)


def test_history_marks_the_best_epoch(tmp_path):
    figure = plot_history(HISTORY, 4, "simulated data")
    losses, rates = figure.axes
    assert "Training: 6 epochs, 12 s" in texts(figure) and "simulated data" in texts(figure)
    assert f"best: epoch 4, validation loss {0.9**4:.4g}" in texts(figure)
    assert rates.get_yscale() == "log" and rates.get_xlabel() == "epoch [–]"
    assert [list(line.get_xdata()) for line in losses.lines if line.get_marker() == "*"] == [[4]]
    drawn(figure, tmp_path)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "history",
    [[], HISTORY[:1], [{"epoch": 1, "train_loss": np.nan, "val_loss": np.inf}], HISTORY[:2] + [{"epoch": 3}]],
    ids=["none", "one", "not finite", "keys missing"],
)
def test_odd_histories_are_drawn(history, tmp_path):
    drawn(plot_history(history, 1), tmp_path)


@pytest.mark.filterwarnings("error")
def test_progress_fans_forecasts_out_from_the_observed_step_before(tmp_path):
    t, observed = np.arange(100) / 10, np.arange(200.0).reshape(100, 2)
    figure = plot_progress(t, observed, [(t[51:61], observed[51:61] + 1)], ("flow", "spo2"), ("L/min", "%"), "Epoch 3")
    (dot,) = [line for line in figure.axes[1].lines if line.get_linestyle() == "None"]
    assert dot.get_xdata()[0] == 5.0 and dot.get_ydata()[0] == 101.0
    assert {"Epoch 3", "spo2\n[%]", "observed", "forecast from the dot on"} <= set(texts(figure))
    drawn(figure, tmp_path)
    drawn(plot_progress(t, observed, [], ("flow", "spo2"), ("L/min", "%"), "no forecast"), tmp_path)
    drawn(plot_progress(t[:1], observed[:1] * np.nan, [(t[:3], observed[:3])], ("a", "b"), ("", ""), "one"), tmp_path)


def test_same_data_give_same_bytes(tmp_path):
    save(plot_span(make_view(), 12.0, 80.0, "a"), tmp_path / "a.png")
    save(plot_span(make_view(), 12.0, 80.0, "a"), tmp_path / "b.png")
    written = (tmp_path / "a.png").read_bytes()
    assert written == (tmp_path / "b.png").read_bytes() and written.startswith(b"\x89PNG")
    assert not any(word in written for word in (b"tIME", b"tEXt", b"Software"))
    assert np.all(imread(tmp_path / "a.png")[0, 0, :3] == 1.0), "the background is white"


def test_figures_keep_no_state_in_pyplot():
    check = "import sys; from reports import plots; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], cwd=ROOT).returncode == 0


# ---- grid search ----------------------------------------------------------------------------


def test_grid_effects_show_every_value_and_every_run():
    effects = {
        "training.learning_rate": [("0.001", np.array([1.0, 2.0])), ("0.01", np.array([3.0])), ("0.1", np.empty(0))],
        "model.hidden_units": [("8", np.array([1.0])), ("16", np.array([2.0, 3.0]))],
    }
    figure = plots.plot_grid_effects(effects, "val. loss", "Effect", "simulated data")
    rates, units = figure.axes
    assert [label.get_text() for label in rates.get_xticklabels()] == ["0.001", "0.01", "0.1"]
    shown = [list(line.get_ydata()) for line in rates.lines if line.get_marker() == plots.ONE_RUN["marker"]]
    assert shown == [[1.0, 2.0], [3.0], []]
    means = [list(line.get_ydata()) for line in units.lines if line.get_marker() == plots.MEAN["marker"]]
    assert means == [[1.0], [2.5]] and rates.get_ylim() == units.get_ylim()
    assert {"training.learning_rate", "model.hidden_units", "simulated data"} <= set(texts(figure))


def test_the_grid_ranking_has_the_best_on_top_and_marked():
    rows = [("units=8", 1.0, 0.1), ("units=16", 1.5, 0.0), ("units=4", 2.0, 0.2)]
    (axes,) = plots.plot_grid_ranking(rows, "val. loss", "Ranking").axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["units=8", "units=16", "units=4"]
    (star,) = [line for line in axes.lines if line.get_marker() == "*"]
    assert (star.get_xdata()[0], star.get_ydata()[0]) == (1.0, 0) and axes.get_ylim()[0] > axes.get_ylim()[1]


def test_grid_curves_put_the_best_in_front():
    curves = [(np.arange(n), np.linspace(2, k, n)) for k, n in enumerate((5, 1, 3))]
    (axes,) = plots.plot_grid_curves(curves, [1], "val. loss", "Curves").axes
    assert [line.get_color() for line in axes.lines] == [plots.OTHER_RUN["color"]] * 2 + [plots.VALIDATION["color"]]


@pytest.mark.parametrize("draw", [
    lambda: plots.plot_grid_effects({}, "x", "t"),
    lambda: plots.plot_grid_ranking([], "x", "t"),
    lambda: plots.plot_grid_curves([], [], "x", "t"),
])  # fmt: skip
def test_an_empty_grid_can_be_drawn(draw, tmp_path):
    save(draw(), tmp_path / "x.png")
