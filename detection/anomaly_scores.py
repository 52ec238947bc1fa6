"""Comparisons of forecast and observation in, one anomaly score a step out, by plain statistics.

The comparisons of a step are combined into components, each turned into a surprisal, -log10 of the
share of calibration time that is at least as anomalous:

    amplitude_drop   Stouffer's sum of a channel's ratio and low_range: less movement than expected
    error            of a channel, high side
    transient_error  of a channel, high side
    level            of a channel, high side
    pace             of a channel, high side: faster breathing than expected
    volume_drop      Stouffer's sum of a channel's ratio, low_range, volume_ratio and low_volume, as far as they are
                     there: shallow breathing, and a pause after a gap, before the forecasts say what to expect
    shared_transient of a channel, high side: all that measure the same are shaken
    joint            Mahalanobis distance of the first four comparisons of all channels from normal ones

The score is the largest surprisal, each component with a weight: a weighted Bonferroni rule. It
depends on no later step, and a channel without values is left out.

Sources: Stouffer et al., The American Soldier, 1949 (sum of normal scores); Ledoit and Wolf,
J. Multivariate Analysis 88, 2004 (covariance); Genovese, Roeder and Wasserman, Biometrika 93,
2006 (weighted p-values).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import ndtri

from config import SCORE_COMPONENTS as COMPONENTS
from detection.comparisons import (
    AMPLITUDE_FLOOR,
    ERROR,
    JOINED,
    LEVEL,
    LOW_RANGE,
    LOW_VOLUME,
    PACE,
    PRESENT_SHARE,
    RATIO,
    SHARED,
    TRANSIENT,
    VOLUME_RATIO,
    StepBuffer,
)
from detection.trailing import KnownRange, SpanMedian

TAIL_LEVEL = 0.98                       # calibration share below the exponential tail
KNOTS = 257                             # of a calibration distribution below its tail
MIN_TAIL_SCALE = 0.05                   # least e-folding of a tail; comparisons are logarithms
MAX_SURPRISAL = 50.0
MIN_CALIBRATION_STEPS = 50              # finite calibration steps that a component needs
MAX_CALIBRATION_STEPS = 200_000         # that a fit uses: of more, every second, third, ...
BLOCK_STEPS = 1 << 14                   # scored at once: bounds the memory
MAX_PATTERNS = 128                      # of missing comparisons whose inverse covariance is kept
COMPARED = {"error": ERROR, "transient_error": TRANSIENT, "level": LEVEL, "pace": PACE, "shared_transient": SHARED}
SUMMED = {"amplitude_drop": (RATIO, LOW_RANGE), "volume_drop": (RATIO, LOW_RANGE, VOLUME_RATIO, LOW_VOLUME)}


# ---- surprisal -------------------------------------------------------------------------------


def fit_tail(values: np.ndarray) -> dict | None:
    """Return the knots of a calibration distribution and the scale of its exponential tail; None = too few values.

    The scale is the mean excess over the 98 % quantile, so that surprisal extends beyond the values
    seen in calibration.
    """
    values = values[np.isfinite(values)]
    if len(values) < MIN_CALIBRATION_STEPS:
        return None
    knots = np.quantile(values, np.linspace(0.0, TAIL_LEVEL, KNOTS))
    excess = values[values > knots[-1]] - knots[-1]
    scale = float(excess.mean()) if len(excess) else 0.0
    return {"knots": knots.tolist(), "scale": max(scale, MIN_TAIL_SCALE)}


class Tails:
    """The calibration distributions of K columns, as `fit_tail` returns them."""

    def __init__(self, tails: Sequence[dict | None]) -> None:
        self.fitted = np.array([tail is not None for tail in tails], bool)           # (K,)
        self.scale = np.array([tail["scale"] if tail else 1.0 for tail in tails])
        knots = [tail["knots"] if tail else [np.nan] * KNOTS for tail in tails]
        self.negated_knots = -np.array(knots, float).reshape(len(tails), KNOTS)[:, ::-1]      # (K, KNOTS), rising
        self.share = 1 - np.linspace(0.0, TAIL_LEVEL, KNOTS)[::-1]                   # of values above each

    def surprisal(self, values: np.ndarray) -> np.ndarray:
        """Return -log10 of the share of calibration values >= each of values (T, K), 0 to 50; NaN stays NaN."""
        columns = np.ascontiguousarray(values.T)                                     # (K, T)
        known = np.isfinite(columns) & self.fitted[:, None]
        found = np.empty(columns.shape)
        for above, negated, knots in zip(found, -columns, self.negated_knots, strict=True):
            above[:] = np.interp(negated, knots, self.share)                         # of equal knots, the lowest counts
        beyond = np.maximum(columns + self.negated_knots[:, :1], 0.0) / (self.scale * np.log(10))[:, None]
        np.subtract(beyond, np.log10(found, out=found), out=found)
        return np.minimum(np.where(known, found, np.nan), MAX_SURPRISAL).T


def normal_scores(surprisals: np.ndarray) -> np.ndarray:
    """Return the normal quantile of each surprisal, -3 to 15."""
    return -ndtri(np.exp(-np.log(10) * np.clip(surprisals, 1e-3, MAX_SURPRISAL)))


class NormalScores:
    """Some of the comparisons, each a channel and its place on axis F, as normal scores.

    Args:
        tails: of all comparisons, by channel.
    """

    def __init__(self, tails: Sequence[Sequence[dict | None]], columns: Sequence[tuple[int, int]]) -> None:
        self.channels, self.places = np.array(columns, int).reshape(-1, 2).T
        self.tails = Tails([tails[c][f] for c, f in columns])

    def of(self, features: np.ndarray) -> np.ndarray:
        """Return the normal scores of features (T, C, F), NaN where they are not wanted; in memory (F, C, T)."""
        z = np.full(features.shape[::-1], np.nan).T
        z[:, self.channels, self.places] = normal_scores(self.tails.surprisal(features[:, self.channels, self.places]))
        return z


class JointDistance:
    """How far the first four comparisons of all channels, together, are from normal ones.

    Missing comparisons are left out: the distance is that of the others, divided by their number.
    """

    def __init__(self, calibration: Mapping) -> None:
        self.usable = np.array([tail is not None for row in calibration["tails"] for tail in row[:JOINED]])
        self.means = np.asarray(calibration["means"], float)
        self.covariance = np.asarray(calibration["covariance"], float)
        self._inverse = functools.lru_cache(MAX_PATTERNS)(self._invert)
        self._calibration = calibration

    def __reduce__(self) -> tuple[type[JointDistance], tuple[Mapping]]:
        return type(self), (self._calibration,)              # a cache cannot be pickled

    def distance(self, z: np.ndarray) -> np.ndarray:
        """Return the cube root of the squared Mahalanobis distance per comparison present (T,), of z (T, C, F)."""
        flat = _joined(z)[:, self.usable] - self.means                        # (T, K)
        known = np.isfinite(flat)
        distance = np.full(len(flat), np.nan)
        for pattern, rows in _patterns(known):
            if pattern.any():
                part = flat[rows][:, pattern]
                inverse = self._inverse(pattern.tobytes())
                scaled = np.einsum("tk,kl->tl", part, inverse)               # a product rounds by how many rows it has
                distance[rows] = (scaled * part).sum(axis=1) / pattern.sum()
        return np.cbrt(distance)                # near normal (Wilson and Hilferty, PNAS 17, 1931)

    def _invert(self, pattern: bytes) -> np.ndarray:
        present = np.frombuffer(pattern, bool)
        return np.linalg.inv(self.covariance[np.ix_(present, present)])


def _joined(z: np.ndarray) -> np.ndarray:
    """Return the normal scores (T, C, F) of the comparisons that are joined, side by side (T, K)."""
    return z[:, :, :JOINED].reshape(len(z), -1)


def _patterns(known: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return each distinct row (K,) of known (T, K) with the rows that equal it; packed bits sort fast."""
    packed = np.ascontiguousarray(np.packbits(known, axis=1))
    if (packed == packed[:1]).all():
        return [(known[0], np.arange(len(known)))] if len(known) else []
    rows = packed.view(f"V{packed.shape[1]}").ravel()
    _, first, which = np.unique(rows, return_index=True, return_inverse=True)
    return [(known[row], np.flatnonzero(which == k)) for k, row in enumerate(first)]


