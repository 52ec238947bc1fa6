"""Figures, drawn from arrays; the one module that imports matplotlib.

Every function returns a `matplotlib.figure.Figure` and the caller saves it with `save`. A colour means the same
in every figure; line styles and hatches say it again in grey.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from PIL import Image

from reports.curves import BUCKETS, envelope, finite_range, margin_of, round_times, signal_range, time_of_day
from reports.recording_view import RecordingView
from utils import DataError, atomic_path

if TYPE_CHECKING:                        # a process that only draws need not load pydantic
    from evaluation.results import Agreement, FreeResponse

DPI = 80
WIDTH, LEFT, RIGHT, BOTTOM, TITLE, GAP = 11.25, 1.65, 0.2, 0.5, 0.32, 0.13  # inches; 900 pixels wide
LEGEND_ROW, KIND_ROW, UPRIGHT_KINDS = 0.2, 0.2, 1.25  # inches
LETTER = 0.08  # inches, the width of a letter in a small text
CLOSE_S = 180.0  # a longer span shows no forecasts: they would cover what was observed
TEXT, SMALL = 10, 9  # points
LIVE_SPAN_S, LIVE_EVERY_S = 120.0, 0.25  # what a live window shows, and how often it is drawn

OBSERVED = {"color": "#222222", "linewidth": 1.0}
FORECAST = {"color": "#d55e00", "linewidth": 1.3, "linestyle": (0, (4, 1.5))}
SCORE = {"color": "#0072b2", "linewidth": 1.1}
ALARM = {"color": "#003b66", "linewidth": 2.2}
THRESHOLD = {"color": "#882255", "linewidth": 1.3, "linestyle": (0, (6, 3))}
TRAIN = {"color": "#999933", "linewidth": 1.5}
VALIDATION = {"color": "#332288", "linewidth": 1.5, "linestyle": (0, (4, 1.5))}
RATE = {"color": "#666666", "linewidth": 1.2}
BEST = {"color": "#009e73", "linewidth": 1.5, "linestyle": (0, (1, 1.5))}
LABELLED = {
    True: {"facecolor": "#fbe3b0", "edgecolor": "#fbe3b0", "linewidth": 0.0},
    False: {"facecolor": "#fbe3b0", "edgecolor": "#c98500", "linewidth": 0.8, "hatch": "//"},
}
FOUND = {
    True: {"facecolor": "#009e73", "edgecolor": "#009e73", "linewidth": 0.8},
    False: {"facecolor": "#ffffff", "edgecolor": "#b0124f", "linewidth": 1.2, "hatch": "////"},
    None: {"facecolor": "#56b4e9", "edgecolor": "#245f80", "linewidth": 0.8},
}
LABELLED_TEXT = {True: "labelled, found", False: "labelled, missed"}
FOUND_TEXT = {True: "found, as labelled", False: "found, false alarm", None: "found"}
FAULT = {"facecolor": "#f2f2f2", "edgecolor": "#a0a0a0", "linewidth": 0.5, "hatch": "xxx"}
MEAN = {"color": "#0072b2", "marker": "D", "markersize": 5, "linestyle": "none", "capsize": 3, "elinewidth": 1.4}
ONE_RUN = {"color": "#888888", "marker": "o", "markersize": 3.5, "linestyle": "none", "alpha": 0.6}
NIGHT = {"color": "#0072b2", "marker": "o", "markersize": 5, "linestyle": "none", "alpha": 0.7}
MIDDLE = {"color": "#222222", "linewidth": 1.4}
LIMIT = {"color": "#d55e00", "linewidth": 1.4, "linestyle": (0, (5, 2))}
DETECTORS = (                                # the LSTM, then what it is compared with
    {"color": "#0072b2", "linewidth": 2.2},
    {"color": "#d55e00", "linewidth": 1.4, "linestyle": (0, (5, 2))},
    {"color": "#009e73", "linewidth": 1.4, "linestyle": (0, (3, 1, 1, 1))},
    {"color": "#cc79a7", "linewidth": 1.4, "linestyle": (0, (1, 1.2))},
    {"color": "#888888", "linewidth": 1.2},
)
OTHER_RUN = {"color": "#aaaaaa", "linewidth": 0.8}


def plot_history(history: Sequence[Mapping], best_epoch: int, note: str = "") -> Figure:
    """Draw the losses of every epoch and, below, the learning rate; `best_epoch` is marked.

    Args:
        history: one row an epoch: epoch, train_loss, val_loss, learning_rate, seconds.
    """
    epoch, train, validation, rate, seconds = (
        np.array([float(row.get(key, np.nan)) for row in history])
        for key in ("epoch", "train_loss", "val_loss", "learning_rate", "seconds")
    )
    title = f"Training: {len(history)} epoch{'s' * (len(history) != 1)}, {np.nansum(seconds):.0f} s"
    figure, (losses, rates) = _stack((3.0, 1.0), title, note)
    dots = {"marker": "o", "markersize": 3.5} if len(history) <= 40 else {}
    _line(losses, epoch, train, TRAIN | dots)
    _line(losses, epoch, validation, VALIDATION | dots)
    _line(rates, epoch, rate, RATE | dots)
    handles = {"train": Line2D([], [], **TRAIN, **dots), "validation": Line2D([], [], **VALIDATION, **dots)}
    if best_epoch in epoch:
        best = validation[np.flatnonzero(epoch == best_epoch)[-1]]
        for axes in (losses, rates):
            axes.axvline(best_epoch, **BEST)
        losses.plot([best_epoch], [best], marker="*", markersize=13, color=BEST["color"])
        handles[f"best: epoch {best_epoch}, validation loss {best:.4g}"] = Line2D([], [], marker="*", **BEST)
    _log_if_wide(losses, np.concatenate([train, validation]), least_ratio=10)
    _log_if_wide(rates, rate, least_ratio=1)
    if not len(history):
        _say(losses, "no epochs yet")
    _label(losses, "loss", "–")
    _label(rates, "learning rate", "–")
    first, last = finite_range(epoch, (1.0, 1.0))
    _time_axis((losses, rates), first - 0.5, last + 0.5, "epoch [–]", integer=True)
    _legend(figure, handles, 1)
    return figure


def plot_recording(view: RecordingView) -> Figure:
    """Draw a whole recording: a panel a channel, the score below; time in the unit that suits its length."""
    return plot_span(view, *finite_range(view.t, (0.0, 1.0)), f"{view.name}: the whole recording")


def plot_span(view: RecordingView, start_s: float, end_s: float, title: str) -> Figure:
    """Draw the part of a recording between two times, in s: signal and forecast, below score and threshold."""
    a, b = np.searchsorted(view.t, start_s), np.searchsorted(view.t, end_s, side="right")
    scale, unit = (view.row_s, "row") if view.row_s else _time_unit(end_s - start_s)
    heights = (*_panel_heights(len(view.channels)), 1.5)
    labelled, found = (_shown(marks, start_s, end_s) for marks in (view.labelled, view.found))
    kinds = [(s, e, kind) for s, e, kind, _ in labelled]
    kind_row = _kind_height(kinds, (start_s, end_s))
    figure, (*panels, bottom) = _stack(heights, title, view.note, legend_rows=2, kind_row=kind_row)
    for axes in (*panels, bottom):
        for hit in LABELLED:
            _spans(axes, [mark for mark in labelled if mark[3] == hit], scale, LABELLED[hit])
    handles = {"observed": Line2D([], [], **OBSERVED)}
    for k, axes in enumerate(panels):
        _draw_channel(axes, view, k, slice(a, b), (start_s, end_s), scale, handles)
        _found_marks(axes, [mark for mark in found if mark[3] == view.channels[k]], scale)
    _draw_score(bottom, view.t[a:b] / scale, view.score[a:b], view.threshold[a:b], handles)
    _found_marks(bottom, found, scale)
    handles |= {LABELLED_TEXT[hit]: Patch(**LABELLED[hit]) for hit in LABELLED if hit in [s[3] for s in labelled]}
    handles |= {FOUND_TEXT[hit]: Patch(**FOUND[hit]) for hit in FOUND if hit in [s[2] for s in found]}
    _time_axis((*panels, bottom), start_s / scale, end_s / scale, "row" if view.row_s else f"time [{unit}]")
    if view.start is not None:
        _clock_axis(bottom, view.start, scale)
    _kind_names(panels[0] if panels else bottom, [(s / scale, e / scale, kind) for s, e, kind in kinds])
    _legend(figure, handles, 2)
    return figure


def draw_recording(view: RecordingView, path: Path, close_ups: Sequence[tuple[float, float, str, Path]]) -> None:
    """Write the picture of a whole recording, and its close-ups: start_s, end_s, title and path of each."""
    save(plot_recording(view), path)
    for start_s, end_s, title, place in close_ups:
        save(plot_span(view, start_s, end_s, title), place)


def plot_progress(
    t: np.ndarray,
    observed: np.ndarray,
    forecasts: Sequence[tuple[np.ndarray, np.ndarray]],
    channels: Sequence[str],
    units: Sequence[str],
    title: str,
) -> Figure:
    """Draw forecasts, each from the step it was made at, against what came.

    Args:
        t, observed: (T,) times in s and (T, C) values in `units`, NaN = missing.
        forecasts: (t_h (H,) in s, values (H, C)) each; a dot marks the observed step before t_h[0].
    """
    style = FORECAST | {"linewidth": 2.0}
    figure, panels = _stack(_panel_heights(len(channels)), title, "")
    start_s, end_s = finite_range(np.concatenate([t, *(t_h for t_h, _ in forecasts)]), (0.0, 1.0))
    scale, unit = _time_unit(end_s - start_s)
    for k, axes in enumerate(panels):
        _line(axes, t / scale, observed[:, k], OBSERVED)
        for t_h, values in forecasts:
            before = np.searchsorted(t, t_h[0]) - 1 if len(t_h) else -1
            fan_t, fan = t_h, values[:, k]
            if before >= 0:
                fan_t, fan = np.append(t[before], fan_t), np.append(observed[before, k], fan)
                axes.plot(fan_t[:1] / scale, fan[:1], "o", color=FORECAST["color"], markersize=4)
            axes.plot(fan_t / scale, fan, **style)
        fans = np.concatenate([np.empty(0), *(values[:, k] for _, values in forecasts)])
        _signal_limits(axes, observed[:, k], fans)
        _label(axes, channels[k], units[k])
    _time_axis(panels, start_s / scale, end_s / scale, f"time [{unit}]")
    fan_line = Line2D([], [], marker="o", markersize=4, **style)
    _legend(figure, {"observed": Line2D([], [], **OBSERVED), "forecast from the dot on": fan_line}, 1)
    return figure


def plot_free_response(curves: Mapping[str, FreeResponse], labelled: Mapping[str, int], note: str = "") -> Figure:
    """Draw recall against false events an hour, a panel for all kinds and for each of them, a line a detector.

    Args:
        curves: detector -> its curve, in the order of the legend.
        labelled: kind -> how many labelled events there are.
    """
    title = "Recall against false events an hour; thresholds are read off the test span"
    kinds = {"all kinds": sum(labelled.values()), **(labelled if len(labelled) > 1 else {})}
    figure, panels = _stack((1.25,) * len(kinds), title, note, gap=0.3)
    handles = {}
    for (kind, events), axes in zip(kinds.items(), panels, strict=True):
        for (name, curve), style in zip(curves.items(), DETECTORS, strict=False):
            rates, recall = curve.false_events_per_hour, curve.kinds.get(kind, curve.recall)
            axes.step(rates, np.multiply(recall, 100), where="post", **style)
            handles[name] = Line2D([], [], **style)
        axes.set(xscale="log", xlim=(rates[0], rates[-1]), ylim=(-4, 104), yticks=(0, 50, 100))
        axes.grid(color="#dddddd")
        axes.xaxis.set_major_formatter(FuncFormatter(_number))
        axes.tick_params(labelbottom=axes is panels[-1])
        text = f"{_short(kind, 60)}: {events} labelled"
        axes.text(0.0, 1.02, text, transform=axes.transAxes, fontsize=TEXT, weight="bold", parse_math=False)
        _label(axes, "found", "%")
    panels[-1].set_xlabel("false events an hour [1/h]", fontsize=TEXT)
    _legend(figure, handles, 1)
    return figure


def plot_bland_altman(agreement: Agreement, note: str = "") -> Figure:
    """Draw found less labelled events an hour against the mean of both, a dot a night, with bias and limits.

    Source: Bland and Altman, Lancet 327, 1986.
    """
    title = f"Apneas and hypopneas an hour, found less labelled, {len(agreement.nights)} nights"
    figure, (axes,) = _stack((3.2,), title, note)
    rates = np.array([[night.labelled_ahi, night.found_ahi] for night in agreement.nights])
    errors, (low, high) = rates[:, 1] - rates[:, 0], agreement.limits
    axes.plot(rates.mean(axis=1), errors, **NIGHT)
    axes.axhline(agreement.bias.value, **MIDDLE)
    for limit in (low, high):
        axes.axhline(limit, **LIMIT)
    lowest, highest = finite_range(np.array([*errors, low, high, 0.0]), (-1.0, 1.0))
    margin = margin_of(lowest, highest, 0.1)
    axes.set(ylim=(lowest - margin, highest + margin))
    axes.grid(color="#dddddd")
    _label(axes, "error", "1/h")
    axes.set_xlabel("mean of found and labelled [1/h]", fontsize=TEXT)
    _legend(figure, {
        "a night": Line2D([], [], **NIGHT),
        f"bias {agreement.bias.value:.1f}": Line2D([], [], **MIDDLE),
        f"limits of agreement {low:.1f} to {high:.1f}": Line2D([], [], **LIMIT),
    }, 1)  # fmt: skip
    return figure


def plot_grid_effects(
    effects: Mapping[str, Sequence[tuple[str, np.ndarray]]], measure: str, title: str, note: str = ""
) -> Figure:
    """Draw what each parameter of a grid does: a panel a parameter, a column a value, with mean ± std.

    Args:
        effects: dotted key -> (value as text, results (n,) of all runs that have it; empty = none), in order.
        measure: what the results are.
    """
    figure, panels = _stack((1.7,) * max(len(effects), 1), title, note, gap=0.42)
    shown = np.concatenate([np.empty(0), *(y for rows in effects.values() for _, y in rows)])
    low, high = finite_range(shown, (0.0, 1.0))
    margin = margin_of(low, high, 0.1)
    for axes, (key, rows) in zip(panels, effects.items(), strict=False):
        for x, (_, results) in enumerate(rows):
            axes.plot(x + np.linspace(-0.08, 0.08, len(results)), results, **ONE_RUN)
            if len(results):
                axes.errorbar(x + 0.2, results.mean(), yerr=results.std(), **MEAN)
        axes.set(xlim=(-0.5, len(rows) - 0.5), xticks=range(len(rows)), ylim=(low - margin, high + margin))
        axes.set_xticklabels([_short(text, 100 // len(rows)) for text, _ in rows], fontsize=SMALL, parse_math=False)
        axes.grid(axis="y", color="#dddddd")
        _few_ticks(axes)
        axes.text(0.0, 1.02, _short(key, 80), transform=axes.transAxes, fontsize=TEXT, weight="bold", parse_math=False)
        _label(axes, measure, "–")
    if not effects:
        _say(panels[0], "the grid varies nothing")
    _legend(figure, {"a run": Line2D([], [], **ONE_RUN), "mean ± std": Line2D([], [], **_dot(MEAN))}, 1)
    return figure


def plot_grid_ranking(rows: Sequence[tuple[str, float, float]], measure: str, title: str, note: str = "") -> Figure:
    """Draw the configs of a grid one below the other, mean ± std over seeds; the first is the best.

    Args:
        rows: (config as text, mean, std) each, the best first.
    """
    height = max(0.24 * len(rows), 0.6)
    figure, (axes,) = _stack((height,), title, note, left=5.0)
    means, stds = (np.array([row[k] for row in rows], float) for k in (1, 2))
    star = {"color": BEST["color"], "marker": "*", "markersize": 12}
    for y, (_, mean, std) in enumerate(rows):
        axes.errorbar(mean, y, xerr=std, **(MEAN | (star if y == 0 else {})))
    if len(rows):
        axes.axvline(means[0], **BEST)
    low, high = finite_range(np.concatenate([means - stds, means + stds]), (0.0, 1.0))
    margin = margin_of(low, high, 0.05)
    axes.set(ylim=(max(len(rows), 1) - 0.5, -0.5), yticks=range(len(rows)))
    axes.set_yticklabels([_short(text, 54) for text, *_ in rows], fontsize=SMALL, parse_math=False)
    axes.grid(axis="x", color="#dddddd")
    if not rows:
        _say(axes, "no config is finished")
    _time_axis((axes,), low - margin, high + margin, f"{measure} [–]")
    best = Line2D([], [], **(BEST | {"marker": "*", "markersize": 10}))
    _legend(figure, {"the best": best, "mean ± std over seeds": Line2D([], [], **_dot(MEAN))}, 1)
    return figure


def plot_grid_curves(
    curves: Sequence[tuple[np.ndarray, np.ndarray]], best: Sequence[int], measure: str, title: str, note: str = ""
) -> Figure:
    """Draw the validation loss of every run over its epochs; those of the best config stand out.

    Args:
        curves: (epochs (n,), losses (n,)) of each run.
        best: places of the best config's runs in `curves`.
    """
    figure, (axes,) = _stack((3.2,), title, note)
    for k in sorted(range(len(curves)), key=lambda k: k in best):
        style = VALIDATION if k in best else OTHER_RUN
        dots = {"marker": "o", "markersize": 3.0} if len(curves[k][0]) == 1 else {}
        axes.plot(*curves[k], **(style | dots))
    epochs = np.concatenate([np.empty(0), *(epoch for epoch, _ in curves)])
    first, last = finite_range(epochs, (0.0, 1.0))
    if not curves:
        _say(axes, "no epochs yet")
    axes.yaxis.set_major_formatter(FuncFormatter(_number))
    axes.grid(axis="y", color="#dddddd")
    _label(axes, measure, "–")
    _time_axis((axes,), first - 0.5, last + 0.5, "epoch [–]", integer=True)
    _legend(figure, {"the best config": Line2D([], [], **VALIDATION), "the others": Line2D([], [], **OTHER_RUN)}, 1)
    return figure


class LivePlot:
    """A window that shows the last minutes of a stream: a panel a channel, the score below.

    Raises: DataError where there is no screen, or nothing to draw windows with.
    """

    def __init__(self, channels: Sequence[str], units: Sequence[str]) -> None:
        import matplotlib
        from matplotlib import pyplot

        if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            raise DataError("--plot: there is no screen here (neither DISPLAY nor WAYLAND_DISPLAY is set)")
        self.pyplot, self.drawn_at = pyplot, -math.inf
        self.steps: deque = deque()
        self.figure, (*panels, bottom) = pyplot.subplots(len(channels) + 1, sharex=True, squeeze=True, figsize=(11, 8))
        if matplotlib.get_backend().lower() == "agg":
            raise DataError("--plot: no window toolkit; install python3-tk, or PyQt6")
        self.panels, self.bottom = panels, bottom
        self.observed = [axes.plot([], [], **OBSERVED)[0] for axes in panels]
        self.expected = [axes.plot([], [], **FORECAST)[0] for axes in panels]
        self.score, self.threshold = (bottom.plot([], [], **style)[0] for style in (SCORE, THRESHOLD))
        self.alarms = bottom.plot([], [], **ALARM)[0]
        for axes, name, unit in zip(panels, channels, units, strict=True):
            _label(axes, name, unit)
        _label(bottom, "score", "–")
        bottom.set_xlabel("time [s]")
        self.figure.subplots_adjust(left=0.1, right=0.985, top=0.94, bottom=0.07)
        shown = {"observed": self.observed[0], "forecast": self.expected[0], "score": self.score, "alarm": self.alarms}
        shown["threshold"] = self.threshold
        self.figure.legend(shown.values(), shown.keys(), loc="upper center", ncols=len(shown), frameon=False)
        pyplot.show(block=False)

    def add(self, found: Iterable) -> None:
        """Take the steps among what a stream found: t_s, values, forecast, score, threshold, alarm."""
        self.steps.extend(one for one in found if hasattr(one, "score"))
        while self.steps and self.steps[0].t_s < self.steps[-1].t_s - LIVE_SPAN_S:
            self.steps.popleft()

    def draw(self) -> bool:
        """Draw, if it is time to; return whether the window is still open."""
        if time.monotonic() - self.drawn_at < LIVE_EVERY_S:
            return True
        self.drawn_at = time.monotonic()
        if self.steps:
            self._show()
        self.figure.canvas.draw_idle()
        self.figure.canvas.flush_events()
        return self.pyplot.fignum_exists(self.figure.number)

    def _show(self) -> None:
        steps = list(self.steps)
        t = np.array([step.t_s for step in steps])
        values, forecast, score, threshold, alarm = (
            np.array([getattr(step, name) for step in steps])
            for name in ("values", "forecast", "score", "threshold", "alarm")
        )
        for k, axes in enumerate(self.panels):
            self.observed[k].set_data(t, values[:, k])
            self.expected[k].set_data(t, forecast[:, k])
            _signal_limits(axes, values[:, k], forecast[:, k])
        self.score.set_data(t, score)
        self.threshold.set_data(t, threshold)
        self.alarms.set_data(t, np.where(alarm, score, np.nan))
        highest = np.nanmax(np.concatenate([score, threshold, [0.0]]))
        self.bottom.set(xlim=(t[-1] - LIVE_SPAN_S, t[-1]), ylim=(0, 1.3 * highest or 1.0))


def _dot(style: Mapping) -> dict:
    """Return an error bar's style as a line's, for a legend."""
    return {key: value for key, value in style.items() if key not in ("capsize", "elinewidth")}


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all; the same figure gives the same bytes."""
    figure.set_dpi(DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    image = image.quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)  # a third of the bytes
    palette, corner = image.getpalette(), 3 * image.getpixel((0, 0))
    image.putpalette(palette[:corner] + [255, 255, 255] + palette[corner + 3 :])  # its white is one step off
    with atomic_path(path, durable=False) as temporary:  # drawn again with its report
        image.save(temporary, format="PNG")


