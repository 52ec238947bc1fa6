"""Forecast and fact in, one anomaly score a step out: statistics that anyone can read.

For every channel the network's expectation is compared with what came, in several ways:

    ratio   log amplitude expected - log amplitude observed, over each trailing span, less its own
            trailing median, since forecasts of an irregular breather are too small
    quiet   - log range observed, over the shortest span
    error   log RMS forecast error over all leads and the last second
    jolt    log error of the next steps' forecast, less its own trailing median
    level   log |trailing mean|, in the scaler's units: how far the level is from that of training

`ratio` and `quiet` do not care about phase: where breathing stops, a forecast of breathing and a
flat line differ in amplitude, while the error of a flat line is small. The comparisons join to
components, each turned into a surprise, -log10 of the share of calibration time that is at least
as strange:

    drop    Stouffer's sum of a channel's ratios and quiet: less movement than expected
    error   of a channel, high side
    jolt    of a channel, high side
    level   of a channel, high side
    joint   Mahalanobis distance of all other comparisons of all channels from normal ones

The score is the largest surprise, each component with a weight: a weighted Bonferroni rule. It
depends on no later step, and a channel without values takes no part.

Sources: Stouffer et al., The American Soldier, 1949 (sum of normal scores); Ledoit and Wolf,
J. Multivariate Analysis 88, 2004 (covariance); Genovese, Roeder and Wasserman, Biometrika 93,
2006 (weighted p-values).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import norm

from config import SCORE_COMPONENTS as COMPONENTS

AMPLITUDE_FLOOR = 0.02                  # scaled units: below it, a signal counts as flat
ERROR_FLOOR = 0.03                      # scaled units: smaller errors are rounding, not news
PRESENT_SHARE = 0.8                     # of a span's steps that must have a value
TAIL_LEVEL = 0.98                       # calibration share below the exponential tail
LEVEL_FLOOR = 0.1                       # scaled units: a level nearer to that of training is the same
LEAST_SCALE = 0.05                      # e-folding of a tail, at least; comparisons are logarithms
MOST_SURPRISE = 50.0
LEAST_STEPS = 50                        # finite calibration steps that a component needs
QUIET, ERROR, JOLT, LEVEL = -4, -3, -2, -1      # on the axis of the comparisons; the ratios come first


@dataclass(frozen=True)
class Spans:
    """How far the comparisons reach, all in steps.

    warm_up: forecasts not used at the start of a stretch. settle: a channel's forecasts are not
    used for so long after a value was missing. near: leads of `jolt`. baseline: of the medians.
    """

    warm_up: int
    settle: int
    near: int
    jolt: int
    error: int
    amplitudes: tuple[int, ...]
    expected: int
    baseline: int
    level: int

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the comparisons, in their order on the last axis (F)."""
        return (*(f"ratio_{k}" for k in range(len(self.amplitudes))), "quiet", "error", "jolt", "level")


@dataclass(frozen=True)
class Comparisons:
    """What the comparison of one recording with its forecasts gives, NaN where there is none yet.

    features (T, C, F), higher = stranger; residual (T, C), RMS over the leads; forecast (T, C) of
    each step, as it was made half a horizon before.
    """

    features: np.ndarray
    residual: np.ndarray
    forecast: np.ndarray