# ---- scores ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scores:
    """score (T,), NaN = none yet; the channel (T,) and component (T,) it comes from, -1 = none."""

    score: np.ndarray
    channel: np.ndarray
    component: np.ndarray


def fit_calibration(features: Sequence[np.ndarray]) -> dict:
    """Fit tails, spreads and covariance on the features of normal data, (T, C, F) each; return plain values.

    Of more than MAX_CALIBRATION_STEPS steps, every second, third, ... is used: neighbours are nearly alike.

    Raises: ValueError if no comparison of any channel has enough finite steps.
    """
    from sklearn.covariance import LedoitWolf

    stride = max(-(-sum(map(len, features)) // MAX_CALIBRATION_STEPS), 1)
    features = np.concatenate([part[::stride] for part in features])                 # (N, C, F)
    tails = [[fit_tail(features[:, c, f]) for f in range(features.shape[2])] for c in range(features.shape[1])]
    if all(tail is None for row in tails for tail in row):
        finite = int(np.isfinite(features).any(axis=(1, 2)).sum())
        raise ValueError(f"calibration steps with a comparison: {finite}; expected at least {MIN_CALIBRATION_STEPS}")
    z = NormalScores(tails, list(np.ndindex(features.shape[1:]))).of(features)       # (N, C, F)
    calibration: dict = {"tails": tails, "spread": _sum_spread(z), "means": [], "covariance": []}
    flat = _joined(z)[:, [tail is not None for row in tails for tail in row[:JOINED]]]
    complete = flat[np.isfinite(flat).all(axis=1)]
    if len(complete) > 2 * flat.shape[1]:
        fitted = LedoitWolf().fit(complete)
        calibration["means"], calibration["covariance"] = fitted.location_.tolist(), fitted.covariance_.tolist()
    joint = JointDistance(calibration) if calibration["covariance"] else None
    calibration["components"] = {
        name: [
            fit_tail(_component(name, k, features, z, calibration["spread"], joint))
            for k in range(1 if name == "joint" else features.shape[1])
        ]
        for name in COMPONENTS
        if name != "joint" or joint
    }
    return calibration


def resolve_weights(weights: Mapping[str, float], measures: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the weight of each component on each channel (C,), of `joint` (1,), scaled to a largest weight of 1.

    Args:
        weights: of "amplitude_drop", or of "amplitude_drop:airflow", which takes precedence; missing ones are 0. Of
            belts where nothing measures airflow, "amplitude_drop:effort_alone" comes before "amplitude_drop:effort".
        measures: what each channel measures.
    """

    def weight(name: str, kind: str) -> float:
        alone = [f"{name}:effort_alone"] if kind == "effort" and "airflow" not in measures else []
        return next((weights[key] for key in (*alone, f"{name}:{kind}", name) if key in weights), 0.0)

    resolved = {}
    for name in COMPONENTS:
        kinds = [""] if name == "joint" else measures
        resolved[name] = np.array([weight(name, kind) for kind in kinds])
    largest = max(values.max() for values in resolved.values())
    return {name: values / (largest or 1.0) for name, values in resolved.items()}


class Scorer:
    """Turns comparisons into scores with a calibration; a step alone gets the score it gets among others.

    Args:
        calibration: what `fit_calibration` returned.
        weights: what `resolve_weights` returned. A weight of 0.01 asks for a hundred times rarer
            evidence; 0 leaves a component out.
    """

    def __init__(self, calibration: Mapping, weights: Mapping[str, np.ndarray]) -> None:
        tails, components = calibration["tails"], calibration["components"]
        self.spread = calibration["spread"]
        is_joint = calibration["covariance"] and weights["joint"].any()
        self.joint = JointDistance(calibration) if is_joint else None
        fitted = [name for name in COMPONENTS if name in components]
        self.used = [(name, k) for name in fitted for k in np.flatnonzero(weights[name] > 0).tolist()]
        summed = {(k, f) for name, k in self.used for f in SUMMED.get(name, ())}
        joined = np.ndindex(len(tails), JOINED) if self.joint else ()
        self.normal_scores = NormalScores(tails, sorted(summed.union(joined)))
        self.component_tails = Tails([components[name][k] for name, k in self.used])
        self.component = np.array([COMPONENTS.index(name) for name, _ in self.used], np.int16)
        self.channel = np.array([k if name != "joint" else -1 for name, k in self.used], np.int16)
        self.log_weight = np.log10([weights[name][k] for name, k in self.used])
        amplitude = weights["amplitude_drop"] / (weights["amplitude_drop"].max() or 1.0)
        self.baseline_channels = np.flatnonzero(amplitude > 0)
        self.baseline_tails = Tails([tails[c][LOW_RANGE] for c in self.baseline_channels])
        self.baseline_log_weight = np.log10(amplitude[self.baseline_channels])

    def score(self, features: np.ndarray) -> Scores:
        """Return the largest weighted surprisal of each step of features (T, C, F)."""
        if len(features) <= BLOCK_STEPS:
            return self._score(features)
        scores = StepBuffer(len(features))
        for first in range(0, len(features), BLOCK_STEPS):
            scores.add(self._score(features[first : first + BLOCK_STEPS]))
        return scores.whole()

    def _score(self, features: np.ndarray) -> Scores:
        steps = len(features)
        if not self.used:
            none = np.full(steps, -1, np.int16)
            return Scores(np.full(steps, np.nan), none, none)
        z = self.normal_scores.of(features)
        columns = np.stack([_component(name, k, features, z, self.spread, self.joint) for name, k in self.used])
        surprisal = self.component_tails.surprisal(columns.T).T                       # (K, T)
        score, best = np.full(steps, -np.inf), np.zeros(steps, int)
        for k, weighted in enumerate(surprisal + self.log_weight[:, None]):
            higher = weighted > score
            score[higher], best[higher] = weighted[higher], k
        channel, known = self.channel[best], np.isfinite(score)
        if (channel < 0).any():
            channel = np.where(channel < 0, _most_anomalous_channel(z), channel).astype(np.int16)
        return Scores(
            np.where(known, np.maximum(score, 0.0), np.nan),
            np.where(known, channel, -1),
            np.where(known, self.component[best], -1),
        )

    def amplitude_baseline(self, features: np.ndarray) -> np.ndarray:
        """Return the score (T,) of the amplitude baseline: little movement, `low_range` alone.

        It uses no forecast. Channels have the weights of their `amplitude_drop`, divided by the largest of these.
        """
        channels = self.baseline_channels
        if not len(channels):
            return np.full(len(features), np.nan)
        surprisal = self.baseline_tails.surprisal(features[:, channels, LOW_RANGE]) + self.baseline_log_weight
        return np.fmax.reduce(np.maximum(surprisal, 0.0), axis=1)


def envelope_drop(observed: np.ndarray, span: int, reference: int) -> np.ndarray:
    """Return the score (T,) of the AASM-like rule for observed airflow (T, C), scaled, NaN = missing.

    It is the log of how far the range over the last `span` steps lies below its own median over the last `reference`
    steps; of several channels the largest counts. After the scoring of respiratory events by a drop of the flow's
    excursion against a pre-event baseline (Berry et al., J. Clin. Sleep Med. 8, 2012), looking back only.
    """
    channels = observed.shape[1]
    log_range = np.log(KnownRange(channels, span, PRESENT_SHARE).update(observed) + AMPLITUDE_FLOOR)
    median, _ = SpanMedian(channels, reference).update(log_range)
    return np.fmax.reduce(median - log_range, axis=1)


def series_baselines(observed: np.ndarray, span: int) -> dict[str, np.ndarray]:
    """Return the scores (T,) of two baselines without a model, for observed (T, C), scaled, NaN = missing.

    They are the sum of squares over the last `span` steps, and the difference from the last value.
    """
    squares = np.nansum(np.square(observed, dtype=float), axis=1)
    total = pd.Series(squares).rolling(span, min_periods=1).sum().to_numpy()
    steps = np.abs(np.diff(observed, axis=0, prepend=observed[:1]))
    return {"sum of squares": total, "difference from the last value": np.fmax.reduce(steps, axis=1)}


def _component(
    name: str, k: int, features: np.ndarray, z: np.ndarray, spread: Sequence[float], joint: JointDistance | None
) -> np.ndarray:
    """Return a component's raw statistic (T,) of channel k, or of all of them together.

    Args:
        z: the features' normal scores (T, C, F).
        spread: of each channel's sum of ratio and low_range (C,).
    """
    if name == "joint":
        return joint.distance(z)
    if name == "amplitude_drop":
        return (z[:, k, RATIO] + z[:, k, LOW_RANGE]) / spread[k]                     # NaN if one is missing
    if name == "volume_drop":
        return _present_sum([z[:, k, f] for f in SUMMED[name]])
    return features[:, k, COMPARED[name]]


def _present_sum(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Return Stouffer's sum (T,) of the normal scores (T,) that are there; NaN where none is."""
    count = sum(np.isfinite(part).astype(float) for part in parts)                   # one after the other: a step
    total = sum(np.where(np.isfinite(part), part, 0.0) for part in parts)            # alone gets the same bits
    return total / np.sqrt(np.where(count > 0, count, np.nan))


def _sum_spread(z: np.ndarray) -> list[float]:
    """Return the standard deviation of each channel's sum of ratio and low_range."""
    spread = []
    for c in range(z.shape[1]):
        total = z[:, c, : LOW_RANGE + 1].sum(axis=1)
        total = total[np.isfinite(total)]
        spread.append(float(total.std()) if len(total) > 1 and total.std() > 0 else 1.0)
    return spread


def _most_anomalous_channel(z: np.ndarray) -> np.ndarray:
    """Return the channel (T,) with the most squared normal scores, for the joint distance."""
    return np.nan_to_num(np.nansum(z[:, :, :JOINED] ** 2, axis=2)).argmax(axis=1)
