"""Everything behind a trained forecaster: states along recordings, scores, threshold, checkpoint.

A `Detector` needs no training data: it is calibrated once, frozen, and read back from one file of
tensors and plain values.
"""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import thresholds
from anomaly_scores import Scorer, Scores, fit_calibration, resolve_weights, series_rules
from comparisons import Comparisons, ComparisonStream, Gathered, Spans
from config import ExperimentConfig, ModelConfig, ScoreConfig, validate
from data_loader import Scaler
from lstm_model import StackedLSTM, State
from trailing import Stateful
from utils import DataError, write_bytes

FORMAT = 2
PIECE = 2048                             # steps of one pass: bounds the memory of the forecasts
TOGETHER = 16                           # recordings in one pass


@dataclass(frozen=True)
class Scored:
    """One recording, scored: all (T,) but residual and forecast (T, C), in physical units.

    rules: the scores of the rules without a model.
    """

    score: np.ndarray
    threshold: np.ndarray
    alarm: np.ndarray
    channel: np.ndarray
    component: np.ndarray
    residual: np.ndarray
    forecast: np.ndarray
    rules: dict[str, np.ndarray] = field(default_factory=dict)


def steps(seconds: float, rate_hz: float, least: int = 1) -> int:
    """Return a duration as a whole number of steps, at least `least`."""
    return max(round(seconds * rate_hz), least)


def horizon_of(model: ModelConfig, rate_hz: float) -> int:
    """Return the horizon H in steps."""
    return steps(model.horizon_s, rate_hz)


def warm_up_of(model: ModelConfig, rate_hz: float) -> int:
    """Return the warm-up in steps."""
    return steps(model.warm_up_s, rate_hz, least=0)


def spans_of(score: ScoreConfig, model: ModelConfig, rate_hz: float) -> Spans:
    """Return the spans of the comparisons in steps of a rate."""
    return Spans(
        warm_up=warm_up_of(model, rate_hz),
        settle=steps(score.settle_s, rate_hz),
        near=min(steps(score.near_s, rate_hz), horizon_of(model, rate_hz)),
        jolt=steps(score.jolt_s, rate_hz),
        error=steps(score.error_s, rate_hz),
        amplitudes=tuple(steps(span, rate_hz, least=2) for span in score.amplitude_s),
        expected=steps(score.expected_s, rate_hz),
        baseline=steps(score.baseline_s, rate_hz),
        level=steps(score.level_s, rate_hz),
    )