def _draw_channel(
    axes: Axes, view: RecordingView, k: int, part: slice, limits_s: tuple[float, float], scale: float, handles: dict
) -> None:
    """Draw channel k: what was observed, what was expected, and where there is nothing."""
    t, observed, expected = view.t[part], view.values[part, k], view.forecast[part, k]
    gone = [(s, e) for s, e, name in view.faults if name == view.channels[k] and s <= limits_s[1] and e >= limits_s[0]]
    marked = _broken(t, observed) if view.gaps_missing else (t, observed)
    gone = _joined(gone + _missing_spans(*marked, least_s=(limits_s[1] - limits_s[0]) / 250))
    if gone:
        _spans(axes, gone, scale, FAULT)
        handles["missing or faulty"] = Patch(**FAULT)
    close = limits_s[1] - limits_s[0] <= CLOSE_S or len(t) <= 2 * BUCKETS
    _line(axes, t / scale, observed, OBSERVED if close else OBSERVED | {"alpha": 0.65})  # shading shows through
    if close and np.isfinite(expected).any():
        _line(axes, t / scale, expected, FORECAST)
        lead, unit = (view.row_s, "rows") if view.row_s else _time_unit(view.lead_s)
        handles[f"forecast {view.lead_s / lead:g} {unit} ahead"] = Line2D([], [], **FORECAST)
    _signal_limits(axes, observed, expected if close else observed)
    _label(axes, view.channels[k], view.units[k])
    if not np.isfinite(observed).any():
        _say(axes, "no values")


