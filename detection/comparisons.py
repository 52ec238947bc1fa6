"""Forecast and observation in, comparisons of the two out: one row a step, piece by piece.

For every channel the forecasts are compared with the observed values in several ways:

    ratio            log range expected - log range observed over a trailing span of about a breathing pause, less
                     its own trailing median, since forecasts of an irregular breather are too small
    low_range        - log range observed, over the same span
    error            log RMS forecast error over all leads and the last second
    transient_error  log error of the next steps' forecast, less its own trailing median
    level            log |trailing mean|, in the scaler's units: how far the level is from that of training
    pace             log pace observed over the span of `ratio` - log pace expected, less its own trailing median;
                     pace is the mean movement a step over the range: fast breaths move through it more often
    volume_ratio     like ratio, of the volume that moves in and out: the range of the sum of the flow above its own
                     trailing mean; of airflow alone. Breaths of like volume differ in peak flow: it is the steadier one
    low_volume       - log volume observed, over the same span
    shared_transient like transient_error, of the mean of all channels that measure the same: a movement of the body
                     shakes both belts, a slip one of them

What is expected is the median of the forecasts' ranges, paces or volumes, over a while that ends before the observed
span begins: a pause must not lower what is expected in its place. None depends on phase: where breathing stops, a
forecast of breathing and a flat line differ in range, while the error of a flat line is small. All of them look back
only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.lib.stride_tricks import as_strided

from config import BREATHING
from detection.trailing import Delay, KnownRange, SpanMedian, SpanSums
from recordings.stateful import Stateful

AMPLITUDE_FLOOR = 0.02                  # scaled units: below it, a signal counts as flat
MOVEMENT_FLOOR = 0.002                  # scaled units a step: a flat signal has about the pace of breathing
ERROR_FLOOR = 0.03                      # scaled units: smaller errors are rounding
LARGEST_LOG = 80.0                      # of an expected range, which stays a number
LARGEST_FLOW = 1e6                      # scaled units: its running sum keeps enough digits after a fault
LEVEL_FLOOR = 0.1                       # scaled units: a level nearer to that of training counts as equal to it
PRESENT_SHARE = 0.8                     # of a span's steps that must have a value
FORECAST_SHARE = 0.3                    # of a span's forecasts that must be there for an expected range
NAMES = (                               # of the comparisons, on axis F
    "ratio", "low_range", "error", "transient_error", "level", "pace", "shared_transient", "volume_ratio",
    "low_volume",
)  # fmt: skip
RATIO, LOW_RANGE, ERROR, TRANSIENT, LEVEL, PACE, SHARED, VOLUME_RATIO, LOW_VOLUME = range(len(NAMES))
JOINED = LEVEL                          # those before it are also looked at together
Record = TypeVar("Record")


@dataclass(frozen=True)
class Spans:
    """How far the comparisons reach, all in steps.

    warm_up: forecasts not used at the start of a segment. settle: a channel's forecasts are not
    used for so long after a value was missing. near: leads of `transient_error`. baseline: of the medians.
    """

    warm_up: int
    settle: int
    near: int
    transient: int
    error: int
    amplitude: int
    expected: int
    baseline: int
    level: int


@dataclass(frozen=True)
class Comparisons:
    """One recording compared with its forecasts, NaN where there is nothing yet.

    features (T, C, F), higher = more anomalous; residual (T, C), RMS over the leads; forecast (T, C) of
    each step, as it was made half a horizon before; expected_range (T, C) of the span of `ratio`.
    """

    features: np.ndarray
    residual: np.ndarray
    forecast: np.ndarray
    expected_range: np.ndarray


class StepBuffer:
    """Puts pieces of a recording into arrays of its length as they come, so that no piece has to be kept."""

    def __init__(self, length: int) -> None:
        self.length, self.filled, self.template = length, 0, None
        self.arrays: dict[str, np.ndarray] = {}

    def add(self, piece: Record) -> None:
        """Take the next piece, a record of arrays (n, ...)."""
        parts = {name: part for name, part in vars(piece).items() if isinstance(part, np.ndarray)}
        if self.template is None:
            self.template = replace(piece, **{name: part[:0] for name, part in parts.items()})
            self.arrays = {name: np.empty((self.length, *part.shape[1:]), part.dtype) for name, part in parts.items()}
        n = len(next(iter(parts.values())))
        for name, part in parts.items():
            self.arrays[name][self.filled : self.filled + n] = part
        self.filled += n

    def whole(self) -> Record:
        """Return the record of all pieces."""
        return replace(self.template, **self.arrays)


class ComparisonStream(Stateful):
    """Compares one recording with its forecasts, piece by piece: pieces of any size give the same.

    It keeps the last steps that the trailing spans reach back to.

    Args:
        measures: what each of the C channels measures.
        weights: of each component, for each channel (C,), of `joint` (1,): a range, pace, volume, transient or shared
            transient that no component looks at is not computed, and NaN. The range of breathing always is.
    """

    STATE = (
        "seen", "forecast", "last", "volume", "signal", "errors", "ranges", "medians", "expected", "delayed",
        "baseline",
    )  # fmt: skip

    def __init__(
        self, measures: Sequence[str], horizon: int, spans: Spans, weights: Mapping[str, np.ndarray]
    ) -> None:
        channels = len(measures)
        self.spans, self.horizon, self.channels, self.seen = spans, horizon, channels, 0
        is_joint, breathes = weights["joint"].any(), np.isin(measures, BREATHING)
        self.paced = np.flatnonzero(weights["pace"])
        self.airflow = [k for k in np.flatnonzero(weights["volume_drop"]) if measures[k] == "airflow"]
        of_ranges = np.any([weights[name] > 0 for name in ("amplitude_drop", "volume_drop", "pace")], axis=0)
        self.ranged = np.flatnonzero(breathes | of_ranges | is_joint)
        self.shaken = np.flatnonzero((weights["transient_error"] > 0) | is_joint)
        alike = [[k for k, other in enumerate(measures) if other == what] for what in dict.fromkeys(measures)]
        self.alike = [group for group in alike if weights["shared_transient"][group].any()]
        ranges = len(self.ranged) + len(self.airflow)                        # of the signals, of running sums of flow
        varying = ranges + len(self.shaken) + len(self.paced) + len(self.alike)      # relative to its own median
        self.floors = AMPLITUDE_FLOOR * np.where(np.arange(ranges) < len(self.ranged), 1, spans.amplitude)
        self.forecast = np.full((horizon, channels, horizon), np.nan)        # of the last steps, by lead
        self.last = np.full((1, channels), np.nan)                           # observed step
        self.volume = np.zeros((1, len(self.airflow)))                       # running sum of the flow above its mean
        self.signal = SpanSums(4 * channels, max(spans.amplitude, spans.settle, spans.level))
        self.errors = SpanSums(4 * channels, max(spans.error, spans.transient))
        self.ranges = KnownRange(ranges, spans.amplitude, PRESENT_SHARE)
        self.medians = SpanMedian(ranges + len(self.paced), spans.expected)  # of logs: ranges and paces expected
        self.expected = Delay(ranges + len(self.paced), spans.amplitude)
        self.delayed = Delay(varying, spans.amplitude)
        self.baseline = SpanMedian(varying, spans.baseline)

    def update(self, observed: np.ndarray, forecast: np.ndarray) -> Comparisons:
        """Take the next steps, observed (n, C) and forecast (n, H, C), scaled; NaN = missing.

        Fastest if the forecasts lie in memory as (H, C, n).
        """
        n, observed = len(observed), observed.astype(float)
        self.signal.update(self._values_and_movement(observed))
        settled = self._part(self.signal, 1, self.spans.settle) >= self.spans.settle
        warm = self.seen + np.arange(n) >= self.spans.warm_up
        self.seen += n
        made, aligned = self._by_lead(forecast, settled & warm[:, None])         # (H, C, n)
        squares = self._mean_squares(observed, aligned)                          # all leads, the near ones
        finite = [np.isfinite(square) for square in squares]
        filled = [np.where(known, square, 0.0) for known, square in zip(finite, squares, strict=True)]
        self.errors.update(np.concatenate([filled[0], finite[0], filled[1], finite[1]], axis=1))
        error, transient = self._log_error(0, self.spans.error), self._log_error(2, self.spans.transient)
        ratio, low_range, pace = self._ranges(observed, made)
        parts = [transient[:, self.shaken], ratio, pace, self._shared(transient)]
        varying = self._less_baseline(np.concatenate(parts, axis=1))
        transient, ratio, pace, shared = np.split(varying, np.cumsum([part.shape[1] for part in parts[:-1]]), axis=1)
        features = np.full((len(NAMES), self.channels, n), np.nan).T             # (n, C, F), in memory (F, C, n)
        features[:, :, ERROR] = error
        features[:, :, LEVEL] = np.log(np.abs(self._mean(self.signal, 0, self.spans.level)) + LEVEL_FLOOR)
        features[:, self.shaken, TRANSIENT] = transient
        features[:, self.paced, PACE] = pace
        for group, mean in zip(self.alike, shared.T, strict=True):
            features[:, group, SHARED] = mean[:, None]
        ranged, expected_range = len(self.ranged), np.full((n, self.channels), np.nan)
        features[:, self.airflow, VOLUME_RATIO] = ratio[:, ranged:]
        features[:, self.airflow, LOW_VOLUME] = low_range[:, ranged:]
        ratio, low_range = ratio[:, :ranged], low_range[:, :ranged]
        features[:, self.ranged, RATIO], features[:, self.ranged, LOW_RANGE] = ratio, low_range
        log_expected = np.minimum(ratio - low_range, LARGEST_LOG)                # ratio = 0 there
        expected_range[:, self.ranged] = np.exp(log_expected) - AMPLITUDE_FLOOR
        return Comparisons(features, np.sqrt(squares[0]), aligned[(self.horizon - 1) // 2].T.copy(), expected_range)

    def _values_and_movement(self, observed: np.ndarray) -> np.ndarray:
        """Return values, whether each is known, movements since the step before and whether each is known (n, 4C)."""
        steps = np.concatenate([self.last, np.where(np.isfinite(observed), observed, np.nan)])
        self.last = steps[-1:]
        parts = (steps[1:], np.abs(np.diff(steps, axis=0)))
        known = [np.isfinite(part) for part in parts]
        values, movement = (np.where(finite, part, 0.0) for finite, part in zip(known, parts, strict=True))
        return np.concatenate([values, known[0], movement, known[1]], axis=1)

    def _by_lead(self, forecast: np.ndarray, usable: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the forecasts made at each of the n new steps, and those for each of them, by lead (H, C, n).

        That for step t at lead h, counted from 0, was made at step t - 1 - h.

        Args:
            forecast: (n, H, C).
            usable: (n, C); forecasts made where it is false are NaN.
        """
        n, horizon = len(forecast), self.horizon
        forecasts = np.concatenate([self.forecast, forecast.transpose(1, 2, 0)], axis=2)         # (H, C, H + n)
        made = forecasts[:, :, horizon:]                                         # a copy: the caller's stays
        if not usable.all():
            made[:, ~usable.T] = np.nan
        self.forecast = forecasts[:, :, n:].copy()
        lead, channel, step = forecasts.strides
        shape, strides = (horizon, self.channels, n), (lead - step, channel, step)
        return made, as_strided(forecasts[:, :, horizon - 1 :], shape, strides, writeable=False)

    def _mean_squares(self, observed: np.ndarray, aligned: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean squared errors (n, C) over all leads and over the near ones, of forecasts (H, C, n)."""
        squares, near = observed.T - aligned, self.spans.near
        np.square(squares, out=squares)
        near_total = _sum(squares[:near])
        return (near_total + _sum(squares[near:])).T / self.horizon, near_total.T / near

    def _ranges(self, observed: np.ndarray, forecast: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return ratio, low_range (n, R + A), first of signals, then of volumes, and the paces that have a weight.

        Of ratio and pace no median is subtracted yet. Forecast (H, C, n): those made at each step.
        """
        spans, paced, of_paced = self.spans, self.paced, np.searchsorted(self.ranged, self.paced)
        running, ahead = self._volumes(observed, forecast)
        expected = np.concatenate([np.ptp(forecast, axis=0)[self.ranged], np.ptp(ahead, axis=0)]) + self.floors[:, None]
        movement = _sum(np.abs(np.diff(forecast[:, paced], axis=0))) / max(self.horizon - 1, 1)
        logs = np.log(np.concatenate([expected, (movement + MOVEMENT_FLOOR) / expected[of_paced]]))
        median, count = self.medians.update(logs.T)
        expected = self.expected.update(np.where(count >= FORECAST_SHARE * spans.expected, median, np.nan))
        ranges = self.ranges.update(np.concatenate([observed[:, self.ranged], running], axis=1)) + self.floors
        movement = self._mean(self.signal, 2, spans.amplitude)[:, paced] + MOVEMENT_FLOOR
        expected, expected_pace = np.split(expected, [len(self.floors)], axis=1)
        log_ranges = np.log(ranges)
        return expected - log_ranges, -log_ranges, np.log(movement / ranges[:, of_paced]) - expected_pace

    def _volumes(self, observed: np.ndarray, forecast: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the running sums of the airflow above its trailing mean, observed (n, A) and forecast (H, A, n)."""
        level = self._mean(self.signal, 0, self.spans.level)[:, self.airflow]        # (n, A)
        flow = np.clip(observed[:, self.airflow] - level, -LARGEST_FLOW, LARGEST_FLOW)
        known = np.isfinite(flow)
        running = np.cumsum(np.concatenate([self.volume, np.where(known, flow, 0.0)]), axis=0)
        self.volume = running[-1:]
        ahead = forecast[:, self.airflow] - level.T
        for before, sums in zip(ahead, ahead[1:], strict=False):
            sums += before
        return np.where(known, running[1:], np.nan), ahead

    def _part(self, sums: SpanSums, part: int, span: int) -> np.ndarray:
        """Return the trailing sums (n, C) of the part-th group of C columns."""
        return sums.over(span, slice(part * self.channels, (part + 1) * self.channels))

    def _mean(self, sums: SpanSums, part: int, span: int) -> np.ndarray:
        """Return the mean (n, C) of a trailing span; NaN where too little of it is there.

        The part-th columns hold what is summed, those after them how many values it is.
        """
        return self._part(sums, part, span) / _enough(self._part(sums, part + 1, span), span)

    def _log_error(self, part: int, span: int) -> np.ndarray:
        """Return the log RMS error (n, C) of a trailing span: part 0 of all leads, 2 of the near ones."""
        return np.log(np.sqrt(self._mean(self.errors, part, span)) + ERROR_FLOOR)

    def _shared(self, values: np.ndarray) -> np.ndarray:
        """Return the mean of values (n, C) that are there, a column a group of channels that measure the same."""
        known, means = np.isfinite(values), np.empty((len(values), len(self.alike)))
        filled = np.where(known, values, 0.0)
        for column, group in enumerate(self.alike):              # term by term: the same in pieces of any size
            count = sum(known[:, k].astype(float) for k in group)
            means[:, column] = sum(filled[:, k] for k in group) / np.where(count > 0, count, np.nan)
        return means

    def _less_baseline(self, values: np.ndarray) -> np.ndarray:
        """Return values (n, K) less the median of those in the baseline span that ends an amplitude span before.

        With little history the median is shrunk to zero: a value then stays nearly as it is. A median,
        because a cough or an apnea must not shift the baseline of what follows.
        """
        median, count = self.baseline.update(self.delayed.update(values))
        return values - np.where(count > 0, median, 0.0) * count / (count + self.spans.baseline / 4)


def _enough(count: np.ndarray, span: int) -> np.ndarray:
    """Return how many steps of a span have a value; NaN where that is too few."""
    return np.where((count >= PRESENT_SHARE * span) & (count > 0), count, np.nan)


def _sum(parts: np.ndarray) -> np.ndarray:
    """Return the sum over the first axis term by term: numpy's own order depends on how many steps there are."""
    total = np.zeros(parts.shape[1:])
    for part in parts:
        total += part
    return total