class Forecasts:
    """Carries the LSTM's state along several recordings at once: each step goes through once.

    On a CPU in float64, so that pieces of any size give the same scores to 1e-5 even where 32-bit
    rounding at a spike would show; it costs about five times the LSTM's time.
    """

    def __init__(self, model: StackedLSTM, device: str) -> None:
        self.type = torch.float64 if device == "cpu" else torch.float32
        self.model, self.device = copy.deepcopy(model).to(device, self.type).eval(), device
        self.state: State | None = None

    @torch.inference_mode()
    def update(self, observed: np.ndarray) -> np.ndarray:
        """Return the forecasts (B, n, H, C) at the next steps, observed (B, n, C), NaN = missing."""
        x = torch.from_numpy(np.ascontiguousarray(observed)).to(self.device, self.type)
        forecast, self.state = self.model(x, self.state)
        return forecast.cpu().numpy()

    def forget(self, first: int) -> None:
        """Let go of the first recordings: those left go on."""
        if self.state is not None and first:
            self.state = tuple(part[:, first:].contiguous() for part in self.state)

    def state_dict(self) -> dict[str, Any]:
        """Return the LSTM's state as arrays (layers, B, D); empty before the first step."""
        return {} if self.state is None else {f"{k}": part.cpu().numpy() for k, part in enumerate(self.state)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict()`. Raises ValueError if it belongs to another model."""
        lstm = self.model.lstm
        parts = [torch.as_tensor(np.asarray(part)) for part in state.values()]
        if parts and [part.shape for part in parts] != [(lstm.num_layers, 1, lstm.hidden_size)] * 2:
            raise ValueError("the state is of another model")
        self.state = tuple(part.to(self.device, self.type) for part in parts) or None


class Detector:
    """A trained forecaster with its scaler, calibration and frozen threshold."""

    def __init__(
        self,
        model: StackedLSTM,
        scaler: Scaler,
        units: Sequence[str],
        measures: Sequence[str],
        rate_hz: float,
        config: ExperimentConfig,
        device: str,
    ) -> None:
        self.model, self.scaler = model, scaler
        self.units, self.measures = tuple(units), tuple(measures)
        self.rate_hz, self.config, self.device = rate_hz, config, device
        self.spans = spans_of(config.score, config.model, rate_hz)
        self.weights = resolve_weights(config.score.weights, measures)
        self.calibration: dict[str, Any] = {}
        self.scorer: Scorer | None = None                        # None = not calibrated yet
        self.threshold: dict[str, Any] = {}
        self.rule_thresholds: dict[str, dict[str, Any]] = {}

    @property
    def channels(self) -> tuple[str, ...]:
        return self.scaler.channels

    def calibrate(self, normal: Sequence[np.ndarray]) -> list[Scores]:
        """Fit what turns comparisons into scores, and the thresholds, on normal data; freeze them.

        Args:
            normal: calibration stretches, (T, C) physical values each, NaN = missing.
        Returns: the scores of these stretches.
        Raises: DataError if there is too little of it.
        """
        features = [comparisons.features for comparisons in self.compare(normal)]
        method = self.config.threshold.method
        parameters = dict(self.config.threshold.parameters)
        try:
            self._use(fit_calibration(features))
            scores = [self.scorer.score(part) for part in features]
            self.threshold = thresholds.fit(method, [part.score for part in scores], **parameters)
            rules = [self._rules(self.scorer.rule(part), values) for part, values in zip(features, normal, strict=True)]
            self.rule_thresholds = {
                name: thresholds.fit(method, [one[name] for one in rules], **parameters) for name in rules[0]
            }
        except ValueError as error:
            raise DataError(f"calibration: {error}; give the val split more normal data") from None
        return scores

    def _use(self, calibration: dict[str, Any]) -> None:
        self.calibration = calibration
        self.scorer = Scorer(calibration, self.weights)

    def _rules(self, quiet: np.ndarray, values: np.ndarray) -> dict[str, np.ndarray]:
        """Return the scores (T,) of the rules without a model, for the scores of quiet (T,) and values (T, C).

        Little movement, where channels breathe; else two rules for any series.
        """
        if self.weights["drop"].any():
            return {"rule without a model": quiet}
        return series_rules(self.scaler.scaled(values), self.spans.level)

    def compare(self, recordings: Sequence[np.ndarray]) -> list[Comparisons]:
        """Return the comparisons of recordings of physical values (T, C), several at a time."""
        parts = [Gathered(len(values)) for values in recordings]
        for k, comparisons in self._pieces(recordings):
            parts[k].add(comparisons)
        return [part.whole() for part in parts]

    def _pieces(self, recordings: Sequence[np.ndarray]) -> Iterator[tuple[int, Comparisons]]:
        """Yield recordings piece by piece, compared: which one it is, and its next steps."""
        order = sorted(range(len(recordings)), key=lambda k: len(recordings[k]))
        for first in range(0, len(order), TOGETHER):
            yield from self._group_pieces(recordings, order[first : first + TOGETHER])

    def _group_pieces(
        self, recordings: Sequence[np.ndarray], group: list[int]
    ) -> Iterator[tuple[int, Comparisons]]:
        """Yield the pieces of some recordings, the shortest first, that go through the LSTM at once."""
        forecasts = Forecasts(self.model, self.device)
        streams = {k: self.new_comparisons() for k in group}
        for first in range(0, len(recordings[group[-1]]), PIECE):
            over = sum(len(recordings[k]) <= first for k in group)
            group = group[over:]
            forecasts.forget(over)
            pieces = [self.scaler.scaled(recordings[k][first : first + PIECE]) for k in group]
            observed = np.full((len(group), len(pieces[-1]), len(self.channels)), np.nan, np.float32)
            for row, piece in enumerate(pieces):
                observed[row, : len(piece)] = piece
            forecast = forecasts.update(observed)
            for row, (k, piece) in enumerate(zip(group, pieces, strict=True)):
                yield k, self.in_units(streams[k].update(piece, forecast[row, : len(piece)]))

    def in_units(self, comparisons: Comparisons) -> Comparisons:
        """Return comparisons with residual and forecast in physical units."""
        residual, forecast = comparisons.residual * self.scaler.scale, self.scaler.physical(comparisons.forecast)
        return Comparisons(comparisons.features, residual, forecast)

    def new_comparisons(self) -> ComparisonStream:
        """Return what compares a recording with its forecasts, from its first step on."""
        return ComparisonStream(len(self.channels), self.model.horizon, self.spans)

    def detect(self, recordings: Sequence[np.ndarray]) -> list[Scored]:
        """Return scores, thresholds and alarms of recordings of physical values (T, C).

        Of each step only these are kept, so that memory grows with little more than the recordings themselves.
        """
        parts = [Gathered(len(values)) for values in recordings]
        quiet: list[list[np.ndarray]] = [[] for _ in recordings]
        streams = [thresholds.ThresholdStream(self.threshold) for _ in recordings]
        for k, comparisons in self._pieces(recordings):
            parts[k].add(self.scored(comparisons, streams[k]))
            quiet[k].append(self.scorer.rule(comparisons.features))
        return [
            replace(parts[k].whole(), rules=self._rules(np.concatenate(quiet[k]), values))
            for k, values in enumerate(recordings)
        ]

    def scored(self, comparisons: Comparisons, threshold_stream: thresholds.ThresholdStream) -> Scored:
        """Return the next steps of a recording with their scores, thresholds and alarms; without rules."""
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
        )

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and plain values; `from_state` makes the same detector again."""
        return {
            "format": FORMAT,
            "model": {name: tensor.cpu() for name, tensor in self.model.state_dict().items()},
            "config": self.config.model_dump(),
            "channels": list(self.channels),
            "units": list(self.units),
            "measures": list(self.measures),
            "rate_hz": float(self.rate_hz),
            "scaler": {"center": self.scaler.center.tolist(), "scale": self.scaler.scale.tolist()},
            "calibration": self.calibration,
            "threshold": self.threshold,
            "rule_thresholds": self.rule_thresholds,
        }

    @classmethod
    def from_state(cls, state: dict[str, Any], device: str, where: str = "checkpoint") -> Detector:
        """Return the detector that a checkpoint's state describes.

        Raises: DataError if something is missing or does not fit together.
        """
        try:
            config = validate(ExperimentConfig, state["config"], where)
            channels, rate_hz = state["channels"], float(state["rate_hz"])
            center, scale = (np.array(state["scaler"][key], float) for key in ("center", "scale"))
            sizes = {len(channels), len(center), len(scale), len(state["measures"]), len(state["units"])}
            usable = np.isfinite(center).all() and np.isfinite(scale).all() and (scale > 0).all()
            if len(sizes) > 1 or not usable or not 0 < rate_hz < math.inf:
                raise ValueError("channels, scaler and rate_hz do not fit together")
            model = build_model(config.model, len(channels), rate_hz, dict(state["model"]))
            scaler = Scaler(tuple(channels), center, scale)
            detector = cls(model, scaler, state["units"], state["measures"], rate_hz, config, device)
            if state["calibration"]:
                detector._use(state["calibration"])
            detector.threshold, detector.rule_thresholds = state["threshold"], state["rule_thresholds"]
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise DataError(f"{where}: not a checkpoint of this program ({type(error).__name__}: {reason})") from None
        return detector


class DetectorStream(Stateful):
    """A recording as it comes: pieces of any size, single steps too, get the scores that `Detector.detect` gives."""

    STATE = ("forecasts", "comparisons", "threshold")

    def __init__(self, detector: Detector) -> None:
        self.detector = detector
        self.forecasts = Forecasts(detector.model, detector.device)
        self.restart()

    def restart(self) -> None:
        """Begin a new recording, or a new stretch of one behind a gap."""
        self.forecasts.state = None
        self.comparisons = self.detector.new_comparisons()
        self.threshold = thresholds.ThresholdStream(self.detector.threshold)

    def update(self, values: np.ndarray) -> Scored:
        """Return the next steps, physical values (n, C), NaN = missing, scored; without rules."""
        detector = self.detector
        observed = detector.scaler.scaled(values)
        comparisons = self.comparisons.update(observed, self.forecasts.update(observed[None])[0])
        return detector.scored(detector.in_units(comparisons), self.threshold)


def build_model(config: ModelConfig, channels: int, rate_hz: float, weights: dict | None = None) -> StackedLSTM:
    """Return the forecaster of a config, with the weights of a checkpoint where they are given.

    Raises: ValueError if the weights have other shapes; nothing large is allocated before that.
    """
    horizon = horizon_of(config, rate_hz)
    if weights is not None:
        with torch.device("meta"):
            expected = StackedLSTM(channels, config.hidden_units, config.num_layers, horizon).state_dict()
        found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
        if found != {name: tuple(tensor.shape) for name, tensor in expected.items()}:
            raise ValueError("the weights have other shapes than the config says")
    model = StackedLSTM(channels, config.hidden_units, config.num_layers, horizon, config.dropout)
    if weights is not None:
        model.load_state_dict(weights)
    return model


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint atomically; the same state gives the same bytes."""
    content = io.BytesIO()                                       # torch's own writing turns a full disk into no OSError
    torch.save(state, content)
    write_bytes(path, content.getbuffer())


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of tensors and plain values; anything else in it is refused.

    Raises: DataError naming the file.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; expected a checkpoint.pt")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = " ".join(str(error).split())[:120]
        raise DataError(f"{path.name}: not a readable checkpoint ({type(error).__name__}: {reason})") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise DataError(f"{path.name}: not a checkpoint of this program")
    return state


def load_calibrated(path: Path, device: str) -> tuple[dict[str, Any], Detector]:
    """Read a checkpoint whose training was finished; return its state and its detector.

    Raises: DataError naming the file.
    """
    state = load_checkpoint(path)
    detector = Detector.from_state(state, device, path.name)
    if not detector.threshold:
        raise DataError(f"{path.name}: its training was not finished, it has no threshold; resume the run first")
    return state, detector