def _draw_score(axes: Axes, t: np.ndarray, score: np.ndarray, threshold: np.ndarray, handles: dict) -> None:
    """Draw scores, the alarms among them and the threshold; on a log scale above it if a peak dwarfs it."""
    finite = threshold[np.isfinite(threshold)]
    level = float(np.max(finite, initial=0.0))
    peak = float(np.max(score[np.isfinite(score)], initial=0.0))
    _line(axes, t, score, SCORE)
    alarm = score > threshold
    if alarm.any():
        _line(axes, t, np.where(alarm, score, np.nan), ALARM)
        handles["alarm"] = Line2D([], [], **ALARM)
    if len(finite):
        _line(axes, t, threshold, THRESHOLD)
        least, most = f"{finite.min():.3g}", f"{finite.max():.3g}"
        handles[f"threshold {least}" + (f" to {most}" if most != least else "")] = Line2D([], [], **THRESHOLD)
    if 0 < 15 * level < peak:
        axes.set_yscale("symlog", linthresh=level)
        axes.minorticks_off()
        axes.set_ylim(0, level * (peak / level) ** 1.35)
        axes.set_yticks([0.0, *10.0 ** np.arange(np.ceil(np.log10(level)), np.floor(np.log10(peak)) + 1)])
        axes.yaxis.set_major_formatter(FuncFormatter(_number))
    else:
        axes.set_ylim(0, 1.3 * max(level, peak) or 1.0)
        _few_ticks(axes)
    _label(axes, "score", "–")
    if not np.isfinite(score).any():
        _say(axes, "no score")


