"""A config resolved for its data: every duration in steps, every weight by channel, checked when it is made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from config import ExperimentConfig, load_profile
from detection.anomaly_scores import resolve_weights
from detection.comparisons import FORECAST_SHARE, Spans
from detection.forecasts import BURN_INS_PER_BLOCK, MIN_BURN_IN

MAX_SPAN = 1_000_000                     # steps: a trailing span is kept in memory
MAX_BYTES = 4e9                          # of memory that grows with a duration


@dataclass(frozen=True)
class ResolvedConfig:
    """All that defines a detector but its weights; `resolve` makes it.

    Attributes:
        config: the experiment's config, every duration in seconds.
        channels, units, measures: name, unit and what it measures, of each channel (C,).
        rate_hz: steps a second.
        horizon, warm_up, window: steps forecast ahead; without a score at the start; of a training window.
        spans: of the comparisons, in steps.
        weights: of each component of the score by channel, `joint` (1,), all others (C,).
    """

    config: ExperimentConfig
    channels: tuple[str, ...]
    units: tuple[str, ...]
    measures: tuple[str, ...]
    rate_hz: float
    horizon: int
    warm_up: int
    window: int
    spans: Spans
    weights: dict[str, np.ndarray]

    @property
    def min_steps(self) -> int:
        """How many steps a segment needs: warm-up, horizon and one to forecast from."""
        return self.warm_up + self.horizon + 1

    def steps_until_scored(self) -> dict[str, int]:
        """Return how many steps a segment needs before a component with a weight has a value."""
        spans = self.spans
        steps = {
            "amplitude_drop": self.warm_up + spans.amplitude + round(FORECAST_SHARE * spans.expected),
            "error": max(self.warm_up + self.horizon, spans.error),
            "transient_error": max(self.warm_up + spans.near, spans.transient),
            "level": spans.level,
        }
        steps["pace"], steps["shared_transient"] = steps["amplitude_drop"], steps["transient_error"]
        steps["volume_drop"] = spans.amplitude
        return {name: count for name, count in steps.items() if self.weights[name].any()}


def resolve(
    config: ExperimentConfig, channels: Sequence[str], units: Sequence[str], measures: Sequence[str], rate_hz: float
) -> ResolvedConfig:
    """Return a config resolved for data of some channels at a rate.

    Raises: ValueError with the key, what was found and what would be right, if they do not fit together or scoring
        would need more than MAX_BYTES. DataError if there is no such profile.
    """
    config = config.in_seconds(rate_hz)
    load_profile(config.events.profile)
    model, score = config.model, config.score

    def steps(seconds: float, least: int = 1) -> int:
        return max(round(seconds * rate_hz), least)

    for key, value in score:
        longest = rate_hz * value if key.endswith("_s") else 0
        if longest > MAX_SPAN:
            raise ValueError(f"score.{key} is {longest:g} steps of {1 / rate_hz:g} s; expected at most {MAX_SPAN}")
    weights = resolve_weights(score.weights, measures)
    if not any(weight.any() for weight in weights.values()):
        raise ValueError(
            f"score.weights: none is for a channel of {config.dataset.name}; they measure {measures}; expected such as "
            f'"error:{measures[0]}": 1.0'
        )
    horizon, warm_up = steps(model.horizon_s), steps(model.warm_up_s, least=0)
    spans = Spans(
        warm_up=warm_up,
        settle=steps(score.settle_s),
        near=min(steps(score.near_s), horizon),
        transient=steps(score.transient_s),
        error=steps(score.error_s),
        amplitude=steps(score.amplitude_s, least=2),
        expected=steps(score.expected_s),
        baseline=steps(score.baseline_s),
        level=steps(score.level_s),
    )
    _check_memory(horizon, spans, len(channels))
    window, names = steps(config.training.window_s), (tuple(channels), tuple(units), tuple(measures))
    return ResolvedConfig(config, *names, float(rate_hz), horizon, warm_up, window, spans, weights)


def _check_memory(horizon: int, spans: Spans, channels: int) -> None:
    """Raise ValueError if a part of scoring that grows with a duration would not fit into memory."""
    longest = max(vars(spans).values())
    parts = {
        "model.horizon": 8 * channels * horizon * (horizon + (1 + BURN_INS_PER_BLOCK) * MIN_BURN_IN),
        "the longest span of score": 8 * channels * 6 * longest,
    }
    for part, needed in parts.items():
        if not needed <= MAX_BYTES:
            raise ValueError(f"{part} needs {needed / 1e9:.3g} GB of memory; expected at most {MAX_BYTES / 1e9:g}")
