"""What a trained model is used with: comparisons along recordings, scores, the frozen threshold.

A `Detector` needs no training data: it is calibrated once, frozen, and read back from one file of
tensors and plain values.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np

from config import load_profile
from data_loader import Scaler
from detection import thresholds
from detection.anomaly_scores import Scorer, Scores, envelope_drop, fit_calibration, series_baselines
from detection.comparisons import Comparisons, ComparisonStream, StepBuffer
from detection.event_rate import EventRule
from detection.forecasts import Block, Forecaster, ForecastStream, forecasts_of
from detection.resolved import ResolvedConfig
from lstm_model import StackedLSTM
from recordings.stateful import Stateful
from utils import DataError, one_thread_each

REFERENCE_S = 120.0                      # of the AASM-like rule: what the last minutes were like
Item, Result = TypeVar("Item"), TypeVar("Result")


@dataclass(frozen=True)
class Scored:
    """One recording, scored: all (T,) but residual, forecast and expected range (T, C), in physical units.

    baselines: the scores of the baselines without a model.
    """

    score: np.ndarray
    threshold: np.ndarray
    alarm: np.ndarray
    channel: np.ndarray
    component: np.ndarray
    residual: np.ndarray
    forecast: np.ndarray
    expected_range: np.ndarray
    baselines: dict[str, np.ndarray] = field(default_factory=dict)


class Detector:
    """A trained forecaster with its scaler, calibration and frozen threshold."""

    def __init__(self, model: StackedLSTM, scaler: Scaler, resolved: ResolvedConfig, device: str) -> None:
        self.model, self.scaler, self.resolved, self.device = model, scaler, resolved, device
        self.config, self.rate_hz = resolved.config, resolved.rate_hz
        self.channels, self.units = resolved.channels, resolved.units
        self.spans, self.weights = resolved.spans, resolved.weights
        self.calibration: dict[str, Any] = {}
        self.scorer: Scorer | None = None                        # None = not calibrated yet
        self.threshold: dict[str, Any] = {}
        self.baseline_thresholds: dict[str, dict[str, Any]] = {}

    def calibrate(self, normal: Sequence[np.ndarray]) -> list[Scores]:
        """Fit what turns comparisons into scores, and the thresholds, on normal data; freeze them.

        Args:
            normal: calibration segments, (T, C) physical values each, NaN = missing.
        Returns: the scores of these segments.
        Raises: DataError if there is too little of it.
        """
        features = [comparisons.features for comparisons in self.compare(normal)]
        try:
            self.use_calibration(fit_calibration(features))
            scores = [self.scorer.score(part) for part in features]
            self.threshold = self.fit_threshold([part.score for part in scores])
            low_range = [self.scorer.amplitude_baseline(part) for part in features]
            made = [self.baseline_scores(part, values) for part, values in zip(low_range, normal, strict=True)]
            self.baseline_thresholds = {name: self.fit_threshold([one[name] for one in made]) for name in made[0]}
        except ValueError as error:
            raise DataError(f"calibration: {error}; give the val split more normal data") from None
        return scores

    def fit_threshold(self, scores: Sequence[np.ndarray]) -> dict[str, Any]:
        """Return the config's threshold for the calibration scores of some detector, (T,) a recording."""
        chosen, events = self.config.threshold, self.config.events
        rule = EventRule(self.rate_hz, events.merge_gap_s, events.min_duration_s)
        return thresholds.fit(chosen.method, scores, rule, **chosen.parameters)

    def use_calibration(self, calibration: dict[str, Any]) -> None:
        self.calibration = calibration
        self.scorer = Scorer(calibration, self.weights)

    def baseline_scores(self, low_range: np.ndarray, values: np.ndarray) -> dict[str, np.ndarray]:
        """Return the scores (T,) of the baselines without a model, for the scores of low_range (T,) and values (T, C).

        Little movement, absolute and relative to the last minutes, where channels breathe; else two for any series.
        """
        weight, scaled = self.weights["amplitude_drop"], self.scaler.scaled(values)
        if not weight.any():
            return series_baselines(scaled, self.spans.level)
        airflow, reference = scaled[:, weight == weight.max()].astype(float), round(REFERENCE_S * self.rate_hz)
        return {
            "amplitude baseline": low_range,
            "AASM-like rule": envelope_drop(airflow, self.spans.amplitude, max(reference, 1)),
        }

    def use_profile(self, profile: str) -> None:
        """Score respiratory events by another profile; DataError if there is none of this name."""
        load_profile(profile)
        events = self.config.events.model_copy(update={"profile": profile})
        self.config = self.config.model_copy(update={"events": events})

    def new_forecaster(self) -> Forecaster:
        """Return the model as it is now, ready to go along recordings."""
        return Forecaster(self.model, self.device, self.resolved.window)

    def compare(self, recordings: Sequence[np.ndarray]) -> list[Comparisons]:
        """Return the comparisons of recordings of physical values (T, C), several at a time."""
        parts = [StepBuffer(len(values)) for values in recordings]
        self._go_along(recordings, lambda k, comparisons: parts[k].add(comparisons))
        return [part.whole() for part in parts]

    def _go_along(self, recordings: Sequence[np.ndarray], take: Callable[[int, Comparisons], None]) -> None:
        """Compare recordings with their forecasts; `take` gets which one and its next steps, each one's in order.

        Its calls for different recordings may come from several threads at once.
        """
        streams, forecaster = [self.new_comparisons() for _ in recordings], self.new_forecaster()

        def forecast(blocks: list[Block]) -> dict[int, list[tuple[Block, np.ndarray]]]:
            parts = [self.scaler.scaled(recordings[block.recording][block.start : block.last]) for block in blocks]
            by_recording = defaultdict(list)
            for block, changes in zip(blocks, forecaster.changes(blocks, parts), strict=True):
                by_recording[block.recording].append((block, changes))
            return by_recording

        def compare(k: int, made: list[tuple[Block, np.ndarray]]) -> None:
            for block, changes in made:
                scaled = self.scaler.scaled(recordings[k][block.first : block.last])         # (n, C)
                take(k, self.in_units(streams[k].update(scaled, forecasts_of(scaled, changes))))

        passes = forecaster.blocks([len(values) for values in recordings])
        with one_thread_each() as (pool, threads):
            several = threads if self.device == "cpu" else 1                             # a GPU is filled by one
            for made in ahead(pool, several, forecast, passes):
                list(pool.map(compare, made.keys(), made.values()))

    def in_units(self, comparisons: Comparisons) -> Comparisons:
        """Return comparisons with residual, forecast and expected range in physical units."""
        scale, forecast = self.scaler.scale, self.scaler.physical(comparisons.forecast)
        return Comparisons(
            comparisons.features, comparisons.residual * scale, forecast, comparisons.expected_range * scale
        )

    def new_comparisons(self) -> ComparisonStream:
        """Return what compares a recording with its forecasts, from its first step on."""
        return ComparisonStream(self.resolved.measures, self.model.horizon, self.spans, self.weights)

    def detect(self, recordings: Sequence[np.ndarray]) -> list[Scored]:
        """Return scores, thresholds and alarms of recordings of physical values (T, C).

        Of each step only these are kept, so that memory grows with little more than the recordings themselves.
        """
        parts = [StepBuffer(len(values)) for values in recordings]
        low_range: list[list[np.ndarray]] = [[] for _ in recordings]
        streams = [thresholds.ThresholdStream(self.threshold) for _ in recordings]

        def take(k: int, comparisons: Comparisons) -> None:
            parts[k].add(self.scored(comparisons, streams[k]))
            low_range[k].append(self.scorer.amplitude_baseline(comparisons.features))

        self._go_along(recordings, take)
        return [
            replace(parts[k].whole(), baselines=self.baseline_scores(np.concatenate(low_range[k]), values))
            for k, values in enumerate(recordings)
        ]

    def scored(self, comparisons: Comparisons, threshold_stream: thresholds.ThresholdStream) -> Scored:
        """Return the next steps of a recording with their scores, thresholds and alarms; without baselines."""
        scores = self.scorer.score(comparisons.features)
        threshold = threshold_stream.update(scores.score)
        return Scored(
            scores.score,
            threshold,
            thresholds.alarms(scores.score, threshold),
            scores.channel,
            scores.component,
            comparisons.residual,
            comparisons.forecast,
            comparisons.expected_range,
        )