def _stack(
    heights: Sequence[float], title: str, note: str, legend_rows: int = 1,
    kind_row: float = 0.0, left: float = LEFT, gap: float = GAP,
) -> tuple[Figure, list[Axes]]:
    """Return a figure with panels of these heights (inches) below each other; laid out by hand, which is fast."""
    top = TITLE + legend_rows * LEGEND_ROW + max(kind_row, 0.08 if gap == GAP else 0.2)
    total = top + sum(heights) + gap * (len(heights) - 1) + BOTTOM
    figure = Figure(figsize=(WIDTH, total), dpi=DPI, facecolor="white")
    room = 112 - (len(_short(note, 50)) if note else 0)
    style = {"va": "top", "parse_math": False}
    figure.text(0.012, 1 - 0.08 / total, _short(title, room), fontsize=TEXT + 1, weight="bold", **style)
    if note:
        figure.text(0.985, 1 - 0.1 / total, _short(note, 50), ha="right", fontsize=SMALL, style="italic", **style)
    panels, y = [], total - top
    for height in heights:
        y -= height
        axes = figure.add_axes((left / WIDTH, y / total, (WIDTH - left - RIGHT) / WIDTH, height / total))
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=SMALL)
        panels.append(axes)
        y -= gap
    return figure, panels


def _panel_heights(channels: int) -> tuple[float, ...]:
    """Return the heights of the channels' panels in inches: few channels can be shown larger."""
    return ({1: 2.2, 2: 1.6}.get(channels, 0.95),) * channels