class ComparisonStream:
    """Compares one recording with its forecasts, piece by piece: pieces of any size give the same.

    It keeps the last steps that the trailing spans reach back to.
    """

    def __init__(self, channels: int, horizon: int, spans: Spans) -> None:
        self.spans, self.horizon = spans, horizon
        longest = max(spans.amplitudes)
        self.reach = max(longest + spans.expected, horizon + max(spans.error, spans.jolt), spans.settle, spans.level)
        self.seen = 0
        self.observed = np.full((0, channels), np.nan)
        self.expected = np.full((0, channels), np.nan)           # log amplitude of each forecast
        self.forecast = np.full((0, horizon, channels), np.nan)
        self.square = np.full((0, channels), np.nan)
        self.near_square = np.full((0, channels), np.nan)
        kinds = len(spans.amplitudes) + 1                        # those less their median
        self.usual = RunningMedians(channels * kinds, spans.baseline, lag=spans.amplitudes[0])

    def update(self, observed: np.ndarray, forecast: np.ndarray) -> Comparisons:
        """Take the next steps, observed (n, C) and forecast (n, H, C), scaled; NaN = missing."""
        n = len(observed)
        made = self._append(observed, forecast)
        features = self._features(n)
        residual = np.sqrt(self.square[-n:])
        self._forget()
        return Comparisons(features, residual, made[:, (self.horizon - 1) // 2])

    def _append(self, observed: np.ndarray, forecast: np.ndarray) -> np.ndarray:
        """Take the next n steps; return the forecasts made for them, one a lead (n, H, C)."""
        spans, n = self.spans, len(observed)
        self.observed = np.concatenate([self.observed, observed.astype(float)])
        settled = trailing_mean(np.isfinite(self.observed), spans.settle, 0.0)[-n:] >= 1 - 1e-9
        warm = self.seen + np.arange(n) >= spans.warm_up
        use = settled & warm[:, None]                                            # (n, C)
        forecast = np.where(use[:, None], forecast, np.nan)
        expected = np.log(forecast.std(axis=1) + AMPLITUDE_FLOOR)                # (n, C)
        self.expected = np.concatenate([self.expected, expected])
        self.forecast = np.concatenate([self.forecast, forecast])
        made = self._made_for(n)                                                 # (n, H, C)
        errors = self.observed[-n:, None] - made
        self.square = np.concatenate([self.square, (errors**2).mean(axis=1)])
        near = (errors[:, : spans.near] ** 2).mean(axis=1)
        self.near_square = np.concatenate([self.near_square, near])
        self.seen += n
        return made

    def _made_for(self, n: int) -> np.ndarray:
        """Return the forecasts that were made for the last n steps, one a lead (n, H, C)."""
        total, leads = len(self.forecast), np.arange(1, self.horizon + 1)
        origin = np.arange(total - n, total)[:, None] - leads                    # (n, H)
        made = self.forecast[np.maximum(origin, 0), leads - 1]                   # (n, H, C)
        made[origin < 0] = np.nan
        return made

    def _features(self, n: int) -> np.ndarray:
        spans = self.spans
        expected = trailing_median(self.expected, spans.expected, 0.3)
        ratios = []
        for span in spans.amplitudes:
            before = np.full_like(expected, np.nan)
            before[span:] = expected[:-span]
            amplitude = trailing_std(self.observed, span)
            ratios.append((before - np.log(amplitude + AMPLITUDE_FLOOR))[-n:])
        quiet = -np.log(trailing_range(self.observed, spans.amplitudes[0])[-n:] + AMPLITUDE_FLOOR)
        error = np.log(np.sqrt(trailing_mean(self.square, spans.error)[-n:]) + ERROR_FLOOR)
        jolt = np.log(np.sqrt(trailing_mean(self.near_square, spans.jolt)[-n:]) + ERROR_FLOOR)
        centered = self.usual.less_median(np.concatenate([*ratios, jolt], axis=1))
        *ratios, jolt = np.split(centered, len(spans.amplitudes) + 1, axis=1)
        level = np.log(np.abs(trailing_mean(self.observed, spans.level)[-n:]) + LEVEL_FLOOR)
        return np.stack([*ratios, quiet, error, jolt, level], axis=2)            # (n, C, F)

    def _forget(self) -> None:
        for name in ("observed", "expected", "square", "near_square"):
            setattr(self, name, getattr(self, name)[-self.reach :].copy())
        self.forecast = self.forecast[-self.horizon :].copy()


class RunningMedians:
    """Trailing medians of several columns, as they were `lag` steps ago.

    With little history a median is drawn to zero: a value is then compared with itself as it is.
    A median, because a cough or an apnea must not shift what counts as usual behind it.
    """

    def __init__(self, columns: int, span: int, lag: int) -> None:
        self.span, self.lag = span, lag
        self.past = np.full((0, columns), np.nan)

    def less_median(self, values: np.ndarray) -> np.ndarray:
        """Return values (n, K) less the median of the values before them; NaN stays NaN."""
        n = len(values)
        self.past = np.concatenate([self.past, values])
        old = np.full_like(self.past, np.nan)
        old[self.lag :] = self.past[: -self.lag]
        median = np.nan_to_num(trailing_median(old, self.span)[-n:])
        count = _trailing_count(old, self.span)[-n:]
        self.past = self.past[-(self.span + self.lag) :].copy()
        return values - median * count / (count + self.span / 4)


# ---- trailing windows -----------------------------------------------------------------------


def trailing_mean(x: np.ndarray, span: int, share: float = PRESENT_SHARE) -> np.ndarray:
    """Return the mean of the finite values among the last `span` rows of x (T, C), row by row.

    NaN in the first span - 1 rows, and where less than `share` of a span is finite.
    """
    known = np.isfinite(x)
    total = _window_sum(np.where(known, x, 0.0), span)
    count = _window_sum(known.astype(float), span)
    enough = (count >= share * span) & (count > 0)
    return np.where(enough, total / np.maximum(count, 1), np.nan)


def trailing_median(x: np.ndarray, span: int, share: float = 0.0) -> np.ndarray:
    """Return the median of the finite values among the last `span` rows of x (T, C), row by row.

    NaN where less than `share` of a span is finite, or nothing; the first rows have shorter spans.
    """
    least = max(int(np.ceil(share * span)), 1)
    return pd.DataFrame(x).rolling(span, min_periods=least).median().to_numpy()


def _trailing_count(x: np.ndarray, span: int) -> np.ndarray:
    """Return how many of the last `span` rows of x (T, C) are finite; the first spans are shorter."""
    total = np.concatenate([np.zeros((1, x.shape[1])), np.cumsum(np.isfinite(x), axis=0)])
    first = np.maximum(np.arange(1, len(x) + 1) - span, 0)
    return total[1:] - total[first]


def trailing_std(x: np.ndarray, span: int) -> np.ndarray:
    """Return the standard deviation over the last `span` rows of x (T, C), as `trailing_mean`."""
    mean = trailing_mean(x, span)
    return np.sqrt(np.maximum(trailing_mean(x**2, span) - mean**2, 0.0))


def trailing_range(x: np.ndarray, span: int) -> np.ndarray:
    """Return highest - lowest over the last `span` rows of x (T, C), as `trailing_mean`."""
    known = np.isfinite(x)
    high = _window_max(np.where(known, x, -np.inf), span)
    low = _window_max(np.where(known, -x, -np.inf), span)
    enough = np.isfinite(trailing_mean(x, span))
    with np.errstate(invalid="ignore"):
        return np.where(enough, high + low, np.nan)


def _window_sum(x: np.ndarray, span: int) -> np.ndarray:
    """Return sums over the last `span` rows (T, C) by doubling; the first span - 1 rows are NaN.

    Unlike differences of a running sum, they keep no rounding of what has left the span.
    """
    out = np.full(x.shape, np.nan)
    if len(x) < span:
        return out
    rows = len(x) - span + 1
    total, part, width, done = np.zeros((rows, x.shape[1])), x, 1, 0
    while True:
        if span & width:
            total += part[done : done + rows]
            done += width
        if done == span:
            break
        part, width = part[width:] + part[:-width], 2 * width
    out[span - 1 :] = total
    return out


def _window_max(x: np.ndarray, span: int) -> np.ndarray:
    """Return maxima over the last `span` rows (T, C) by doubling; the first span - 1 rows are NaN."""
    out = np.full(x.shape, np.nan)
    if len(x) < span:
        return out
    high, width = x, 1
    while 2 * width <= span:
        high, width = np.maximum(high[width:], high[:-width]), 2 * width
    rest = span - width
    out[span - 1 :] = np.maximum(high[rest:], high[: len(high) - rest]) if rest else high
    return out


# ---- surprise -------------------------------------------------------------------------------


def fit_tail(values: np.ndarray) -> dict | None:
    """Return knots of a calibration distribution with an exponential tail; None = too few values.

    The tail above the 98 % quantile has the mean excess as its scale, so that surprise can be read
    off beyond what calibration has seen.
    """
    values = values[np.isfinite(values)]
    if len(values) < LEAST_STEPS:
        return None
    shares = np.linspace(0.0, TAIL_LEVEL, 257)
    knots = np.quantile(values, shares)
    excess = values[values > knots[-1]] - knots[-1]
    scale = float(excess.mean()) if len(excess) else 0.0
    return {"knots": knots.tolist(), "scale": max(scale, LEAST_SCALE)}


def surprise(values: np.ndarray, tail: dict | None) -> np.ndarray:
    """Return -log10 of the share of calibration values >= each value, 0 to 50; NaN stays NaN."""
    if tail is None:
        return np.full(values.shape, np.nan)
    knots = np.asarray(tail["knots"])
    shares = np.linspace(0.0, TAIL_LEVEL, len(knots))
    body = -np.log10(np.interp(-values, -knots[::-1], 1 - shares[::-1]))      # of equal knots, the lowest
    beyond = np.maximum(values - knots[-1], 0.0) / (tail["scale"] * np.log(10))
    return np.minimum(np.where(np.isfinite(values), body + beyond, np.nan), MOST_SURPRISE)


def normal_scores(surprises: np.ndarray) -> np.ndarray:
    """Return the normal quantiles that a surprise stands for, -3 to 15."""
    share = 10.0 ** -np.clip(surprises, 1e-3, MOST_SURPRISE)
    return norm.isf(share)


@dataclass(frozen=True)
class Scores:
    """score (T,), NaN = none yet; the channel (T,) and component (T,) it comes from, -1 = none."""

    score: np.ndarray
    channel: np.ndarray
    component: np.ndarray


def fit_calibration(features: Sequence[np.ndarray]) -> dict:
    """Fit tails, correlations and covariance on normal features, (T, C, F) each; plain values.

    Raises: ValueError if no comparison of any channel has enough finite steps.
    """
    from sklearn.covariance import LedoitWolf

    every = np.concatenate(features)                                          # (N, C, F)
    tails = [[fit_tail(every[:, c, f]) for f in range(every.shape[2])] for c in range(every.shape[1])]
    if all(tail is None for row in tails for tail in row):
        finite = int(np.isfinite(every).any(axis=(1, 2)).sum())
        raise ValueError(f"{finite} calibration steps have a comparison; expected at least {LEAST_STEPS}")
    z = _normal_scores(every, tails)                                          # (N, C, F)
    state: dict = {"tails": tails, "spread": _sum_spread(z), "means": [], "covariance": []}
    flat, usable = _without_level(z), _usable(tails)                          # (N, K), (K,)
    whole = flat[:, usable][np.isfinite(flat[:, usable]).all(axis=1)]
    if len(whole) > 2 * usable.sum():
        fitted = LedoitWolf().fit(whole)
        state["means"], state["covariance"] = fitted.location_.tolist(), fitted.covariance_.tolist()
    components = _components(every, z, state)                                 # name -> (N, C or 1)
    state["components"] = {
        name: [fit_tail(column) for column in values.T] for name, values in components.items()
    }
    return state


def resolve_weights(weights: Mapping[str, float], measures: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the weight of each component on each channel (C,), of `joint` (1,); the largest is 1.

    Args:
        weights: of "drop", or of "drop:airflow", which goes first; missing ones are 0.
        measures: what each channel measures.
    """
    resolved = {}
    for name in COMPONENTS:
        kinds = [""] if name == "joint" else measures
        resolved[name] = np.array([weights.get(f"{name}:{kind}", weights.get(name, 0.0)) for kind in kinds])
    largest = max(values.max() for values in resolved.values())
    return {name: values / (largest or 1.0) for name, values in resolved.items()}


def compute_scores(features: np.ndarray, calibration: dict, weights: Mapping[str, np.ndarray]) -> Scores:
    """Return the weighted largest surprise of each step of features (T, C, F).

    Args:
        calibration: what `fit_calibration` returned.
        weights: what `resolve_weights` returned. A weight of 0.01 asks for a hundred times rarer
            evidence; 0 leaves a component out.
    """
    names, columns = [], []
    z = _normal_scores(features, calibration["tails"])
    for component, values in _components(features, z, calibration).items():
        tails = calibration["components"][component]
        for k, (column, tail, weight) in enumerate(zip(values.T, tails, weights[component], strict=True)):
            if weight > 0:
                columns.append(surprise(column, tail) + np.log10(weight))
                names.append((COMPONENTS.index(component), k if component != "joint" else -1))
    if not columns:
        nothing = np.full(len(features), -1)
        return Scores(np.full(len(features), np.nan), nothing, nothing)
    stacked = np.column_stack(columns)                                        # (T, K)
    best = np.where(np.isnan(stacked), -np.inf, stacked).argmax(axis=1)
    score = stacked[np.arange(len(stacked)), best]
    component, channel = np.array(names)[best].T
    if (channel < 0).any():
        channel = np.where(channel < 0, _strangest_channel(z), channel)
    known = np.isfinite(score)
    return Scores(
        np.where(known, np.maximum(score, 0.0), np.nan),
        np.where(known, channel, -1),
        np.where(known, component, -1),
    )


def rule_scores(features: np.ndarray, calibration: dict, weights: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the score (T,) of the rule without a model: little movement, `quiet` alone.

    It uses no forecast. Channels have the weights of their `drop`.
    """
    columns = []
    for c, weight in enumerate(weights["drop"]):
        if weight > 0:
            columns.append(surprise(features[:, c, QUIET], calibration["tails"][c][QUIET]) + np.log10(weight))
    if not columns:
        return np.full(len(features), np.nan)
    return np.fmax.reduce([np.maximum(column, 0.0) for column in columns])


def series_rules(observed: np.ndarray, span: int) -> dict[str, np.ndarray]:
    """Return the scores (T,) of two rules without a model, for observed (T, C), scaled, NaN = missing.

    They are the sum of squares over the last `span` steps, and the difference from the last value.
    """
    squares = np.nansum(np.square(observed, dtype=float), axis=1)
    total = pd.Series(squares).rolling(span, min_periods=1).sum().to_numpy()
    steps = np.abs(np.diff(observed, axis=0, prepend=observed[:1]))
    return {"sum of squares": total, "difference from the last value": np.fmax.reduce(steps, axis=1)}


def _components(features: np.ndarray, z: np.ndarray, state: dict) -> dict[str, np.ndarray]:
    """Return each component's raw statistic: drop, error, jolt, level (T, C), joint (T, 1).

    Args:
        z: the features' normal scores, as `_normal_scores` returns them.
    """
    parts = z[:, :, :ERROR]                                                   # ratios and quiet
    known = np.isfinite(parts)
    drop = np.where(known.all(axis=2), np.where(known, parts, 0.0).sum(axis=2), np.nan)
    drop = drop / np.asarray(state["spread"])
    components = {
        "drop": drop,
        "error": features[:, :, ERROR],
        "jolt": features[:, :, JOLT],
        "level": features[:, :, LEVEL],
    }
    if state["covariance"]:
        components["joint"] = _joint_distance(z, state)[:, None]
    return components


def _normal_scores(features: np.ndarray, tails: list) -> np.ndarray:
    z = np.full(features.shape, np.nan)
    for c, row in enumerate(tails):
        for f, tail in enumerate(row):
            z[:, c, f] = normal_scores(surprise(features[:, c, f], tail))
    return z


def _without_level(z: np.ndarray) -> np.ndarray:
    """Return the normal scores (T, C, F) of all comparisons but the level, side by side (T, K)."""
    return z[:, :, :LEVEL].reshape(len(z), -1)


def _usable(tails: list) -> np.ndarray:
    """Return which of these comparisons (K,) have a calibration."""
    return np.array([tail is not None for row in tails for tail in row[:LEVEL]])


def _sum_spread(z: np.ndarray) -> list[float]:
    """Return the standard deviation of each channel's sum of ratios and quiet."""
    spread = []
    for c in range(z.shape[1]):
        total = z[:, c, :ERROR].sum(axis=1)
        total = total[np.isfinite(total)]
        spread.append(float(total.std()) if len(total) > 1 and total.std() > 0 else 1.0)
    return spread


def _joint_distance(z: np.ndarray, state: dict) -> np.ndarray:
    """Return the cube root of the Mahalanobis distance squared a present comparison (T,).

    Missing comparisons are left out: the distance in those that are there, over their number.
    """
    flat = _without_level(z)[:, _usable(state["tails"])] - np.asarray(state["means"])      # (T, K)
    covariance = np.asarray(state["covariance"])
    known = np.isfinite(flat)
    patterns, which = np.unique(known, axis=0, return_inverse=True)
    distance = np.full(len(flat), np.nan)
    for k, pattern in enumerate(patterns):
        if not pattern.any():
            continue
        rows = np.flatnonzero(which.ravel() == k)
        part = flat[np.ix_(rows, pattern)]
        inverse = np.linalg.inv(covariance[np.ix_(pattern, pattern)])
        distance[rows] = np.einsum("ti,ij,tj->t", part, inverse, part) / pattern.sum()
    return np.cbrt(distance)                    # near normal (Wilson and Hilferty, PNAS 17, 1931)


def _strangest_channel(z: np.ndarray) -> np.ndarray:
    """Return the channel (T,) with the most squared normal scores, for the joint distance."""
    return np.nan_to_num(np.nansum(z[:, :, :LEVEL] ** 2, axis=2)).argmax(axis=1)