class DetectorStream(Stateful):
    """A recording as it comes: pieces of any size, single steps too, get the scores that `Detector.detect` gives."""

    STATE = ("forecasts", "comparisons", "threshold")

    def __init__(self, detector: Detector) -> None:
        self.detector = detector
        self.forecasts = ForecastStream(detector.new_forecaster())
        self.restart()

    def restart(self) -> None:
        """Begin a new recording, or a new segment of one after a gap."""
        self.forecasts.restart()
        self.comparisons = self.detector.new_comparisons()
        self.threshold = thresholds.ThresholdStream(self.detector.threshold)

    def update(self, values: np.ndarray) -> Scored:
        """Return the next steps, physical values (n, C), NaN = missing, scored; without baselines."""
        detector = self.detector
        scaled = detector.scaler.scaled(values)
        forecast = forecasts_of(scaled, self.forecasts.update(scaled))
        comparisons = self.comparisons.update(scaled, forecast)
        return detector.scored(detector.in_units(comparisons), self.threshold)


def ahead(pool: Executor, several: int, job: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Yield the job's result for each item in order, while the pool works on the next several ones."""
    waiting: deque[Future[Result]] = deque()
    for item in items:
        waiting.append(pool.submit(job, item))
        if len(waiting) > several:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def build_model(resolved: ResolvedConfig) -> StackedLSTM:
    """Return the untrained forecaster of a config."""
    config = resolved.config.model
    sizes = (len(resolved.channels), config.hidden_units, config.num_layers, resolved.horizon)
    return StackedLSTM(*sizes, config.dropout)