def _legend(figure: Figure, handles: Mapping[str, Line2D | Patch], rows: int) -> None:
    """Put the legend in its row or rows under the title."""
    if not handles:
        return
    place = {"loc": "upper left", "bbox_to_anchor": (0.006, 1 - (TITLE - 0.04) / figure.get_figheight())}
    style = {"frameon": False, "handlelength": 2.6, "columnspacing": 1.4, "labelspacing": 0.25, "borderpad": 0.0}
    columns = -(-len(handles) // rows) if len(handles) > 5 else len(handles)
    legend = figure.legend(list(handles.values()), list(handles), ncols=columns, fontsize=SMALL, **place, **style)
    for text in legend.get_texts():
        text.set_parse_math(False)


def _line(axes: Axes, t: np.ndarray, y: np.ndarray, style: Mapping) -> None:
    """Draw y over t with gaps where steps are missing; a step with a gap on both sides becomes a dot."""
    t, y = envelope(*_broken(t, np.where(np.isfinite(y), y, np.nan)))
    axes.plot(t, y, **style)
    finite = np.concatenate([[False], ~np.isnan(y), [False]])
    alone = finite[1:-1] & ~finite[:-2] & ~finite[2:]
    if alone.any() and "marker" not in style:
        axes.plot(t[alone], y[alone], ".", color=style["color"], markersize=2 + 2 * style["linewidth"])


def _broken(t: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return t, y with a NaN put in wherever steps are left out of t."""
    if len(t) < 3:
        return t, y
    width = np.diff(t)
    after = np.flatnonzero(width > 1.5 * np.median(width)) + 1
    return np.insert(t, after, (t[after - 1] + t[after]) / 2), np.insert(y, after, np.nan)


def _missing_spans(t: np.ndarray, y: np.ndarray, least_s: float) -> list[tuple[float, float]]:
    """Return (start, end) of the gaps of at least least_s where y (T,) has no finite value."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], ~np.isfinite(y), [False]]).astype(int)))
    spans = [(t[max(a - 1, 0)], t[min(b, len(t) - 1)]) for a, b in edges.reshape(-1, 2)]
    return [(float(s), float(e)) for s, e in spans if e - s >= least_s]


def _joined(spans: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return spans in time order with the overlapping ones made one."""
    joined: list[tuple[float, float]] = []
    for start, end in sorted(spans):
        if joined and start <= joined[-1][1]:
            start, end = joined[-1][0], max(end, joined.pop()[1])
        joined.append((start, end))
    return joined


def _spans(
    axes: Axes, spans: Sequence[tuple], scale: float, style: Mapping, low: float = 0.0, high: float = 1.0
) -> None:
    """Fill spans (start, end, ...) in s between two heights (fractions of the panel)."""
    if spans:
        bars = [(start / scale, end / scale - start / scale) for start, end, *_ in spans]
        axes.broken_barh(bars, (low, high - low), transform=axes.get_xaxis_transform(), zorder=0.5, **style)


def _found_marks(axes: Axes, found: Sequence[tuple[float, float, bool | None, str]], scale: float) -> None:
    """Mark found events by bars along the top of a panel."""
    for hit, style in FOUND.items():
        _spans(axes, [mark for mark in found if mark[2] == hit], scale, style, low=0.9, high=0.985)


def _kind_height(labelled: Sequence[tuple[float, float, str]], limits: tuple[float, float]) -> float:
    """Return the inches that the kinds need above a panel: a row, or more if they only fit upright."""
    if not labelled:
        return 0.0
    return KIND_ROW if len(_kind_places(labelled, limits, upright=False)) == len(labelled) else UPRIGHT_KINDS


def _kind_places(
    labelled: Sequence[tuple[float, float, str]], limits: tuple[float, float], upright: bool
) -> list[tuple[float, str]]:
    """Return (middle, text) of the kinds, in time order, that fit beside each other between two times."""
    first, last = limits
    letter = (last - first) * LETTER / (WIDTH - LEFT - RIGHT)
    places, free = [], first - letter
    for start, end, kind in sorted(labelled):
        text = _short(kind, 16 if upright else 40)
        half = letter if upright else len(text) / 2 * letter
        middle = (max(start, first) + min(end, last)) / 2
        if not upright:
            middle = min(max(middle, first + half), last - half)
        if middle - half >= free:
            places.append((middle, text))
            free = middle + half + (0 if upright else letter)
    return places


def _kind_names(axes: Axes, labelled: Sequence[tuple[float, float, str]]) -> None:
    """Write the kinds of labelled events above a panel."""
    limits = axes.get_xlim()
    upright = _kind_height(labelled, limits) > KIND_ROW
    place = {"xycoords": axes.get_xaxis_transform(), "textcoords": "offset points", "annotation_clip": False}
    style = {"ha": "center", "va": "bottom", "rotation": 90 * upright, "fontsize": SMALL, "parse_math": False}
    for middle, text in _kind_places(labelled, limits, upright):
        axes.annotate(text, (middle, 1.0), (0, 3), **place, **style)


def _time_axis(panels: Sequence[Axes], first: float, last: float, label: str, integer: bool = False) -> None:
    """Give all panels the same x axis, with ticks on the lowest: they cost most of the drawing time."""
    if not last > first:
        first, last = first - 0.5, last + 0.5
    ticks = MaxNLocator(10, steps=[1, 2, 5, 10], integer=integer, min_n_ticks=1).tick_values(first, last)
    for axes in panels:
        axes.set_xlim(first, last)
        axes.xaxis.set_visible(axes is panels[-1])
    panels[-1].set_xticks(ticks[(ticks >= first) & (ticks <= last)])
    panels[-1].xaxis.set_major_formatter(FuncFormatter(_number))
    panels[-1].set_xlabel(label, fontsize=TEXT)


def _clock_axis(axes: Axes, start: datetime, scale: float) -> None:
    """Write the clock, hh:mm, below an axis of times in units of `scale` seconds from a start."""
    from recordings.wall_clock import clock_at, seconds_of_day  # which loads pandas

    zero_s = seconds_of_day(start)
    first, last = (limit * scale for limit in axes.get_xlim())
    times = round_times(first + zero_s, last + zero_s, 10)
    with_seconds = any(t % 60 for t in times)
    axes.set_xticks([(t - zero_s) / scale for t in times], [time_of_day(t, with_seconds) for t in times])
    axes.set_xlabel(f"clock; the recording's time 0 is {clock_at(start, 0.0).partition('.')[0]}", fontsize=TEXT)


def _signal_limits(axes: Axes, observed: np.ndarray, expected: np.ndarray) -> None:
    """Fit the y axis to what was observed and expected."""
    low, high = signal_range(observed, expected)
    margin = margin_of(low, high, 0.08)
    axes.set_ylim(low - margin, high + 2 * margin)  # room for the marks of found events
    _few_ticks(axes)


def _few_ticks(axes: Axes) -> None:
    """Set round ticks that a low panel has room for."""
    low, high = axes.get_ylim()
    ticks = MaxNLocator(3, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    axes.set_yticks(ticks[(ticks >= low) & (ticks <= high)])
    axes.yaxis.set_major_formatter(FuncFormatter(_number))


def _log_if_wide(axes: Axes, y: np.ndarray, least_ratio: float) -> None:
    """Use a log scale if the finite values are positive and spread over least_ratio."""
    low, high = finite_range(y, (0.0, 0.0))
    if low > 0 and high / low >= least_ratio:
        axes.set_yscale("log")
        axes.set_ylim(low / 1.3, high * 1.3)
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(FuncFormatter(_number))


def _number(value: float, _position: int | None = None) -> str:
    """Return a tick's text: plain digits, no offset."""
    return f"{value:.7g}".replace("-", "\N{MINUS SIGN}")


def _label(axes: Axes, name: str, unit: str) -> None:
    """Write name and [unit] beside the y axis, upright, so that long names can be read."""
    text = _short(name, 12) + (f"\n[{_short(unit, 10)}]" if unit else "")
    style = {"ha": "left", "va": "center", "fontsize": TEXT, "parse_math": False}
    axes.text(-(LEFT - 0.08) / (WIDTH - LEFT - RIGHT), 0.5, text, transform=axes.transAxes, **style)


def _say(axes: Axes, text: str) -> None:
    """Write a remark in the middle of an empty panel."""
    box = {"facecolor": "white", "edgecolor": "none", "pad": 2}
    middle = {"transform": axes.transAxes, "ha": "center", "va": "center"}
    axes.text(0.5, 0.5, text, fontsize=TEXT, color="#555555", bbox=box, **middle)


def _short(text: str, most: int) -> str:
    """Return text on one line, cut to the width of `most` usual letters.

    A leading _ goes, as it would hide the text from a legend.
    """
    text = " ".join(str(text).split()).lstrip("_")
    width = np.cumsum([1.4 if letter.isupper() or letter in "mw%@" or letter > "\u02ff" else 1.0 for letter in text])
    if not text or width[-1] <= most + 1:
        return text
    return text[: int(np.searchsorted(width, most, side="right"))] + "…"


def _time_unit(length_s: float) -> tuple[float, str]:
    """Return the seconds of the unit that suits a length, and the unit."""
    for seconds, unit in ((86400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if length_s >= 5 * seconds:
            return seconds, unit
    return 1.0, "s"


def _shown(marks: Iterable[tuple], first: float, last: float) -> list[tuple]:
    """Return the marks (start, end, ...) that lie in [first, last], at least wide enough to be seen."""
    least = max(last - first, 1e-9) / 400
    shown = []
    for start, end, *about in marks:
        if start <= last and end >= first:
            grow = max(least - (end - start), 0.0) / 2
            shown.append((start - grow, end + grow, *about))
    return shown
